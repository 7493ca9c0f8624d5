"""Adjoint sampling: a diffusion that samples an energy, trained by regression alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, random, tree
from ..normalizers.controlled_importance import controlled_ends, diffusion_grid
from ..paths import Field
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Schedule, Tree
from ._staged import staged, without_memory

__all__ = ["AdjointNoise", "adjoint_matching"]


class AdjointNoise(NamedTuple):
    """Normals of the simulation ``(B, N, *event)``; times and normals of the bridges ``(B, K)`` and ``(B, K, *event)``."""

    path: Tree
    times: Tensor
    bridge: Tree


def adjoint_matching(
    energy: Energy,
    control: Field,
    *,
    energy_params: Params = (),
    scale: float | Tensor | Schedule = 1.0,
    num_steps: int = 50,
    num_bridges: int = 16,
    clip: float | None = 10.0,
) -> Loss:
    r"""Adjoint sampling: trains the control of a diffusion from a point to an energy.

    It is :math:`dX = c^2 k(X, t)\,dt + c\,dW` from :math:`X_0 = 0`, so that :math:`X_1 \sim e^{-E} / Z`. With
    :math:`\nu_t = \int_0^t c^2` and the terminal cost :math:`G(x) = E(x) + \log N(x; 0, \nu_1 I)`:

    .. math:: L = \overline{|k(x_t, t) + \nabla G(X_1)|^2}, \qquad
        x_t \sim N\Bigl(\frac{\nu_t}{\nu_1} X_1, \frac{\nu_t (\nu_1 - \nu_t)}{\nu_1} I\Bigr),

    where the ends :math:`X_1` come from the control as it is, without gradient. Its fixed point is the optimal control
    :math:`k^* = \nabla \log \mathrm{E}_{free}[e^{-G(X_1)} | X_t]`. One gradient of the energy serves ``num_bridges``
    regressions, and no gradient goes through the simulation. Draws and weights:
    :func:`funcebm.normalizers.controlled_importance`.

    Args:
        energy: ``(energy_params, x) -> ()``.
        control: :math:`k`, a field ``(params, t, x) -> like x``, whose params are trained.
        energy_params: of the energy.
        scale: :math:`c`, a number, or a function of times ``(N,)``, constant over each step. :math:`\nu_1` must cover the
            target: start with the variance of its widest part.
        num_steps: of the simulation.
        num_bridges: regressions for each end.
        clip: the largest norm of :math:`\nabla E`, against the first ends, which are far off; None does not clip.

    Returns:
        A :class:`~funcebm.types.Loss`, whose batches ``(B, *event)`` say only how many particles there are and of which shape,
        and with the metric ``end_energy``, the mean energy of the ends.

    Raises:
        ValueError: a bad count, a clip that is not positive; when called, an energy that is not a scalar.

    Reference: Havens et al. (2025), "Adjoint sampling", arXiv:2504.11713, without its replay buffer: here every evaluation
    simulates.

    >>> energy = lambda params, x: ((x - 1) ** 2).sum() / 2
    >>> loss = adjoint_matching(energy, lambda params, t, x: params * torch.ones_like(x), num_steps=8)
    >>> value, aux = loss(random.key(0), torch.tensor(1.0), torch.zeros(4, 2))  # the optimal control of this shift
    >>> bool(value < 1e-10)
    True
    """
    checks.positive_int("num_steps", num_steps)
    checks.positive_int("num_bridges", num_bridges)
    checks.positive("clip", clip)
    with_slope = fields.value_and_gradient(energy)

    def draw(key: Key, batch: Batch) -> AdjointNoise:
        key_path, key_times, key_bridge = random.split(key, 3)
        num, like = tree.batch_size(batch), tree.first(batch)

        def normal(key: Key, count: int) -> Tree:
            wide = lambda leaf: leaf[:, None].expand(leaf.shape[0], count, *leaf.shape[1:])  # noqa: E731
            return tree.normal_like(key, tree.map(wide, batch))

        # one time in each of the equal parts of [0, 1]: less variance for nothing
        parts = torch.arange(num_bridges, dtype=like.dtype, device=like.device)
        times = (parts + random.uniform(key_times, (num, num_bridges), dtype=like.dtype)) / num_bridges
        return AdjointNoise(normal(key_path, num_steps), times, normal(key_bridge, num_bridges))

    def prepare(params: Params, memory: Tree, batch: Batch, noise: AdjointNoise) -> Tree:
        times, scales, variances = diffusion_grid(scale, num_steps, tree.first(batch))
        zero = tree.map(lambda leaf: torch.zeros_like(leaf[0]), batch)
        ends = vmap(lambda z: controlled_ends(control, params, zero, z, times, scales).position)(noise.path)
        values, slopes = vmap(with_slope, (None, 0))(energy_params, ends)

        def one(end: Position, slope: Position, at: Tensor, normal: Tree) -> tuple[Position, Position]:
            if clip is not None:
                norm = torch.sqrt(tree.squared_norm(slope))
                slope = tree.scale(clip / torch.clamp(norm, min=clip), slope)
            target = tree.map(lambda x, g: x / variances[-1] - g, end, slope)
            share = _variance_at(at, variances) / variances[-1]

            def bridge(share: Tensor, z: Tree) -> Position:
                spread = torch.sqrt(share * (1 - share) * variances[-1])
                return tree.map(lambda x, n: share * x + spread * n, end, z)

            return vmap(bridge)(share, normal), target

        positions, targets = vmap(one)(ends, slopes, noise.times, noise.bridge)
        return positions, targets, noise.times, values.mean()

    def objective(params: Params, prepared: Tree) -> tuple[Tensor, LossAux]:
        positions, targets, times, end_energy = prepared

        def distance(at: Tensor, x: Position, target: Position) -> Tensor:
            return tree.squared_norm(tree.sub(control(params, at, x), target))

        distances = vmap(vmap(distance, (0, 0, None)))(times, positions, targets)
        return distances.mean(), LossAux((), {"end_energy": end_energy})

    return staged(without_memory, draw, prepare, objective)


def _variance_at(times: Tensor, variances: Tensor) -> Tensor:
    """The variance of the free diffusion at any time, linear within each step."""
    num = len(variances) - 1
    places = torch.arange(num, dtype=times.dtype, device=times.device)
    shares = (times[:, None] * num - places).clamp(0, 1)
    return (shares * variances.diff()).sum(-1)
