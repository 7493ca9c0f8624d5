"""Loops mean the same eager and compiled; the compiled ones share one function here, since compiling is slow."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import loops, random, transforms, tree

from .helpers import compiles_nothing

compiled_tests = pytest.mark.compiled

XS = {"a": random.normal(random.key(0), (5, 2)), "b": torch.arange(5)}


def _body(carry, x):
    total = carry["total"] + torch.sin(x["a"]) * carry["count"]
    carry = {"count": carry["count"] + x["b"], "total": total}
    return carry, (total.sum(), {"seen": x["b"] * 2})


INIT = {"count": torch.tensor(1), "total": torch.zeros(2)}


def test_scan_is_the_loop_that_one_would_write():
    carry, (sums, rest) = loops.scan(_body, INIT, XS)
    count, total, expected = 1, torch.zeros(2), []
    for i in range(5):
        total = total + torch.sin(XS["a"][i]) * count
        count += i
        expected.append(total.sum())
    assert torch.equal(carry["total"], total)
    assert int(carry["count"]) == count
    assert torch.equal(sums, torch.stack(expected))
    assert rest["seen"].tolist() == [0, 2, 4, 6, 8]


def test_scan_may_emit_nothing():
    carry, ys = loops.scan(lambda carry, x: (carry + x, ()), torch.tensor(0), torch.arange(4))
    assert int(carry) == 6
    assert ys == ()


def test_fold_is_a_scan_that_emits_nothing():
    carry = loops.fold(lambda carry, x: _body(carry, x)[0], INIT, XS)
    assert torch.equal(carry["total"], loops.scan(_body, INIT, XS)[0]["total"])


@pytest.mark.parametrize("num", [0, 1, 2, 7])
def test_repeat_applies_a_function_so_many_times(num):
    assert int(loops.repeat(lambda x: 2 * x + 1, torch.tensor(0), num)) == 2**num - 1


def test_loops_go_through_vmap_and_grad():
    def last(scale):
        return loops.fold(lambda carry, x: carry * torch.cos(scale * x), torch.tensor(1.0), torch.arange(1.0, 4.0))

    scales = torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(vmap(last)(scales), torch.stack([last(s) for s in scales]))
    s = scales[1]
    exact = -last(s) * sum(k * torch.tan(s * k) for k in (1, 2, 3))
    torch.testing.assert_close(grad(last)(s), exact)


def _everything(init, xs, scale):
    """Loops in a loop, under ``vmap``, with ``grad`` in the body, inside ``grad``, of length 1, and emitting nothing."""

    def step(x, bump):
        slope = grad(lambda x: (torch.cos(x) * scale).sum())(x)
        return loops.repeat(lambda x: x - 0.1 * x**3, x + slope + bump, 3)

    def outer(carry, x):
        new = vmap(step, (0, None))(carry, x["a"].sum())
        return new, new.sum()

    rows = torch.stack([init["total"], init["total"] + 1])
    return {
        "scan": loops.scan(_body, init, xs),
        "fold": loops.fold(lambda carry, x: _body(carry, x)[0], init, xs),
        "nothing": loops.scan(lambda carry, x: (carry + x, ()), init["count"], xs["b"])[0],
        "nested": loops.scan(outer, rows, xs),
        "one": loops.scan(outer, rows, tree.map(lambda leaf: leaf[:1], xs)),
        "differentiated": grad(lambda s: loops.fold(lambda c, x: torch.sin(c * s + x.sum()), s, xs["a"]))(scale),
        "same tensor twice": loops.fold(lambda c, x: (c[1], c[0] + x), (scale, scale), xs["a"].sum(1)),
    }


@pytest.fixture(scope="module")
def compiled():
    return ebm.jit(_everything)


@compiled_tests
def test_compiled_loops_are_the_python_loops(compiled):
    scale = torch.tensor(0.7)
    expected, got = _everything(INIT, XS, scale), compiled(INIT, XS, scale)
    assert tree.structure(got) == tree.structure(expected)
    for path, a, b in zip(tree.paths(expected), tree.leaves(got), tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=lambda text, path=path: f"{path}: {text}")


@compiled_tests
def test_a_second_call_with_other_numbers_compiles_nothing(compiled):
    compiled(INIT, XS, torch.tensor(0.7))
    with compiles_nothing():
        other = compiled(INIT, XS, torch.tensor(0.2))
    torch.testing.assert_close(other["fold"], loops.fold(lambda carry, x: _body(carry, x)[0], INIT, XS))


OUTSIDE = torch.tensor([0.5, -1.0])


def _tangled(carry, x):
    """Leaves that swap, stay, are what is read or what lies outside, and are emitted as they are."""
    a, b, fixed, last, flag, count = carry
    new = (b, a + 0.5 * x, fixed, OUTSIDE, ~flag, count + 1)
    return new, {
        "carry": a,
        "x": x,
        "new": new[1],
        "outside": OUTSIDE,
        "last": last,
        "flag": flag,
        "view": fixed[:1] * count,
    }


TANGLED = (torch.ones(2), torch.zeros(2), torch.tensor([3.0, 4.0]), torch.zeros(2), torch.tensor(True), torch.tensor(2))


@compiled_tests
@pytest.mark.parametrize("length", [1, 2, 3])
def test_leaves_of_a_carry_may_swap_stay_and_be_anything(length):
    xs = torch.arange(2.0 * length).reshape(length, 2)
    for got, expected in zip(
        tree.leaves(ebm.jit(lambda init, xs: loops.scan(_tangled, init, xs))(TANGLED, xs)),
        tree.leaves(loops.scan(_tangled, TANGLED, xs)),
        strict=True,
    ):
        assert torch.equal(got, expected)


@compiled_tests
def test_a_loop_of_any_length_is_one_program():
    """``jit_scan``, whatever is stacked: each of ``every``, or the last one."""

    def body(shared, carry, x):
        carry, y = _tangled(carry, x)
        return carry, {**y, "shared": shared + x}

    loop, shared = transforms.jit_scan(body), torch.tensor(10.0)
    loop(shared, TANGLED, torch.ones(4, 2))
    with compiles_nothing():
        for length, every, is_kept in (
            (1, 1, True),
            (2, 1, True),
            (7, 1, True),
            (6, 2, True),
            (6, 6, True),
            (5, 1, False),
        ):
            xs = torch.arange(2.0 * length).reshape(length, 2)
            carry, ys = loop(shared, TANGLED, xs, every, is_kept)
            last, all_ys = loops.scan(lambda carry, x: body(shared, carry, x), TANGLED, xs)
            kept = slice(every - 1, None, every) if is_kept else slice(-1, None)
            for got, expected in zip(tree.leaves(carry), tree.leaves(last), strict=True):
                assert torch.equal(got, expected)
            for got, expected in zip(tree.leaves(ys), tree.leaves(all_ys), strict=True):
                assert torch.equal(got, expected[kept])


@compiled_tests
@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            lambda carry, x: (torch.cat([carry, carry]), x),
            r"leaf 0: \(4,\) torch.float32 in place of \(2,\) torch.float32",
        ),
        (lambda carry, x: (carry.double(), x), r"leaf 0: \(2,\) torch.float64 in place of \(2,\) torch.float32"),
    ],
    ids=["shape", "dtype"],
)
def test_a_carry_that_changes_is_an_error_that_names_it(body, words):
    with pytest.raises(ValueError, match="the carry of a loop must keep its shapes and dtypes. Got " + words):
        ebm.jit(lambda x: loops.scan(body, x, torch.zeros(3)))(torch.ones(2))


def test_a_while_loop_that_is_not_masked_leaves_the_ended_to_its_body():
    def goes_on(x):
        return x < 10

    start = torch.tensor([1, 3, 50])
    assert loops.while_loop(goes_on, lambda x: 2 * x, start).tolist() == [16, 12, 50]
    assert loops.while_loop(goes_on, lambda x: 2 * x, start, is_masked=False).tolist() == [16, 48, 800]
