"""``jit``: traced once for what a function means, never a silent return to eager, one warning where nothing can be compiled."""

from __future__ import annotations

import concurrent.futures
import re
import warnings

import pytest
import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import loops, transforms
from funcebm._torch import jitting, lowering, programs, workers

from .helpers import compiles_nothing, counted

compiled = pytest.mark.compiled


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(transforms, "_why_eager", lambda: "the moon is full")
    jitting.warn_once.cache_clear()
    yield
    jitting.warn_once.cache_clear()


# -- when it traces -----------------------------------------------------------------------------------------------


@compiled
@pytest.mark.usefixtures("op_by_op")
def test_twelve_closures_of_one_factory_are_all_traced():
    """Dynamo compiled eight functions of one code object, and then ran the others eagerly without a word."""

    def scaled(k):
        return lambda x: k * x if loops.is_compiling() else torch.full_like(x, torch.nan)

    with counted() as counts:
        for k in range(12):
            assert float(ebm.jit(scaled(k))(torch.ones(()))) == k
    assert counts.traces == 12
    with compiles_nothing():
        for k in range(12):
            assert float(ebm.jit(scaled(k))(torch.tensor(2.0))) == 2 * k


@compiled
def test_a_second_call_compiles_nothing():
    def function(params, x):
        return params["a"] * x, {"sum": x.sum()}

    jitted = ebm.jit(function)
    first = jitted({"a": torch.tensor(2.0)}, torch.ones(3))
    with compiles_nothing():
        second = jitted({"a": torch.tensor(5.0)}, torch.zeros(3))
        with torch.no_grad():
            jitted({"a": torch.tensor(5.0)}, torch.zeros(3))
        jitted({"a": torch.tensor(5.0, requires_grad=True)}, torch.zeros(3, 2)[:, 0])
    assert first[0].tolist() == [2, 2, 2]
    assert second[1]["sum"] == 0


SOURCE = """
def make(offset):
    factor = 3.0
    def helper(x):
        return factor * x.sin()
    return lambda x: helper(x) + offset
"""


def _defined(source, file_name):
    namespace = {}
    exec(compile(source, file_name, "exec"), namespace)
    return namespace["make"](torch.tensor(1.0))


@compiled
@pytest.mark.usefixtures("op_by_op")
def test_what_says_the_same_elsewhere_is_not_traced_again():
    """A file that was edited above, comments, a docstring, a cell of a notebook that is run again."""
    commented = SOURCE.replace("    factor", '    "What a docstring says."\n\n    # what a comment says\n    factor')
    x = torch.ones(3)
    expected = ebm.jit(_defined(SOURCE, "one.py"))(x)
    with compiles_nothing():
        for number, text in enumerate((SOURCE, commented, 40 * "\n" + SOURCE)):
            assert torch.equal(ebm.jit(_defined(text, f"cell {number}"))(x), expected)
    with counted() as counts:
        other = ebm.jit(_defined(SOURCE.replace("sin", "cos"), "one.py"))(x)
    assert counts.traces == 1
    torch.testing.assert_close(other, 3 * x.cos() + 1)


@compiled
@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((torch.ones(3),), (torch.ones(4),)),
        ((torch.ones(3),), (torch.ones(3, dtype=torch.float64),)),
        ((torch.ones(3),), ([torch.ones(3)],)),
        ((torch.ones(3), 2), (torch.ones(3), 3)),
        ((torch.ones(3), 2), (torch.ones(3), 2.0)),
        ((torch.ones(3), 1), (torch.ones(3), True)),
        ((torch.ones(3), "sum"), (torch.ones(3), "mean")),
    ],
    ids=["shape", "dtype", "structure", "number", "type", "flag", "word"],
)
def test_what_is_no_number_of_a_tensor_is_a_constant_of_its_own_trace(first, second):
    def function(x, option=None):
        x = x[0] if isinstance(x, list) else x
        return (getattr(x, option)() if isinstance(option, str) else x * (option or 1)), option

    for arguments in (first, second, first, second):
        got, expected = ebm.jit(function)(*arguments), function(*arguments)
        torch.testing.assert_close(got[0], expected[0])
        assert (got[1], type(got[1])) == (expected[1], type(expected[1]))
    with counted() as counts:
        ebm.jit(function)(*first)
    assert counts.traces == 0


@compiled
@pytest.mark.usefixtures("op_by_op")
def test_the_default_dtype_is_part_of_a_trace():
    def function(x):
        return x + torch.full((), 0.1)

    x = torch.ones(2, dtype=torch.int32)
    assert ebm.jit(function)(x).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert ebm.jit(function)(x).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@compiled
def test_equal_graphs_share_machine_code_whatever_their_names():
    def one(x):
        return x.sin() * 7 - 1

    def other(argument):
        sines = torch.sin(argument)
        return sines * 7 - 1

    x = torch.ones(3)
    expected = ebm.jit(one)(x)
    with counted() as counts:
        assert torch.equal(ebm.jit(other)(x), expected)
    assert (counts.traces, counts.programs) == (1, 0)


@compiled
@pytest.mark.usefixtures("op_by_op")
def test_no_more_functions_are_kept_than_a_bound(monkeypatch):
    monkeypatch.setattr(jitting, "_KEPT", 3)
    functions = [ebm.jit(lambda x, k=k: x + k) for k in range(5)]
    for _ in range(2):
        assert [float(function(torch.ones(()))) for function in functions] == [1, 2, 3, 4, 5]
        assert len(jitting._cache) == 3


@compiled
def test_no_more_programs_are_kept_than_a_bound(monkeypatch):
    monkeypatch.setattr(programs, "_KEPT", 1)
    first, second = ebm.jit(lambda x: x + 2), ebm.jit(lambda x: x + 3)
    for _ in range(2):
        assert [float(first(torch.ones(()))), float(second(torch.ones(())))] == [3, 4]
    assert len(programs._programs) == 1


# -- where it stands ----------------------------------------------------------------------------------------------


@compiled
@pytest.mark.usefixtures("op_by_op")
def test_inside_of_a_transform_or_of_another_jit_it_does_nothing():
    jitted = ebm.jit(lambda x: (x**3).sum())
    x = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(grad(jitted)(x), 3 * x**2)
    torch.testing.assert_close(vmap(jitted)(x), x**3)
    with counted() as counts:
        torch.testing.assert_close(ebm.jit(lambda x: 2 * jitted(x))(x), torch.tensor(18.0))
    assert counts.traces == 1


def test_jit_keeps_the_name_and_the_words_of_its_function():
    def named(x):
        """Says so."""
        return 2 * x

    jitted = ebm.jit(named)
    assert jitted.__name__ == "named"
    assert jitted.__doc__ == "Says so."


@compiled
def test_results_carry_no_graph_of_derivatives_and_are_no_arguments():
    x = torch.ones(3, requires_grad=True)
    result, same = ebm.jit(lambda x: (2 * x, x))(x)
    assert not result.requires_grad
    assert not same.requires_grad
    same.add_(1)
    assert x.tolist() == [1, 1, 1]


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_there_is_one_warning_and_the_same_result():
    double, triple = ebm.jit(lambda x: 2 * x), ebm.jit(lambda x: 3 * x)
    with pytest.warns(RuntimeWarning, match="runs eagerly: the moon is full") as caught:
        assert float(double(torch.ones(()))) == 2
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(double(torch.ones(()))) == 2
        assert float(triple(torch.ones(()))) == 3


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_chains_run_as_with_jit_false():
    sampler = ebm.samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)

    def run(**options):
        return ebm.sample(
            ebm.random.key(0), sampler, (), torch.zeros(2, 2), **{"num_samples": 3, "jit": True, **options}
        )

    with pytest.warns(RuntimeWarning, match="runs eagerly"):
        got = run()
    assert torch.equal(got.draws, run(jit=False).draws)


# -- what a function closes over ----------------------------------------------------------------------------------


@compiled
@pytest.mark.usefixtures("op_by_op")
def test_a_function_that_closes_over_a_name_not_yet_bound_is_told_from_others():
    def inner(x):
        return later(x)

    with pytest.raises(NameError):
        ebm.jit(inner)(torch.ones(2))
    later = torch.sin
    torch.testing.assert_close(ebm.jit(inner)(torch.ones(2)), torch.ones(2).sin())
    later = torch.cos
    torch.testing.assert_close(ebm.jit(inner)(torch.ones(2)), torch.ones(2).cos())


TURNS = {
    "T": (lambda m: m.T, lambda m: m),
    "mT": (lambda m: m.mT, lambda m: m),
    "t": (lambda m: m.t(), lambda m: m),
    "closed over transposed": (lambda m: m, lambda m: m.T),
    "a slice": (lambda m: m, lambda m: torch.cat([m, m], 1)[:, 1:3]),
    "expanded": (lambda m: m, lambda m: m[:1].expand(2, 2)),
}


@compiled
@pytest.mark.parametrize("name", list(TURNS))
def test_a_gradient_in_a_loop_may_close_over_a_matrix_however_it_lies_in_memory(name):
    turn, prepared = TURNS[name]
    matrix = prepared(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    xs = torch.tensor([[1.0, -1.0], [0.5, 2.0]])

    def function(start):
        def body(x, y):
            slope = vmap(grad(lambda z: ((turn(matrix) @ z - y) ** 2).sum()))(x)
            return x - 0.01 * slope

        return loops.fold(body, start, xs)

    start = torch.tensor([[1.0, 2.0], [-1.0, 0.3], [0.0, 1.0]])
    torch.testing.assert_close(ebm.jit(function)(start), function(start))


@compiled
def test_aliases_among_arguments_results_and_what_is_closed_over():
    outside = torch.arange(6.0).reshape(2, 3)
    row = outside[0]

    def function(x, y, z):
        return x + outside.sum(), y, x, row, outside.T, z[0] * row, torch.stack([x, y])

    x = torch.tensor([1.0, 2.0, 3.0])
    arguments = (x, x, torch.stack([x, x]))
    got, expected = ebm.jit(function)(*arguments), function(*arguments)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    for result in got:
        result.fill_(-1)
    assert x.tolist() == [1, 2, 3]
    assert outside.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    for a, b in zip(ebm.jit(function)(x, x, torch.stack([x, x])), expected, strict=True):
        torch.testing.assert_close(a, b)


@compiled
def test_constants_of_an_energy_compile_in_any_loop():
    """Compiled MALA and HMC once ended in an error of the C++ compiler over twenty indices made in the energy."""

    def energy(params, x):
        indices = torch.tensor([i * 7 % 20 for i in range(20)])
        weights = torch.tensor([0.1 * i for i in range(20)])
        return (weights * (x[indices] - x) ** 2).sum() + (x**2).sum() / 2 + torch.tensor(0.5) * x[3]

    positions = ebm.random.normal(ebm.random.key(0), (3, 20))
    for make in (ebm.samplers.mala, ebm.samplers.hmc):
        sampler = make(energy, step_size=0.05)
        run = [ebm.sample(ebm.random.key(1), sampler, (), positions, num_samples=3, jit=jit) for jit in (True, False)]
        torch.testing.assert_close(run[0].draws, run[1].draws, rtol=1e-4, atol=1e-5)


# -- the code -----------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("width", [8, 16], ids=["narrower than a vector", "as wide as a vector"])
def test_threads_start_outside_of_loops(width, monkeypatch):
    monkeypatch.setattr(lowering, "SHARED_FROM", 2**13)
    with counted() as counts:
        ebm.jit(lambda x: x.sin().sum(1))(torch.ones(32, 300, width))
    kernels = counts.sources[0].split("static void kernel0(")[1]
    starts = [
        line.lstrip() for line in kernels.splitlines() if re.match(r"\s*(#pragma omp parallel|for ?\(int64_t x0)", line)
    ]
    assert starts[0].startswith("#pragma omp parallel")


@compiled
@pytest.mark.parametrize(("rows", "is_shared"), [(2**14, False), (2**17, True)], ids=["short", "long"])
def test_threads_share_only_what_takes_longer_than_they_may_wait(rows, is_shared):
    """A second thread that another process keeps waiting costs milliseconds, at each loop that it has a part in."""
    with counted() as counts:
        ebm.jit(lambda x: x.sin() * 2)(torch.ones(rows, 64))
    assert ("#pragma omp parallel" in counts.sources[0].split("static void kernel0(")[1]) == is_shared


def test_a_thread_that_has_not_begun_is_not_waited_for(monkeypatch):
    class Busy:
        """Threads that never find a processor."""

        def submit(self, work):
            return concurrent.futures.Future()

    monkeypatch.setattr(workers, "_workers", Busy)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert transforms.run_all([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
