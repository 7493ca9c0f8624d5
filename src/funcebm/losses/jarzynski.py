"""Maximum likelihood with persistent walkers whose weights keep up with the params, by Jarzynski's equality."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, loops, random, tree
from ..energies.exact import ExactEnergy
from ..normalizers import log_mean_exp
from ..types import Batch, Energy, Key, Loss, Params, Position, Tree
from ._constrained import of_densities
from ._contrast import energies_of
from ._staged import staged
from ._weighted import Weighted, weighted_objective
from .maximum_likelihood import maximum_likelihood

__all__ = ["JarzynskiMemory", "JarzynskiNoise", "jarzynski_maximum_likelihood"]


class JarzynskiMemory(NamedTuple):
    r"""Weighted walkers, and the params for which they stand.

    Attributes:
        positions: ``(num_walkers, *event)``.
        log_weights: :math:`A`, with :math:`\mathrm{E}\,e^A = Z_\theta`. ``(num_walkers,)``.
        params: :math:`\theta`, those of the last evaluation.
    """

    positions: Tree
    log_weights: Tensor
    params: Params


class JarzynskiNoise(NamedTuple):
    """Standard normals ``(num_steps, num_walkers, *event)``, and a uniform ``()`` for the resampling."""

    normal: Tree
    uniform: Tensor


@of_densities
def jarzynski_maximum_likelihood(
    energy: Energy,
    *,
    reference: ExactEnergy,
    reference_params: Params,
    num_walkers: int = 1000,
    num_steps: int = 1,
    step_size: float | Tensor = 0.01,
    resample_below: float | Tensor = 0.5,
    num_temperatures: int = 100,
    event_shape: Sequence[int] | None = None,
) -> Loss:
    r"""Maximum likelihood with walkers that go on from one evaluation to the next, and weights that correct for it.

    Walkers make unadjusted Langevin steps of size :math:`h`. While the params go from :math:`\theta_k` to
    :math:`\theta_{k+1}`, a walker goes from x to y by the energy :math:`E_k`, and

    .. math:: A \mathrel{+}= a_k(x, y) - a_{k+1}(y, x), \qquad
        a_k(x, y) = E_k(x) + \tfrac12 (y - x) \cdot \nabla E_k(x) + \tfrac h4 |\nabla E_k(x)|^2,

    after which :math:`\mathrm{E}\,e^A = Z_\theta` and :math:`\mathrm{E}\,e^A f(x) = Z_\theta\, \mathrm{E}_\theta f` hold exactly,
    for every step size and every path of the params: the loss is that of :func:`maximum_likelihood` at the cost of
    persistent contrastive divergence. Where the effective sample size falls below a share of the walkers, they are drawn
    again in proportion to their weights, systematically. The first weights come from annealed importance sampling.

    Args:
        energy: ``(params, x) -> ()``.
        reference: where the walkers come from, as in :func:`maximum_likelihood`.
        reference_params: its params, constants.
        num_walkers: static.
        num_steps: Langevin steps in each evaluation, static; the first by the params of the one before.
        step_size: :math:`h > 0`, in squared units of ``x``. ``()``.
        resample_below: a share of ``num_walkers`` in [0, 1]. ``()``.
        num_temperatures: of the annealing at the start.
        event_shape: of a position, where the reference's params do not fix it.

    Returns:
        A :class:`~funcebm.types.Loss` with :class:`JarzynskiMemory`, and the metrics ``positive_energy``,
        ``negative_energy`` (weighted), ``energy_gap``, ``log_normalizer``, ``effective_sample_size``, ``resampled`` (0 or 1). The
        memory holds the params, so each evaluation must get the memory of the one before.

    Raises:
        ValueError: a bad count or number; when called, an energy that is not a scalar.

    Reference: Carbone, Hua, Coste and Vanden-Eijnden (2023), NeurIPS, arXiv:2305.19414. They start from exact draws
    of the first energy.

    >>> from funcebm import energies
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> loss = jarzynski_maximum_likelihood(energy, reference=energies.gaussian, num_walkers=100,
    ...     reference_params=energies.gaussian.params([0.0, 0.0]), num_temperatures=20, step_size=0.1)
    >>> params, batch = torch.tensor(2.0), torch.zeros(4, 2)
    >>> value, aux = loss(random.key(1), params, batch, loss.init(random.key(0), params, batch))
    >>> bool((aux.metrics["log_normalizer"] - 1.1447).abs() < 0.2)  # log(2 pi / 2)
    True
    """
    checks.positive_int("num_steps", num_steps)
    checks.positive("step_size", step_size, "Try 0.01.")
    if not isinstance(resample_below, Tensor):
        checks.require(0 <= resample_below <= 1, "resample_below must be in [0, 1]", resample_below, "Try 0.5.")
    step, threshold = tree.number(step_size), tree.number(resample_below)
    annealed = maximum_likelihood(
        energy,
        reference=reference,
        reference_params=reference_params,
        num_particles=num_walkers,
        num_temperatures=num_temperatures,
        event_shape=event_shape,
    )
    energies, value_and_gradient = energies_of(energy), vmap(fields.value_and_gradient(energy), (None, 0))

    def init(key: Key, params: Params, batch: Batch) -> JarzynskiMemory:
        assert annealed.prepare is not None
        prepared = annealed.prepare(params, (), batch, annealed.draw(key, batch))
        log_weights = torch.log(prepared.weights * num_walkers) + prepared.metrics["log_normalizer"]
        return JarzynskiMemory(prepared.particles, log_weights, tree.map(torch.clone, params))

    def draw(key: Key, batch: Batch) -> JarzynskiNoise:
        key_normal, key_uniform = random.split(key)
        like = tree.map(lambda leaf: leaf[0].expand(num_steps, num_walkers, *leaf.shape[1:]), batch)
        return JarzynskiNoise(tree.normal_like(key_normal, like), random.uniform(key_uniform))

    def work(origin: Position, end: Position, value: Tensor, slope: Tree, h: Tensor) -> Tensor:
        """a(origin, end), with the energy and its gradient at the origin."""
        return value + tree.dot(tree.sub(end, origin), slope) / 2 + h / 4 * tree.squared_norm(slope)

    work_all = vmap(work, (0, 0, 0, 0, None))

    def walk(params: Params, memory: JarzynskiMemory, noise: Tree) -> tuple[Position, Tensor]:
        h = step.to(memory.log_weights)
        start = (memory.positions, *value_and_gradient(memory.params, memory.positions), memory.log_weights)

        def body(carry: Any, normal: Tree) -> tuple[Any, tuple[()]]:
            x, value, slope, log_weights = carry
            y = tree.map(lambda at, g, z: at - h * g + (2 * h).sqrt() * z, x, slope, normal)
            new_value, new_slope = value_and_gradient(params, y)
            forth, back = work_all(x, y, value, slope, h), work_all(y, x, new_value, new_slope, h)
            return (y, new_value, new_slope, log_weights + forth - back), ()

        positions, _, _, log_weights = loops.scan(body, start, noise)[0]
        return positions, log_weights

    def prepare(params: Params, memory: JarzynskiMemory, batch: Batch, noise: JarzynskiNoise) -> Weighted:
        positions, log_weights = walk(params, memory, noise.normal)
        weights = torch.softmax(log_weights, 0)
        log_normalizer, _, size = log_mean_exp(log_weights)
        constant = log_normalizer + (weights * energies(params, positions)).sum()
        is_resampled = size < threshold.to(size) * num_walkers
        order = torch.arange(num_walkers, device=weights.device)
        places = torch.zeros_like(weights) + (order + noise.uniform) / num_walkers  # of one layout with the weights
        chosen = torch.searchsorted(weights.cumsum(0), places, right=True).clamp(max=num_walkers - 1)
        chosen = torch.where(is_resampled, chosen, order)
        after = JarzynskiMemory(
            tree.map(lambda leaf: leaf[chosen], positions),
            torch.where(is_resampled, log_normalizer, log_weights),
            tree.map(torch.clone, params),
        )
        metrics = {
            "log_normalizer": log_normalizer,
            "effective_sample_size": size,
            "resampled": is_resampled.to(weights.dtype),
        }
        return Weighted(batch, positions, weights, constant, after, metrics)

    return staged(init, draw, prepare, partial(weighted_objective, energies))
