"""``jit``: a code object for each function, no silent return to eager, one warning where nothing can be compiled."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import funcebm as ebm
from funcebm import compiler_repairs, loops, threefry, transforms, tree

needs_compiler = pytest.mark.skipif(not transforms.can_compile(), reason="there is no compiler")


@pytest.fixture
def eager_backend(monkeypatch):
    """Dynamo as ever, but nothing is made of its graphs: fast, and all that these statements are about."""
    monkeypatch.setattr(transforms, "_backend", lambda device: "eager")


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(transforms, "_why_eager", lambda: "the moon is full")
    transforms._warn_once.cache_clear()
    yield
    transforms._warn_once.cache_clear()


def _factory(k: int):
    seen = []

    def function(x):
        seen.append(torch.compiler.is_compiling())
        return k * x

    return function, seen


@needs_compiler
@pytest.mark.usefixtures("eager_backend")
def test_twelve_closures_of_one_factory_all_compile():
    """Dynamo compiles eight functions of one code object, and then runs the others eagerly without a word."""
    for k in range(12):
        function, seen = _factory(k)
        assert float(ebm.jit(function)(torch.ones(()))) == k
        assert seen == [True]


@needs_compiler
@pytest.mark.usefixtures("eager_backend")
def test_a_second_call_compiles_nothing():
    def function(params, x):
        return params["a"] * x, {"sum": x.sum()}

    jitted = ebm.jit(function)
    first = jitted({"a": torch.tensor(2.0)}, torch.ones(3))
    with torch.compiler.set_stance("fail_on_recompile"):
        second = jitted({"a": torch.tensor(5.0)}, torch.zeros(3))
        with torch.no_grad():
            jitted({"a": torch.tensor(5.0)}, torch.zeros(3))
    assert first[0].tolist() == [2, 2, 2]
    assert second[1]["sum"] == 0


@needs_compiler
@pytest.mark.usefixtures("eager_backend")
def test_what_cannot_be_compiled_whole_is_an_error_and_not_a_silent_return_to_eager():
    def branches_on_a_number(x):
        return x if float(x.sum()) > 0 else -x

    with pytest.raises((torch._dynamo.exc.Unsupported, torch._dynamo.exc.UserError)):
        ebm.jit(branches_on_a_number)(torch.ones(2))


@needs_compiler
@pytest.mark.usefixtures("eager_backend")
def test_an_error_of_the_users_own_function_says_what_it_said():
    def function(x):
        raise ValueError("these are not the droids you are looking for")

    with pytest.raises(Exception, match="these are not the droids"):
        ebm.jit(function)(torch.ones(2))


def test_jit_runs_without_autograd_and_with_the_name_of_its_function():
    def named(x):
        """Says so."""
        return 2 * x

    jitted = ebm.jit(named)
    assert jitted.__name__ == "named"
    assert jitted.__doc__ == "Says so."


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
def test_without_a_compiler_chains_run_as_with_jit_false(monkeypatch):
    sampler = ebm.samplers.mala(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    run = lambda **options: ebm.sample(  # noqa: E731
        ebm.random.key(0), sampler, (), torch.zeros(2, 2), num_samples=3, **options
    )
    monkeypatch.setattr(threefry, "_compile_kernel", None)
    with pytest.warns(RuntimeWarning, match="runs eagerly"):
        got = run()
    assert torch.equal(got.draws, run(jit=False).draws)


def test_dynamic_axis_changes_nothing():
    xs = {"a": torch.ones(4, 2), "b": torch.ones(1)}
    assert transforms.dynamic_axis(xs) is xs
    assert tree.batch_size(xs) == 4


def test_a_function_that_closes_over_a_name_not_yet_bound_is_told_from_others():
    def make_inner():
        def inner(x):
            return later(x)

        known = transforms.jit_once(lambda function: function, inner)
        later = torch.sin
        return known, later

    assert make_inner()[0] is not make_inner()[0]


def _with_products_turned(function, *shapes):
    arguments = [torch.randn(shape) for shape in shapes]
    traced = make_fx(lambda *x: list(function(*x)), tracing_mode="fake")(*arguments)
    compiler_repairs.turn_products(traced.graph)
    traced.recompile()
    for got, expected in zip(traced(*arguments), function(*arguments), strict=True):
        torch.testing.assert_close(got, expected)
        assert got.stride() == expected.stride()
    return [node for node in traced.graph.nodes if node.target is torch.ops.aten.mm.default]


def test_a_matrix_product_that_is_only_read_transposed_is_turned():
    def function(a, b, c):
        read_both_ways = a @ c
        turned = (a @ b).permute(1, 0).sin(), (b.permute(1, 0) @ c).permute(1, 0) + 1
        return *(leaf.contiguous() for leaf in turned), read_both_ways.permute(1, 0).contiguous(), read_both_ways + 1

    mm = _with_products_turned(function, (3, 4), (4, 5), (4, 2))
    assert [tuple(node.meta["val"].shape) for node in mm] == [(3, 2), (5, 3), (2, 5)]
    for node in mm[1:]:
        assert node.meta["val"].is_contiguous()
        assert all(user.target is not torch.ops.aten.permute.default for user in node.users)


def test_a_matrix_product_of_few_columns_is_turned_and_keeps_the_strides_of_outputs():
    def function(a, b, c):
        return (a @ b).sin(), a @ b @ c, (a @ b).T.contiguous()

    mm = _with_products_turned(function, (20, 30), (30, 3), (3, 40))
    assert [tuple(node.meta["val"].shape) for node in mm] == [(3, 20), (3, 20), (20, 40), (3, 20)]


def test_what_is_computed_twice_from_the_same_is_computed_once():
    def function(x, y):
        return x.sigmoid() * y.sigmoid() + x.sigmoid(), torch.rand_like(x) + torch.rand_like(x)

    traced = make_fx(lambda *x: list(function(*x)), tracing_mode="fake")(torch.ones(3), torch.ones(3))
    compiler_repairs.share_equal_nodes(traced.graph)
    targets = [node.target for node in traced.graph.nodes]
    assert targets.count(torch.ops.aten.sigmoid.default) == 2
    assert targets.count(torch.ops.aten.rand_like.default) == 2


@needs_compiler
@pytest.mark.usefixtures("eager_backend")
@pytest.mark.parametrize("turn", [lambda m: m.T, lambda m: m.mT], ids=["T", "mT"])
def test_a_gradient_in_a_loop_may_close_over_a_matrix_and_transpose_it(turn):
    matrix, xs = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[1.0, -1.0], [0.5, 2.0]])

    def function(start):
        def body(x, y):
            slope = torch.func.vmap(torch.func.grad(lambda z: ((turn(matrix) @ z - y) ** 2).sum()))(x)
            return x - 0.01 * slope

        return loops.fold(body, start, xs)

    start = torch.tensor([[1.0, 2.0], [-1.0, 0.3], [0.0, 1.0]])
    torch.testing.assert_close(ebm.jit(function)(start), function(start))


@needs_compiler
@pytest.mark.parametrize("is_dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("width", [8, 16], ids=["narrower than a vector", "as wide as a vector"])
def test_threads_start_outside_of_loops(width, is_dynamic):
    inductor = pytest.importorskip("torch._inductor")
    compiled, x = ebm.jit(lambda x: x.sin().sum(1)), torch.ones(32, 300, width)
    x = transforms.dynamic_axis(x) if is_dynamic else x
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with inductor.config.patch(fx_graph_cache=False):
            _, code = inductor.utils.run_and_get_cpp_code(compiled, x)
    finally:
        torch.set_num_threads(num_threads)
    lines = [line for line in code.splitlines() if line.lstrip().startswith(("#pragma omp parallel", "for(int64_t"))]
    assert lines[0].lstrip().startswith("#pragma omp parallel")


@needs_compiler
def test_a_compiler_that_traces_no_loops_is_found_out_by_its_first_error(monkeypatch):
    monkeypatch.setattr(transforms, "_has_failed", [])
    monkeypatch.setattr(transforms, "_why_untraceable", lambda: "the compiler is blind")
    transforms._warn_once.cache_clear()

    def untraceable(x):
        return 3 * x if x.sum() > 0 else x  # a branch by the numbers, which no graph has

    compiled, ones = ebm.jit(untraceable), torch.ones(2)
    with pytest.warns(RuntimeWarning, match="funcebm runs eagerly: the compiler is blind"):
        assert torch.equal(compiled(ones), 3 * ones)
    assert torch.equal(ebm.jit(lambda x: 2 * x)(ones), 2 * ones)  # it is not tried again
    monkeypatch.setattr(transforms, "_has_failed", [])
    monkeypatch.setattr(transforms, "_why_untraceable", lambda: None)
    with pytest.raises(Exception, match=r"[Dd]ata.dependent"):
        ebm.jit(untraceable)(ones)
