r"""Energy matching: a static potential that is a flow far from the data and a Boltzmann density near them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, couplings, fields, loops, paths, random, tree
from ..couplings import Coupling
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._constrained import of_positions
from ._contrast import options_of, value_and_metrics
from ._staged import staged, without_memory
from ._transport import TransportNoise, as_transport, check_parts, draw_ends, pair_ends, paired, per_row, scaled_norms
from .times import uniform_times

__all__ = ["energy_matching"]


class _Noise(NamedTuple):
    """Of the flow, of the starts ``x0`` of half of the negatives, and of their steps ``(num_steps, B, ...)``."""

    flow: TransportNoise
    start: Tree
    chain: Tree


class _Prepared(NamedTuple):
    position: Position
    velocity: Position
    weight: Tensor
    data: Position
    negatives: Position


@of_positions
def energy_matching(
    energy: Energy,
    *,
    contrastive_weight: float | Tensor = 0.0,
    temperature: float | Tensor = 0.15,
    threshold: float = 0.8,
    num_steps: int = 200,
    step_size: float | Tensor = 0.01,
    noise_fraction: float = 0.5,
    noise_scale: float | Tensor = 0.1,
    coupling: Coupling | None = None,
    trim: float = 0.0,
    clamp: float | Tensor | None = None,
) -> Loss:
    r"""Energy matching: one static potential V, first as a flow from noise to the data, then as their Boltzmann density.

    Phase 1 (``contrastive_weight=0``) regresses on the straight lines between pairs of optimal transport,

    .. math:: L_1 = \overline{|{-\nabla V(x_t)} - (x_1 - x_0)|^2}, \qquad x_t = t x_1 + (1 - t) x_0 + s\,\xi.

    Phase 2 weighs its terms by :math:`w(t) = \min(1, (1 - t)/(1 - \tau))` and adds
    :math:`\lambda\,(\overline{V(x_1)} - \overline{V(x^-)})`, with negatives from Langevin dynamics
    :math:`x \leftarrow x - h\nabla V + \sqrt{2\varepsilon h}\,\xi`: some start at data, with
    :math:`\varepsilon = \varepsilon_{\max}`; the others at noise, with :math:`\varepsilon = 0` until the time :math:`\tau` and
    then a ramp to :math:`\varepsilon_{\max}` at time 1.

    After phase 2 the density is :math:`e^{-V/\varepsilon_{\max}}`, so :func:`funcebm.energies.tempered` with the temperature is
    the energy of the data. After phase 1 alone V is no energy of them.

    Args:
        energy: V, ``(params, x) -> ()``.
        contrastive_weight: :math:`\lambda`; a plain 0 is phase 1, and runs no chains. ``()``.
        temperature: :math:`\varepsilon_{\max} > 0`. ``()``.
        threshold: :math:`\tau` in [0, 1).
        num_steps: of Langevin dynamics.
        step_size: h, in units of the time of the flow. ``()``.
        noise_fraction: the share of negatives that start from noise, in [0, 1].
        noise_scale: s, at least 0. ``()``.
        coupling: by default :func:`funcebm.couplings.optimal_transport`.
        trim, clamp: of the contrast, as in :func:`~funcebm.losses.contrastive_divergence`.

    Returns:
        A :class:`~funcebm.types.Loss` over batches of data (or :class:`~funcebm.losses.TransportBatch`, without labels), with
        the metrics ``flow`` and, in phase 2, ``positive_energy``, ``negative_energy`` and ``energy_gap``.

    Raises:
        ValueError: a bad count or number; when called, an energy that is not a scalar, ends that do not fit, labels.
        TypeError: an energy or a coupling that is none.

    Reference: Balcerak et al. (2025), "Energy matching", NeurIPS, arXiv:2504.10612.

    >>> loss = energy_matching(lambda params, x: params * (x**2).sum() / 2)
    >>> loss(random.key(0), torch.tensor(1.0), torch.ones(8, 2))[0].shape
    torch.Size([])
    """
    options = options_of(0.0, 0.0, trim, clamp, 0.0)
    check_parts(energy, coupling, name="energy")
    checks.positive_int("num_steps", num_steps)
    if not isinstance(contrastive_weight, Tensor):
        must, fix = "contrastive_weight must not be negative", "Give 0.0 for phase 1, 2.0 for phase 2, say."
        checks.require(contrastive_weight >= 0, must, contrastive_weight, fix)
    checks.positive("temperature", temperature, "Try 0.15.")
    checks.positive("step_size", step_size, "Try 0.01.")
    checks.require(0 <= threshold < 1, "threshold must be in [0, 1)", threshold, "Try 0.8.")
    checks.require(0 <= noise_fraction <= 1, "noise_fraction must be in [0, 1]", noise_fraction, "Try 0.5.")
    if not isinstance(noise_scale, Tensor):
        checks.require(noise_scale >= 0, "noise_scale must not be negative", noise_scale, "Give 0 for none.")
    pairs = couplings.optimal_transport() if coupling is None else coupling
    is_contrastive = isinstance(contrastive_weight, Tensor) or contrastive_weight != 0
    path, times = paths.linear(), uniform_times()
    slope = fields.gradient(energy)

    def num_from_noise(num: int) -> int:
        return round(num * noise_fraction)

    def draw(key: Key, batch: Batch) -> _Noise:
        key_flow, key_start, key_chain = random.split(key, 3)
        data, given, label = as_transport(batch)
        must = "energy matching takes no labels: its energy is static"
        checks.require(not tree.leaves(label), must, "some", "Leave them out, or train one energy for each label.")
        flow = draw_ends(key_flow, batch, times, pairs, None, True)
        if not is_contrastive:
            return _Noise(flow, (), ())
        first = tree.map(lambda leaf: leaf[: num_from_noise(tree.batch_size(data))], data)
        start = () if tree.leaves(given) else tree.normal_like(key_start, first)
        return _Noise(flow, start, tree.normal_like(key_chain, tree.broadcast(data, num_steps)))

    def negatives(params: Params, batch: Batch, noise: _Noise) -> Position:
        data, given, _ = as_transport(batch)
        num = tree.batch_size(data)
        cold = num_from_noise(num)
        first = tree.map(lambda leaf: leaf[:cold], given) if tree.leaves(given) else noise.start
        start = tree.map(lambda a, b: torch.cat([a, b[cold:]]), first, data)
        like = tree.first(data)
        hottest = tree.number(temperature).to(like)
        is_cold = torch.arange(num, device=like.device) < cold

        def body(x: Position, step: tuple[Tensor, Tree]) -> Position:
            index, normal = step
            ramp = ((index * step_size - threshold) / (1 - threshold)).clamp(0, 1)
            heat = hottest * torch.where(is_cold, ramp, torch.ones_like(ramp))
            shaken = per_row((2 * heat * step_size).sqrt(), normal)
            downhill = vmap(slope, (None, 0))(params, x)
            return tree.map(lambda at, g, z: at - step_size * g + z, x, downhill, shaken)

        steps = torch.arange(num_steps, dtype=like.dtype, device=like.device)
        return loops.fold(body, start, (steps, noise.chain))

    def prepare(params: Params, memory: Tree, batch: Batch, noise: _Noise) -> _Prepared:
        ends = pair_ends(pairs, batch, noise.flow)
        point = vmap(lambda t, x0, x1: paths.sample_path(path, t, x0, x1))(noise.flow.time, ends.source, ends.data)
        position = tree.add_scaled(point.position, noise_scale, noise.flow.latent)
        weight, ends_of_chains = ends.weight, ends.data
        if is_contrastive:
            weight = weight * ((1 - noise.flow.time) / (1 - threshold)).clamp(max=1)
            ends_of_chains = negatives(params, batch, noise)
        return _Prepared(position, point.velocity, weight, ends.data, ends_of_chains)

    def objective(params: Params, prepared: _Prepared) -> tuple[Tensor, LossAux]:
        downhill = vmap(slope, (None, 0))(params, prepared.position)
        flow = scaled_norms(prepared.weight, tree.add(downhill, prepared.velocity)).mean()
        metrics = {"flow": flow.detach()}
        if not is_contrastive:
            return flow, LossAux((), metrics)
        contrast, more = value_and_metrics(energy, options, params, prepared.data, prepared.negatives)
        return flow + contrastive_weight * contrast, LossAux((), {**metrics, **more})

    def couple(batch: Batch, noise: _Noise) -> _Noise:
        return noise._replace(flow=paired(pairs)(batch, noise.flow))

    return staged(without_memory, draw, prepare, objective, couple)
