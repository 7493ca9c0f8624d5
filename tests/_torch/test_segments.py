"""Equal parts of programs are lowered once."""

import pytest
import torch

import funcebm as ebm
from funcebm import flows, loops, solvers, transforms, tree
from funcebm._torch import lowering, programs

pytestmark = pytest.mark.compiled
X = torch.linspace(-1, 1, 6)


@pytest.fixture
def lowered(monkeypatch):
    """How often a part of a graph is lowered, from nothing."""
    transforms.clear_cache()
    monkeypatch.setattr(programs, "_kept_plan", lambda name: None)  # of an earlier run, on disk
    counts, lower = [], lowering.lower

    def counted(*args):
        counts.append(args)
        return lower(*args)

    monkeypatch.setattr(lowering, "lower", counted)
    return counts


def _step(x):
    return (1.25 * x).sin() + x.mean()


def _three(x):
    return loops.scan(lambda x, _: (_step(x), ()), x, torch.arange(3))[0]


def test_a_body_that_two_programs_share_is_lowered_once(lowered):
    expected = _step(_step(_step(X)))
    torch.testing.assert_close(ebm.jit(_three)(X), expected)
    before = len(lowered)
    torch.testing.assert_close(ebm.jit(lambda x: _three(x).cos())(X), expected.cos())
    assert len(lowered) == before + 1  # the cosine
    torch.testing.assert_close(ebm.jit(lambda x: (x.exp(), _three(x.exp()) + 1)[1])(X), _three(X.exp()) + 1)
    assert len(lowered) == before + 3


def test_other_constants_shapes_and_types_are_lowered_anew(lowered):
    torch.testing.assert_close(ebm.jit(_three)(X), _three(X))
    before = len(lowered)
    torch.testing.assert_close(ebm.jit(_three)(X.double()), _three(X.double()))
    assert len(lowered) > before
    step = lambda x: (1.25 * x).sin() + x.sum()  # noqa: E731
    before = len(lowered)
    got = ebm.jit(lambda x: loops.scan(lambda x, _: (step(x), ()), x, torch.arange(3))[0])(X)
    torch.testing.assert_close(got, step(step(step(X))))
    assert len(lowered) > before


def test_a_part_reads_its_inputs_where_they_are_now(lowered):
    """The same operators with their inputs exchanged, twice the same, or in other blocks of memory."""

    def between(a, b):
        return 2.75 * a - b

    programs = [
        lambda x, y: between(x, y),
        lambda x, y: between(y, x),
        lambda x, y: between(x, x),
        lambda x, y: loops.scan(lambda c, _: ((c[1], between(*c)), ()), (x, y), torch.arange(4))[0],
        lambda x, y: loops.scan(lambda c, _: ((between(*c), c[0]), ()), (x, y), torch.arange(4))[0],
    ]
    for program in programs:
        for got, right in zip(ebm.jit(program)(X, X + 3), program(X, X + 3), strict=True):
            torch.testing.assert_close(got, right)


@pytest.mark.parametrize("is_adaptive", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_large_field_is_lowered_once_for_all_stages_of_a_solver(lowered, is_adaptive):
    """And gives the numbers that it gives eagerly, with params, conditions and times that differ between particles."""

    def field(params, t, x, condition):
        angle, shift = x["angle"], x["shift"]
        for weight in params:
            angle = (weight * angle + t * condition).sin()
        return {"angle": angle + shift.mean(), "shift": shift * angle[:1]}

    params = tuple(torch.linspace(0.5, 1.5, 40, dtype=torch.float64).unbind())
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    positions = {"angle": x, "shift": x.flip(0)[:, :2]}
    kwargs = {"rtol": 1e-3, "atol": 1e-3} if is_adaptive else {"solver": solvers.rk4(), "num_steps": 3}
    kwargs["conditions"] = torch.arange(4.0, dtype=torch.float64)
    runs = [flows.integrate(field, params, positions, jit=jit, **kwargs) for jit in (True, False)]
    for found, expected in zip(tree.leaves(runs[0]), tree.leaves(runs[1]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    num_sines = sum(node.target is torch.ops.aten.sin.default for nodes, *_ in lowered for node in nodes)
    assert num_sines == 40 * (2 if is_adaptive else 1)  # adaptive, at the first time of all and at times of each
