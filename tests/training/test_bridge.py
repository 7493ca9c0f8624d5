"""Iterated Markovian fitting between Gaussians ends at the exact Schroedinger bridge."""

from __future__ import annotations

import pytest
import torch
from tests.distributions import assert_mean
from torch.func import vmap

import funcebm as ebm
from funcebm import networks, optimizers, random
from funcebm.paths import exact

SCALE = 0.8
BRIDGE = exact.schrodinger_bridge(SCALE)


def ends(dtype=torch.float64):
    """Two Gaussians of the plane, the second one turned and moved."""
    return {
        "start": exact.gaussian_params(
            torch.tensor([-1.0, 0.0], dtype=dtype), torch.tensor([[1.0, 0.5], [0.5, 0.6]], dtype=dtype)
        ),
        "end": exact.gaussian_params(
            torch.tensor([1.0, 0.5], dtype=dtype), torch.tensor([[0.3, -0.1], [-0.1, 1.0]], dtype=dtype)
        ),
    }


def affine_in_x(params, t, x):
    """A drift whose bias and matrix are quartics of the time."""
    powers = t ** torch.arange(5, dtype=x.dtype)
    return torch.tensordot(powers, params["bias"], 1) + torch.tensordot(powers, params["matrix"], 1) @ x


def zeros(dtype=torch.float64):
    return {"bias": torch.zeros(5, 2, dtype=dtype), "matrix": torch.zeros(5, 2, 2, dtype=dtype)}


def points(num, dtype=torch.float64):
    keys = random.split(random.key(0))
    return [exact.sample(key, ends(dtype)[name], num) for key, name in zip(keys, ("start", "end"), strict=True)]


def cross(x0, x1):
    """Cov(x0, x1)."""
    return (x0 - x0.mean(0)).T @ (x1 - x1.mean(0)) / (len(x0) - 1)


def far(field, params, drift, dtype):
    """The root mean square of learned less exact drift, along the exact marginals away from both ends."""
    errors = []
    for t in (0.2, 0.5, 0.8):
        time = torch.tensor(t, dtype=dtype)
        x = exact.sample(random.key(5), BRIDGE.marginal(ends(dtype), time), 1000)
        wrong = vmap(lambda x: field(params, time, x) - drift(ends(dtype), time, x))(x)  # noqa: B023
        errors.append(wrong.square().sum(1).mean())
    return float(torch.stack(errors).mean().sqrt())


def fitted(field, params, num, dtype=torch.float64, **options):
    x0, x1 = points(num, dtype)
    return ebm.training.fit_bridge(random.key(1), field, params, x0, x1, scale=SCALE, **options)


@pytest.mark.slow
def test_rounds_tend_to_the_exact_bridge():
    """Pairs and both drifts, from independent pairs; and the pairs from those of the free diffusion."""
    options = {"optimizer": optimizers.adam(0.02), "num_steps": 250, "batch_size": 400, "jit": False}
    options |= {"ema_decay": 0.98, "num_simulation_steps": 30, "time": ebm.losses.uniform_times(0.02, 0.98)}
    runs = [fitted(affine_in_x, zeros(), 4000, num_rounds=num, **options) for num in (1, 4)]
    runs.append(fitted(affine_in_x, zeros(), 4000, num_rounds=4, first="reference", **options))
    limit = BRIDGE.cross_covariance(ends())
    one, last, other = (float((cross(run.source, run.target) - limit).abs().max()) for run in runs)
    assert one > 0.08 > 0.06 > max(last, other)
    assert far(affine_in_x, runs[1].forward, BRIDGE.drift, torch.float64) < 0.2
    assert far(affine_in_x, runs[1].backward, BRIDGE.backward_drift, torch.float64) < 0.2
    # the last round went backward: its end at t = 1 is exact, the other one was simulated
    assert torch.equal(runs[1].target, points(4000)[1])
    assert_mean(runs[1].source, ends()["start"]["mean"], bias=0.06)


@pytest.mark.slow
@pytest.mark.compiled
def test_a_compiled_network_reaches_the_exact_bridge():
    """Pairs as correlated as those of the bridge, and both drifts within a twentieth of their size; one round is not enough."""
    field, start = networks.time_mlp(random.key(2), 2, (64, 64), num_frequencies=4)
    options = {"optimizer": optimizers.adam(2e-3), "num_steps": 1000, "batch_size": 512, "ema_decay": 0.99, "jit": True}
    runs = [fitted(field, start, 10_000, torch.float32, num_rounds=num, **options) for num in (1, 6)]
    limit = BRIDGE.cross_covariance(ends(torch.float32))
    first, last = (float((cross(run.source, run.target) - limit).abs().max()) for run in runs)
    assert first > 0.08 > 0.04 > last  # a standard error is 0.009
    assert far(field, runs[1].forward, BRIDGE.drift, torch.float32) < 0.12
    assert far(field, runs[1].backward, BRIDGE.backward_drift, torch.float32) < 0.12


def test_directions_take_turns_and_go_on_from_their_last_round():
    """Without training steps that move, the pairs are those of the free diffusion, from the end of each direction."""
    options = {
        "optimizer": optimizers.sgd(1e-12),
        "num_steps": 1,
        "batch_size": 10,
        "num_simulation_steps": 3,
        "jit": False,
    }
    x0, x1 = points(50)
    forward = fitted(affine_in_x, zeros(), 50, num_rounds=1, **options)
    assert torch.equal(forward.source, x0) and not torch.equal(forward.target, x1)
    backward = fitted(affine_in_x, zeros(), 50, num_rounds=2, **options)
    assert torch.equal(backward.target, x1) and not torch.equal(backward.source, x0)
    for run, (here, there) in ((forward, ("source", "target")), (backward, ("target", "source"))):
        moved = getattr(run, there) - getattr(run, here)
        assert_mean(moved.square().mean(1), SCALE**2)
    assert forward.values.shape == (1,) and backward.values.shape == (2,)


def test_bad_input():
    x0, x1 = points(20)
    options = {"optimizer": optimizers.sgd(0.1), "num_steps": 1, "batch_size": 10, "jit": False}
    for wrong, match in (
        ({"num_rounds": 0}, "num_rounds must be"),
        ({"scale": -1.0}, "scale must be positive"),
        ({"first": "other"}, "first must be one of"),
        ({"num_simulation_steps": 0}, "num_simulation_steps must be"),
    ):
        with pytest.raises(ValueError, match=match):
            ebm.training.fit_bridge(random.key(0), affine_in_x, zeros(), x0, x1, **{**options, **wrong})
    with pytest.raises(ValueError, match="as many points"):
        ebm.training.fit_bridge(random.key(0), affine_in_x, zeros(), x0, x1[:10], **options)
