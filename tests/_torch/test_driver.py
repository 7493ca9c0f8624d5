"""Compiled functions do what eager ones do where memory, strides, types, threads and errors make that hard."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.func import grad, jacfwd, jvp, vmap

from funcebm import jit, loops
from funcebm._torch import lowering
from funcebm.transforms import TracedValueError

pytestmark = pytest.mark.compiled


def _equal(function, *args, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(jit(function)(*args), function(*args), rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.fixture
def x():
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_change_in_place_keeps_the_dtype_of_what_it_changes(x):
    def change(x):
        wide, flags, whole, short = x.clone(), x.clone(), (3 * x).to(torch.int32), x.round().bfloat16()
        wide[1:].add_(torch.ones(5, dtype=torch.float64))
        flags.gt_(0)
        whole += True
        whole.mul_(torch.full((4, 5), 3))
        short += torch.arange(5.0)
        return wide, wide.mul_(torch.ones((4, 5), dtype=torch.float64)), flags, whole, short

    _equal(change, x)


def test_a_constant_may_be_changed_in_place_in_a_loop_too(x):
    def change(x):
        made = torch.tensor([1.0, 2.0])
        made[1] = x[0, 0]

        def body(carry):
            weights = torch.tensor([0.5, 0.25])
            weights[0] += carry[1]
            return carry * weights

        return made, loops.repeat(body, made, 3)

    _equal(change, x)


def test_a_constant_of_outside_may_not_be_changed_in_a_loop(x):
    def change(x):
        made = torch.tensor([1.0, 2.0])
        return loops.repeat(lambda carry: carry + made.add_(1), x[:2, 0], 3)

    with pytest.raises(ValueError, match="must not change"):
        jit(change)(x)


def test_views_and_strides_of_what_an_earlier_loop_has_seen_are_those_of_the_trace(x):
    def strided(x):
        y = x.t().sin()
        last = loops.repeat(lambda v: 0.9 * v + y, y, 3)
        inside = loops.repeat(lambda v: 0.9 * v + torch.as_strided(y, (2, 3), (1, 2)), torch.ones(2, 3), 3)
        return (
            last,
            y.t().view(-1),
            torch.as_strided(y, (2, 3), (1, 2)),
            torch.as_strided(y[1:], (2, 2), (2, 3)),
            inside,
        )

    _equal(strided, x)


def test_derivatives_of_a_determinant_are_mapped(x):
    def log_determinant(row):
        return torch.logdet(torch.outer(row, row) + 3 * torch.eye(5))

    _equal(vmap(grad(log_determinant)), x, tolerance=1e-4)


def test_loops_are_unrolled_inside_of_forward_derivatives(x):
    def last(y):
        return loops.repeat(lambda v: v.sin() * y, y, 3)

    _equal(lambda x: jvp(last, (x,), (torch.ones_like(x),)), x)
    _equal(jacfwd(last), x[0])


def test_a_while_loop_inside_of_grad_says_why_it_is_not_compiled(x):
    def energy(y):
        return loops.while_loop(lambda v: v.sum() < 10, lambda v: 2 * v + 1, y.abs()).sum()

    assert grad(energy)(x).shape == x.shape
    with pytest.raises(RuntimeError, match="inside of grad"):
        jit(grad(energy))(x)


def test_a_program_runs_on_more_and_fewer_threads_than_it_was_compiled_with(threads, monkeypatch):
    monkeypatch.setattr(lowering, "SHARED_FROM", 2**13)

    def reductions(x):
        return x.sum(), x.exp().sum(0), x.max(), x.argmax(), x.var(), x.logsumexp((0, 1)), x.double().mean()

    x = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0))
    for num in (1, 16, 2):
        threads(num)
        _equal(reductions, x, tolerance=1e-3)


_OUT_OF_RANGE = """
import torch, funcebm
torch.set_num_threads(2)
funcebm._torch.lowering.SHARED_FROM = 2**13
read = funcebm.jit(lambda x, index: x[index].sin())
x, index = torch.ones(100, 64), torch.zeros(40_000, dtype=torch.long)
read(x, index)
try:
    read(x, index.index_fill(0, torch.tensor([35_000]), 700))
except RuntimeError as error:
    print(error)
assert torch.equal(read(x, index), x[index].sin())
"""


def test_an_index_out_of_range_in_a_thread_is_an_error_and_no_abort():
    run = subprocess.run([sys.executable, "-c", _OUT_OF_RANGE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "out of bounds" in run.stdout


def test_a_matrix_for_which_linalg_raises_has_nan_and_the_others_their_results():
    eye = torch.eye(3)
    factors = jit(vmap(torch.linalg.cholesky))(torch.stack([4 * eye, -eye, eye]))
    torch.testing.assert_close(factors[::2], torch.stack([2 * eye, eye]))
    assert factors[1].isnan().all()
    inverse = jit(torch.linalg.inv)(torch.stack([torch.zeros(3, 3), 2 * eye]))
    assert inverse[0].isnan().all()
    torch.testing.assert_close(inverse[1], eye / 2)


def test_the_larger_of_nan_and_another_constant_is_nan(x):
    _equal(lambda x: torch.maximum(torch.tensor(float("nan")), torch.tensor(1.0)) + x, x)


@pytest.mark.parametrize("read", [lambda t: t.tolist()[0], lambda t: float(t.numpy()[0])], ids=["tolist", "numpy"])
def test_numbers_that_are_taken_out_of_a_tensor_of_outside_are_never_stale(read, x):
    outside = torch.ones(2)
    scaled = jit(lambda x: read(outside) * x)
    for value in (2.0, 3.0):
        outside.fill_(value)
        torch.testing.assert_close(scaled(x), value * x)


def test_what_is_computed_from_tensors_of_outside_alone_has_a_value(x):
    """It decides an ``if`` and the length of a loop, in the body of a loop too, and is never stale."""
    outside = torch.tensor([1.0, 2.0])

    def grown(x):
        for _ in range(int((outside.sum() * 2).round()) - 4):
            x = 2 * x if (outside.square().sum() > 7.0) else x - 1
        return x

    def inside(x):
        return loops.scan(lambda c, _: (grown(c), ()), x, torch.arange(2))[0]

    under_grad = vmap(grad(lambda x: grown(x).sin().sum()))
    for function in (grown, inside, under_grad):
        jitted = jit(function)
        for second in (1.5, 2.0, 2.5):
            outside[1] = second
            torch.testing.assert_close(jitted(x), function(x))


def test_what_depends_on_an_argument_has_no_value(x):
    outside = torch.ones(())
    for function in (
        lambda x: x if (outside + x.sum()) > 0 else -x,
        lambda x: x if x.new_ones(2).sum() > x.sum() else 2 * x,
    ):
        with pytest.raises(TracedValueError, match="must not ask"):
            jit(function)(x)


def test_a_traced_tensor_gives_no_numbers_to_numpy(x):
    with pytest.raises(TracedValueError, match="must not ask"):
        jit(lambda x: x * float(x.numpy()[0, 0]))(x)
