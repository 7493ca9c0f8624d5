r"""Diffusion Schroedinger bridge matching: two drifts that train each other until their pairs are those of the bridge."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, random, tree
from ..losses import TransportBatch, bridge_matching, simulate_bridge
from ..losses.times import Times
from ..paths import Field
from ..transforms import is_worth_it
from ..transforms import jit as compiled
from ..types import Key, Optimizer, Params, Position
from .fitting import fit

__all__ = ["BridgeFit", "fit_bridge"]

_FIRST = ("independent", "reference")


class BridgeFit(NamedTuple):
    """What :func:`fit_bridge` returns.

    Attributes:
        forward: params of the drift from t = 0 to 1.
        backward: params of the drift from t = 1 to 0.
        source: ``x0`` of the last pairs. ``(N, *event)``.
        target: ``x1`` of the last pairs, row by row. ``(N, *event)``.
        values: the loss at the end of each round, the mean over its last tenth. ``(num_rounds,)``.
    """

    forward: Params
    backward: Params
    source: Position
    target: Position
    values: Tensor


def fit_bridge(
    key: Key,
    field: Field,
    params: Params,
    source: Position,
    target: Position,
    *,
    scale: float | Tensor = 1.0,
    optimizer: Optimizer,
    num_rounds: int = 8,
    num_steps: int = 1000,
    batch_size: int = 256,
    num_simulation_steps: int = 50,
    first: str = "independent",
    time: Times | None = None,
    ema_decay: float | None = None,
    jit: bool | None = None,
    progress: bool = False,
) -> BridgeFit:
    r"""DSBM: the Schroedinger bridge between two sets of points, by iterated Markovian fitting.

    The bridge is the process with the given ends that is nearest to :math:`c\,dW`. From pairs :math:`(x_0, x_1)` each round

    1. trains the drift of one direction by :func:`~funcebm.losses.bridge_matching` on Brownian bridges between the pairs;
    2. simulates it from the points at which it starts, and so makes new pairs of them, with that end exact.

    Rounds go forward and backward in turn, so that the error of neither end piles up, and each network goes on from where its
    last round left it. The divergence from the bridge falls from round to round.

    Args:
        key: ``(2,)``.
        field: the drift of either direction, ``(params, t, x) -> like x``.
        params: where both drifts start.
        source: points at t = 0. ``(N, *event)``, or a tree.
        target: points at t = 1, as many.
        scale: :math:`c > 0`. ``()``.
        optimizer: of each round.
        num_rounds: an even number trains both directions alike.
        num_steps: of training, in each round.
        batch_size: at most N.
        num_simulation_steps: of Euler's method.
        first: the first pairs, ``"independent"`` (the points in random order), or ``"reference"``,
            :math:`x_1 = x_0 + c z`, from which the rounds are those of iterative proportional fitting.
        time: of the training, by default uniform on [0.001, 0.999].
        ema_decay: of a moving average of the params in each round, which then simulates and is returned; None makes none.
        jit: compile; None decides as for :func:`funcebm.fit` and :func:`funcebm.sample`.
        progress: show a bar for each round.

    Returns:
        :class:`BridgeFit`. :func:`~funcebm.losses.simulate_bridge` carries points with either drift.

    Raises:
        ValueError: sets of unequal size, an unknown first coupling, counts or a scale that are not positive; what
            :func:`funcebm.fit` raises.

    Reference: Shi, De Bortoli, Campbell and Doucet (2023), NeurIPS, arXiv:2303.16852, algorithm 1; Peluchetti (2023), Journal of
    Machine Learning Research 24(374).

    >>> from funcebm import losses, optimizers
    >>> drift = lambda params, t, x: params[0] + params[1] * x
    >>> points = random.normal(random.key(0), (200, 1))
    >>> result = fit_bridge(random.key(1), drift, torch.zeros(2), points, points + 3, optimizer=optimizers.adam(0.1),
    ...     num_rounds=2, num_steps=60, batch_size=200, num_simulation_steps=5, time=losses.uniform_times(0.1, 0.9), jit=False)
    >>> bool((result.forward[0] - 3).abs() < 1), bool((result.backward[0] + 3).abs() < 1)
    (True, True)

    Between two clouds of points with a network, which :func:`~funcebm.losses.simulate_bridge` then carries new points along
    (here with as little training as an example may have; some rounds of 1000 steps reach the bridge of two Gaussians):

    >>> from funcebm import datasets, networks
    >>> moons, rings = datasets.two_moons(random.key(2), 200), datasets.rings(random.key(3), 200)
    >>> field, start = networks.time_mlp(random.key(4), 2, (32, 32))
    >>> result = fit_bridge(random.key(5), field, start, moons, rings, scale=0.5, optimizer=optimizers.adam(1e-3),
    ...     num_rounds=2, num_steps=3, batch_size=100, num_simulation_steps=5, jit=False)
    >>> fresh = datasets.two_moons(random.key(6), 7)
    >>> losses.simulate_bridge(random.key(7), field, result.forward, fresh, 0.5, "forward", num_steps=5).shape
    torch.Size([7, 2])
    """
    random.check_key(key)
    for name, count in (("num_rounds", num_rounds), ("num_simulation_steps", num_simulation_steps)):
        checks.positive_int(name, count)
    must = f"first must be one of {', '.join(_FIRST)}"
    checks.require(first in _FIRST, must, first, 'Use "independent".')
    checks.positive("scale", scale, "Try the standard deviation of the data.")
    checks.one_structure("the points at t = 1", target, "those at t = 0", source)
    sizes = [leaf.shape[0] for leaf in tree.leaves((source, target))]
    must = "there must be as many points at t = 0 as at t = 1"
    checks.require(len(set(sizes)) == 1, must, f"leading axes {sizes}", "Draw from the smaller set again.")

    def simulate(key: Key, params: Params, start: Position, direction: str) -> Position:
        def run(key: Key, params: Params, start: Position) -> Position:
            return simulate_bridge(key, field, params, start, scale, direction, num_steps=num_simulation_steps)

        return (compiled(run) if is_worth_it(jit, num_simulation_steps * num_rounds) else run)(key, params, start)

    key_first, key_rounds = random.split(key)
    if first == "independent":
        order = random.permutation(key_first, sizes[0])
        x0, x1 = source, tree.map(lambda leaf: leaf[order.to(leaf.device)], target)
    else:
        x0, x1 = source, tree.map(lambda leaf, z: leaf + scale * z, source, tree.normal_like(key_first, source))
    drifts = {"forward": params, "backward": params}
    values = []
    for index, key_round in enumerate(random.split(key_rounds, num_rounds)):
        key_fit, key_simulate = random.split(key_round)
        direction = "forward" if index % 2 == 0 else "backward"
        trained = fit(
            key_fit,
            bridge_matching(field, scale, direction, time=time),
            drifts[direction],
            TransportBatch(x1, source=x0),
            optimizer=optimizer,
            num_steps=num_steps,
            batch_size=batch_size,
            ema_decay=ema_decay,
            jit=jit,
            progress=progress,
        )
        drifts[direction] = trained.params if ema_decay is None else trained.ema_params
        values.append(trained.metrics["loss"][-max(num_steps // 10, 1) :].mean())
        if direction == "forward":
            x0, x1 = source, simulate(key_simulate, drifts[direction], source, direction)
        else:
            x0, x1 = simulate(key_simulate, drifts[direction], target, direction), target
    return BridgeFit(drifts["forward"], drifts["backward"], x0, x1, torch.stack(values))
