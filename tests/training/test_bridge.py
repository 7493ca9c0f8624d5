"""Iterated Markovian fitting between Gaussians ends at the exact Schroedinger bridge, with polynomials and with networks."""

from __future__ import annotations

import pytest
import torch
from tests.laws import assert_mean
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
@pytest.mark.parametrize("first", ["independent", "reference"])
def test_rounds_tend_to_the_exact_bridge(first):
    options = {"optimizer": optimizers.adam(0.02), "num_steps": 400, "batch_size": 400, "first": first, "jit": False}
    options |= {"ema_decay": 0.98, "num_simulation_steps": 40, "time": ebm.losses.uniform_times(0.02, 0.98)}
    limit = BRIDGE.cross_covariance(ends())
    one = fitted(affine_in_x, zeros(), 4000, num_rounds=1, **options)
    last = fitted(affine_in_x, zeros(), 4000, num_rounds=8, **options)
    before, after = (float((cross(run.source, run.target) - limit).abs().max()) for run in (one, last))
    assert after < 0.06 and after < before
    assert far(affine_in_x, last.forward, BRIDGE.drift, torch.float64) < 0.2
    assert far(affine_in_x, last.backward, BRIDGE.backward_drift, torch.float64) < 0.2
    # the last round went backward: its end at t = 1 is exact, the other one was simulated
    assert torch.equal(last.target, points(4000)[1])
    assert_mean(last.source, ends()["start"]["mean"], bias=0.06)


@pytest.mark.slow
@pytest.mark.compiled
def test_networks_learn_the_exact_bridge():
    network, start = networks.time_mlp(random.key(2), 2, (64, 64), num_frequencies=4)
    run = fitted(
        network,
        start,
        10_000,
        torch.float32,
        optimizer=optimizers.adam(2e-3),
        num_rounds=8,
        num_steps=1500,
        ema_decay=0.995,
        time=ebm.losses.uniform_times(0.01, 0.99),
        jit=True,
    )
    limit = BRIDGE.cross_covariance(ends(torch.float32))
    found = float((cross(run.source, run.target) - limit).abs().max())
    drifts = [
        far(network, params, drift, torch.float32)
        for params, drift in ((run.forward, BRIDGE.drift), (run.backward, BRIDGE.backward_drift))
    ]
    print(f"\ncross-covariance off by {found:.4f}, drifts by {drifts[0]:.3f}, {drifts[1]:.3f}")
    assert found < 0.06 and max(drifts) < 0.3


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
