"""Adjoint sampling: a diffusion that samples an energy, trained by regression alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, random, tree
from ..normalizers.controlled_importance import check_scale, controlled_ends, diffusion_grid
from ..paths import Field
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Schedule, Tree
from ._staged import staged

__all__ = ["AdjointNoise", "ReplayMemory", "adjoint_matching"]


class AdjointNoise(NamedTuple):
    """Normals of the simulation ``(B, N, *event)``; times and normals of the bridges ``(R, K)`` and ``(R, K, *event)``; which
    ends of the buffer are replayed ``(R,)``, or ``()``. Without a buffer R is B."""

    path: Tree
    times: Tensor
    bridge: Tree
    slots: Tree = ()


class ReplayMemory(NamedTuple):
    """The memory of a replay buffer: ends and the clipped gradients of the energy there ``(S, *event)``, and the slot where the
    next ones go ``()`` int64."""

    ends: Position
    slopes: Position
    place: Tensor


def adjoint_matching(
    energy: Energy,
    control: Field,
    *,
    energy_params: Params = (),
    scale: float | Tensor | Schedule = 1.0,
    num_steps: int = 50,
    num_bridges: int = 16,
    clip: float | None = 10.0,
    buffer_size: int | None = None,
    num_replayed: int = 512,
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

    With a replay buffer each evaluation puts its B ends into it, over the oldest ones, and regresses on ``num_replayed`` of all
    that it holds: the control forgets slowly what it has once found, and few simulations and gradients of the energy serve
    many regressions. It begins full, with ends under the first control. (The paper simulates many ends now and then; here a
    few come at every evaluation, in the same proportion.)

    Args:
        energy: ``(energy_params, x) -> ()``.
        control: :math:`k`, a field ``(params, t, x) -> like x``, whose params are trained.
        energy_params: of the energy.
        scale: :math:`c`, a number, or a function of times ``(N,)``, constant over each step. :math:`\nu_1` must cover the
            target: start with the variance of its widest part. And the noise of the last steps must be smaller than its
            narrowest: for modes far apart take one that falls geometrically, ``lambda t: wide * (narrow / wide) ** t``.
        num_steps: of the simulation.
        num_bridges: regressions for each end.
        clip: the largest norm of :math:`\nabla E`, against the first ends, which are far off; None does not clip.
        buffer_size: S, the number of ends that are kept, at least B; None keeps none.
        num_replayed: R, ends of the buffer for each evaluation, drawn with replacement.

    Returns:
        A :class:`~funcebm.types.Loss`, whose batches ``(B, *event)`` say only how many particles there are and of which shape,
        and with the metric ``end_energy``, the mean energy of the ends.

    Raises:
        ValueError: a bad count, a clip or a scale that is not positive; when called, an energy that is not a scalar, a control
            that is not like ``x``, a batch larger than the buffer.

    Reference: Havens et al. (2025), "Adjoint sampling", ICML, arXiv:2504.11713, algorithm 1.

    >>> energy = lambda params, x: ((x - 1) ** 2).sum() / 2
    >>> loss = adjoint_matching(energy, lambda params, t, x: params * torch.ones_like(x), num_steps=8)
    >>> value, aux = loss(random.key(0), torch.tensor(1.0), torch.zeros(4, 2))  # the optimal control of this shift
    >>> bool(value < 1e-10)
    True
    """
    checks.positive_int("num_steps", num_steps)
    checks.positive_int("num_bridges", num_bridges)
    checks.positive("clip", clip)
    checks.positive_int("num_replayed", num_replayed)
    if buffer_size is not None:
        checks.positive_int("buffer_size", buffer_size)
    check_scale(scale)
    with_slope = fields.value_and_gradient(energy)

    def normal(key: Key, like: Batch, num: int, count: int) -> Tree:
        wide = lambda leaf: leaf[:1, None].expand(num, count, *leaf.shape[1:])  # noqa: E731
        return tree.normal_like(key, tree.map(wide, like))

    def simulated(params: Params, one: Position, path: Tree) -> tuple[Position, Position, Tensor]:
        """Ends, clipped gradients of the energy and energies there, under the control as it is."""
        times, scales, _ = diffusion_grid(scale, num_steps, tree.first(one))
        zero = tree.map(torch.zeros_like, one)
        ends = vmap(lambda z: controlled_ends(control, params, zero, z, times, scales).position)(path)
        values, slopes = vmap(with_slope, (None, 0))(energy_params, ends)
        if clip is None:
            return ends, slopes, values

        def clipped(slope: Position) -> Position:
            return tree.scale(clip / torch.clamp(torch.sqrt(tree.squared_norm(slope)), min=clip), slope)

        return ends, vmap(clipped)(slopes), values

    def init(key: Key, params: Params, batch: Batch) -> Tree:
        if buffer_size is None:
            return ()
        must = "buffer_size must be at least the batch size"
        num = tree.batch_size(batch)
        checks.require(num <= buffer_size, must, f"{buffer_size} and {num}", "Try 10,000 ends.")
        one = tree.map(lambda leaf: leaf[0], batch)
        ends, slopes, _ = simulated(params, one, normal(key, batch, buffer_size, num_steps))
        return ReplayMemory(ends, slopes, torch.zeros((), dtype=torch.int64, device=tree.first(one).device))

    def draw(key: Key, batch: Batch) -> AdjointNoise:
        key_path, key_times, key_bridge = random.split(key, 3)
        like = tree.first(batch)
        num = tree.batch_size(batch)
        slots: Tree = ()
        replayed = num
        if buffer_size is not None:
            replayed = num_replayed
            slots = random.randint(random.fold_in(key_times, 1), (replayed,), 0, buffer_size)
        # one time in each of the equal parts of [0, 1]: less variance for nothing
        parts = torch.arange(num_bridges, dtype=like.dtype, device=like.device)
        times = (parts + random.uniform(key_times, (replayed, num_bridges), dtype=like.dtype)) / num_bridges
        bridge = normal(key_bridge, batch, replayed, num_bridges)
        return AdjointNoise(normal(key_path, batch, num, num_steps), times, bridge, slots)

    def prepare(params: Params, memory: Tree, batch: Batch, noise: AdjointNoise) -> Tree:
        _, _, variances = diffusion_grid(scale, num_steps, tree.first(batch))
        ends, slopes, values = simulated(params, tree.map(lambda leaf: leaf[0], batch), noise.path)
        if buffer_size is not None:
            new = torch.arange(tree.batch_size(batch), device=memory.place.device)
            into = (memory.place + new) % buffer_size
            put = lambda kept, fresh: kept.index_copy(0, into, fresh)  # noqa: E731
            place = (memory.place + len(new)) % buffer_size
            memory = ReplayMemory(tree.map(put, memory.ends, ends), tree.map(put, memory.slopes, slopes), place)
            ends, slopes = tree.map(lambda leaf: leaf[noise.slots], (memory.ends, memory.slopes))

        def one(end: Position, slope: Position, at: Tensor, normal: Tree) -> tuple[Position, Position]:
            target = tree.map(lambda x, g: x / variances[-1] - g, end, slope)
            share = _variance_at(at, variances) / variances[-1]

            def bridge(share: Tensor, z: Tree) -> Position:
                spread = torch.sqrt(share * (1 - share) * variances[-1])
                return tree.map(lambda x, n: share * x + spread * n, end, z)

            return vmap(bridge)(share, normal), target

        positions, targets = vmap(one)(ends, slopes, noise.times, noise.bridge)
        return positions, targets, noise.times, values.mean(), memory

    def objective(params: Params, prepared: Tree) -> tuple[Tensor, LossAux]:
        positions, targets, times, end_energy, memory = prepared

        def distance(at: Tensor, x: Position, target: Position) -> Tensor:
            return tree.squared_norm(tree.sub(control(params, at, x), target))

        distances = vmap(vmap(distance, (0, 0, None)))(times, positions, targets)
        return distances.mean(), LossAux(memory, {"end_energy": end_energy})

    return staged(init, draw, prepare, objective)


def _variance_at(times: Tensor, variances: Tensor) -> Tensor:
    """The variance of the free diffusion at any time, linear within each step."""
    num = len(variances) - 1
    places = torch.arange(num, dtype=times.dtype, device=times.device)
    shares = (times[:, None] * num - places).clamp(0, 1)
    return (shares * variances.diff()).sum(-1)
