r"""Diffusion recovery likelihood: maximum likelihood of cleaner points given noisier ones, which short chains sample well."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from .. import checks, fields, loops, paths, random, tree
from ..fields import require_scalar
from ..paths import Path, TimeEnergy
from ..paths.path import has_latent
from ..types import Batch, Key, Loss, LossAux, Params, Position, Tree
from ._staged import staged, without_memory
from ._transport import as_transport, map_field, per_row

__all__ = ["diffusion_recovery_likelihood"]


class _Noise(NamedTuple):
    """Levels ``(B,)``, normals of the two points and of the start of each row, and of the steps ``(num_steps, B, ...)``."""

    level: Tensor
    near: Tree
    far: Tree
    start: Tree
    chain: Tree


class _Prepared(NamedTuple):
    time: Tensor
    positives: Position
    negatives: Position
    label: Tree


def diffusion_recovery_likelihood(
    energy: TimeEnergy,
    path: Path,
    times: Tensor,
    *,
    num_steps: int = 30,
    step_size: float | Tensor = 0.1,
) -> Loss:
    r"""Diffusion recovery likelihood: energies at a ladder of noise levels, each trained given the next noisier one.

    For neighbours r < t of the ladder, :math:`x_r = \rho\,x_t + \tau z` with :math:`\rho = \alpha_r/\alpha_t` and
    :math:`\tau^2 = \sigma_r^2 - \rho^2 \sigma_t^2`, so that

    .. math:: p(x_t \mid x_r) \propto \exp\big(-E_t(x_t) - |x_r - \rho\,x_t|^2/(2\tau^2)\big),

    which is nearly a Gaussian, of mean :math:`x_r/\rho` and scale :math:`s = \tau/\rho`, where the levels are close. The loss is
    :math:`\overline{E_t(x_t^+) - E_t(x_t^-)}`, with the data at level t, and negatives from short Langevin chains on this
    conditional energy. They start at a draw of that Gaussian, and their steps keep it exactly where the energy is flat:

    .. math:: x' = m + \tfrac{2 - \delta}{2 + \delta}(x - m) - \tfrac{2 \delta}{2 + \delta}\,s^2 \nabla E_t(x)
        + \tfrac{\sqrt{8 \delta}}{2 + \delta}\,s\,\xi, \qquad m = x_r/\rho.

    The minimiser is the energy of the data at each level, as by denoising, here by maximum likelihood, but for what the chains
    are off: keep :math:`s^2 \nabla^2 E` below one by a fine ladder.

    Args:
        energy: ``(params, t, x) -> ()``, or ``(params, t, x, label)``.
        path: with normal noise, without a further one.
        times: the ladder, increasing in (0, 1], with :math:`\alpha > 0` at the first; the energy is trained at all but the
            first. ``(L,)``, L at least 2.
        num_steps: of Langevin dynamics.
        step_size: :math:`\delta` in (0, 2), in units of :math:`s^2`. ``()``.

    Returns:
        A :class:`~funcebm.types.Loss` over batches of data, or :class:`~funcebm.losses.TransportBatch` with labels; metrics
        ``positive_energy``, ``negative_energy``, ``energy_gap``.

    Raises:
        ValueError: times that are not increasing in (0, 1], a bad count or number; when called, an energy that is not a scalar.

    Reference: Gao, Song, Poole, Wu and Kingma (2021), ICLR, arXiv:2012.08125, who take plain Langevin steps from the noisy
    point; Cotter, Roberts, Stuart and White (2013), Statistical Science 28(3):424-446, for the steps.

    >>> import torch
    >>> energy = lambda params, t, x: params * (x**2).sum() / 2
    >>> loss = diffusion_recovery_likelihood(energy, paths.trigonometric(), torch.tensor([0.2, 0.6, 1.0]))
    >>> loss(random.key(0), torch.tensor(1.0), torch.ones(4, 2))[0].shape
    torch.Size([])
    """
    checks.positive_int("num_steps", num_steps)
    checks.positive("step_size", step_size, "Try 0.1.")
    if not isinstance(step_size, Tensor):
        checks.require(step_size < 2, "step_size must be below 2", step_size, "Try 0.1.")
    must = "the path must have no further noise"
    checks.require(not has_latent(path), must, "a gamma", "Use trigonometric(), say.")
    right = isinstance(times, Tensor) and times.dim() == 1 and len(times) >= 2
    fix = "Try torch.linspace(0.1, 1, 7)."
    checks.require(right, "times must be a vector of two or more", str(getattr(times, "shape", times)), fix)
    if checks.is_concrete(times):
        right = bool((times > 0).all() and (times <= 1).all() and (times[1:] > times[:-1]).all())
        checks.require(right, "times must increase in (0, 1]", str(times.tolist()), fix)
    num_levels = len(times) - 1

    def draw(key: Key, batch: Batch) -> _Noise:
        key_level, key_near, key_far, key_start, key_chain = random.split(key, 5)
        data = as_transport(batch).data
        level = random.randint(key_level, (tree.batch_size(data),), 0, num_levels)
        chain = tree.normal_like(key_chain, tree.broadcast(data, num_steps))
        near, far, start = (tree.normal_like(k, data) for k in (key_near, key_far, key_start))
        return _Noise(level, near, far, start, chain)

    def value_of(params: Params, t: Tensor, x: Position, *condition: Tree) -> Tensor:
        return require_scalar(energy(params, t, x, *condition), x)

    def slope(params: Params, t: Tensor, x: Position, *condition: Tree) -> Position:
        return fields.gradient(lambda params, x: value_of(params, t, x, *condition))(params, x)

    def prepare(params: Params, memory: Tree, batch: Batch, noise: _Noise) -> _Prepared:
        data, _, label = as_transport(batch)
        ladder = times.to(tree.first(data))
        far, near = paths.at(path, ladder[:-1][noise.level]), paths.at(path, ladder[1:][noise.level])
        rho = far.alpha / near.alpha
        scale = (far.sigma**2 / rho**2 - near.sigma**2).clamp(min=0).sqrt()
        positives = tree.add(per_row(near.alpha, data), per_row(near.sigma, noise.near))
        ends = tree.add(positives, per_row(scale, noise.far))
        t = ladder[1:][noise.level]
        delta = tree.number(step_size).to(scale)
        whole = 2 + delta

        def body(x: Position, normal: Tree) -> Position:
            uphill = per_row(2 * delta / whole * scale**2, map_field(slope, params, t, x, label=label))
            shaken = per_row((8 * delta).sqrt() / whole * scale, normal)
            return tree.map(lambda at, m, g, z: m + (2 - delta) / whole * (at - m) - g + z, x, ends, uphill, shaken)

        start = tree.add(ends, per_row(scale, noise.start))
        return _Prepared(t, positives, loops.fold(body, start, noise.chain), label)

    def objective(params: Params, prepared: _Prepared) -> tuple[Tensor, LossAux]:
        both: list[Any] = []
        for points in (prepared.positives, prepared.negatives):
            both.append(map_field(value_of, params, prepared.time, points, label=prepared.label).mean())
        positive, negative = both
        metrics = {
            "positive_energy": positive.detach(),
            "negative_energy": negative.detach(),
            "energy_gap": (negative - positive).detach(),
        }
        return positive - negative, LossAux((), metrics)

    return staged(without_memory, draw, prepare, objective)
