"""The optimizers make the numbers of ``torch.optim``, as pure functions."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch

from funcebm import optimizers, random, schedules, tree
from funcebm.distributed.optimizer import check_elementwise
from funcebm.types import Optimizer


def _problem(dtype: torch.dtype) -> tuple[dict, list[dict]]:
    keys = random.split(random.key(3), 42)
    params = {
        "w": random.normal(keys[0], (4, 3), dtype=dtype),
        "b": random.normal(keys[1], (2,), dtype=dtype),
        "s": random.normal(keys[2], (), dtype=dtype),
    }
    return params, [tree.normal_like(key, params) for key in keys[3:]]


def _run(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optimizers.apply_updates(params, updates)
    return params, state


def _run_torch(make, params, gradients, schedule=None):
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(params)]
    optimizer = make(leaves)
    for index, gradient in enumerate(gradients):
        if schedule is not None:
            optimizer.param_groups[0]["lr"] = float(schedule(torch.tensor(index)))
        for leaf, value in zip(leaves, tree.leaves(gradient), strict=True):
            leaf.grad = value.clone()
        optimizer.step()
    return [leaf.detach() for leaf in leaves]


def _assert_equal(ours, theirs, dtype):
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    for mine, other in zip(tree.leaves(ours), theirs, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


SGD = [
    {"momentum": m, "nesterov": n, "weight_decay": w}
    for m, n, w in itertools.product((0.0, 0.9), (False, True), (0.0, 0.1))
    if m > 0 or not n
]
ADAM = [
    {"beta1": b1, "beta2": b2, "epsilon": e, "weight_decay": w}
    for b1, b2, e, w in itertools.product((0.0, 0.9), (0.9, 0.999), (1e-8, 1e-2), (0.0, 0.1))
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", SGD, ids=str)
def test_sgd_is_that_of_torch(options, dtype):
    params, gradients = _problem(dtype)
    ours, _ = _run(optimizers.sgd(0.05, **options), params, gradients)
    _assert_equal(
        ours, _run_torch(lambda leaves: torch.optim.SGD(leaves, lr=0.05, **options), params, gradients), dtype
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("options", ADAM, ids=str)
def test_adam_is_that_of_torch(name, options, dtype):
    params, gradients = _problem(dtype)
    ours, _ = _run(getattr(optimizers, name)(0.05, **options), params, gradients)
    theirs = {"betas": (options["beta1"], options["beta2"]), "eps": options["epsilon"]}
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    make = lambda leaves: kind(leaves, lr=0.05, weight_decay=options["weight_decay"], **theirs)  # noqa: E731
    _assert_equal(ours, _run_torch(make, params, gradients), dtype)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_schedule_is_asked_for_the_number_of_updates_made(name):
    params, gradients = _problem(torch.float64)
    schedule = schedules.linear(torch.tensor(0.1, dtype=torch.float64), 0.0, 30)
    ours, state = _run(getattr(optimizers, name)(schedule), params, gradients)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    _assert_equal(ours, _run_torch(lambda leaves: kind(leaves, lr=0.1), params, gradients, schedule), torch.float64)
    assert int(state.step) == len(gradients)


@pytest.mark.parametrize("optimizer", [optimizers.sgd(0.1, momentum=0.9), optimizers.adam(0.1), optimizers.sgd(0.1)])
def test_states_hold_tensors_only_and_inputs_stay(optimizer):
    params, gradients = _problem(torch.float32)
    before = tree.map(torch.clone, params)
    _, state = _run(optimizer, params, gradients[:3])
    assert all(isinstance(leaf, torch.Tensor) for leaf in tree.leaves(state))
    assert not state.step.is_floating_point()
    assert tree.structure(state) == tree.structure(optimizer.init(params))
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(before), tree.leaves(params), strict=True))


def test_vmap_over_learning_rates_is_the_loop():
    params, gradients = _problem(torch.float64)
    rates = torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64)
    together = torch.func.vmap(lambda rate: _run(optimizers.adam(rate), params, gradients)[0]["w"])(rates)
    alone = torch.stack([_run(optimizers.adam(float(rate)), params, gradients)[0]["w"] for rate in rates])
    torch.testing.assert_close(together, alone)


def test_half_precision_params_stay_so():
    params, gradients = _problem(torch.bfloat16)
    ours, _ = _run(optimizers.chain(optimizers.clip_by_global_norm(1.0), optimizers.adamw(0.1)), params, gradients)
    assert {leaf.dtype for leaf in tree.leaves(ours)} == {torch.bfloat16}


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clipping_caps_the_norm_and_keeps_the_direction(max_norm):
    _, (gradient, *_) = _problem(torch.float64)
    norm = tree.squared_norm(gradient).sqrt()
    clipped, _ = optimizers.clip_by_global_norm(max_norm).update(gradient, (), ())
    expected = min(1.0, max_norm / float(norm))
    for mine, leaf in zip(tree.leaves(clipped), tree.leaves(gradient), strict=True):
        torch.testing.assert_close(mine, leaf * expected, rtol=1e-12, atol=0)


def test_clipping_leaves_a_zero_gradient_zero():
    clipped, _ = optimizers.clip_by_global_norm(1.0).update(torch.zeros(3), (), ())
    assert torch.equal(clipped, torch.zeros(3))


def test_a_chain_is_clipping_then_adam():
    params, gradients = _problem(torch.float64)
    ours, _ = _run(optimizers.chain(optimizers.clip_by_global_norm(1.0), optimizers.adam(0.05)), params, gradients)
    clip = optimizers.clip_by_global_norm(1.0)
    by_hand, _ = _run(optimizers.adam(0.05), params, [clip.update(gradient, (), ())[0] for gradient in gradients])
    _assert_equal(ours, tree.leaves(by_hand), torch.float64)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: optimizers.sgd(0.0), "learning_rate must be positive"),
        (lambda: optimizers.adam(-1e-3), "learning_rate must be positive"),
        (lambda: optimizers.sgd(0.1, momentum=1.0), "momentum must be in"),
        (lambda: optimizers.sgd(0.1, nesterov=True), "nesterov needs momentum"),
        (lambda: optimizers.adam(0.1, beta2=1.5), "beta2 must be in"),
        (lambda: optimizers.adamw(0.1, weight_decay=-1.0), "weight_decay must not be negative"),
        (lambda: optimizers.adam(0.1, epsilon=0.0), "epsilon must be positive"),
        (lambda: optimizers.clip_by_global_norm(0.0), "max_norm must be positive"),
        (lambda: optimizers.chain(), "chain needs optimizers"),
    ],
)
def test_bad_numbers_are_refused_at_the_door(make, words):
    with pytest.raises(ValueError, match=words):
        make()


_ADAM, _CLIP = optimizers.adam(0.1), optimizers.clip_by_global_norm(1.0)
_SILENT = _ADAM._replace(is_elementwise=None)


@pytest.mark.parametrize(
    ("optimizer", "declared", "is_right"),
    [
        (optimizers.chain(optimizers.sgd(0.1), _ADAM), True, True),
        (optimizers.chain(_CLIP, _ADAM), False, False),
        (optimizers.chain(_SILENT, _ADAM), None, True),
        (optimizers.chain(_SILENT, _CLIP), False, False),
        (_CLIP._replace(is_elementwise=None), None, False),
        (Optimizer(lambda params: (), lambda g, state, p: (tree.map(lambda x: x * x.ndim, g), state)), None, False),
        (_ADAM._replace(is_elementwise=False), False, False),
    ],
    ids=["declared", "clipped", "silent", "one_declared_otherwise", "silent_norm", "silent_axes", "declared_otherwise"],
)
def test_an_optimizer_is_elementwise_as_it_says_and_else_as_a_trial_shows(optimizer, declared, is_right):
    assert optimizer.is_elementwise is declared
    with contextlib.nullcontext() if is_right else pytest.raises(ValueError, match="must be element-wise"):
        check_elementwise(optimizer, "this one", "Take another.")
