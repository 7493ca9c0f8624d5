"""Langevin dynamics along falling noise scales: the sampler of annealed denoising score matching."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, tree
from ..types import Info, Key, Number, Params, Position, Sampler, Tree
from .metropolis import nan_outside, unadjusted_info

__all__ = ["AnnealedLangevinState", "AnnealedLangevinTuning", "annealed_langevin"]


class AnnealedLangevinState(NamedTuple):
    """A position, the gradient there at the scale of the next step, and how many steps were made ``()`` int64."""

    position: Position
    gradient: Tree
    step_count: Tensor


class AnnealedLangevinTuning(NamedTuple):
    """``step_size`` ``()`` over the squared noise scale, ``noise_scales`` ``(L,)`` falling, ``temperature`` ``()``."""

    step_size: Tensor
    noise_scales: Tensor
    temperature: Tensor


def annealed_langevin(
    energy: Callable[[Params, Position, Tensor], Tensor],
    noise_scales: Tensor,
    *,
    step_size: Number = 0.1,
    num_steps_each: int = 100,
    temperature: Number = 1.0,
) -> Sampler[AnnealedLangevinState, Info, AnnealedLangevinTuning]:
    r"""Annealed Langevin dynamics, for an energy that takes the noise scale.

    Step k works at the scale :math:`\sigma = \sigma_{\lfloor k/n \rfloor}` with a step in proportion to its square:

    .. math:: x' = x - \epsilon \sigma^2\, \nabla_x E(x, \sigma) + \sqrt{2 \epsilon T}\, \sigma\, \xi

    So after :math:`L n` steps from wide noise it has followed the data from :math:`\sigma_1` down to :math:`\sigma_L`:
    ``num_samples=1`` with ``num_burn_in = L n - 1`` in :func:`funcebm.sample` makes one draw of each chain. Later steps stay
    at the last scale. Its density is that of the data with noise of scale :math:`\sigma_L`. One gradient a step.

    Args:
        energy: ``(params, x, noise_scale) -> ()``, as :func:`funcebm.losses.annealed_denoising_score_matching` trains it.
        noise_scales: :math:`\sigma_1 > \dots > \sigma_L`, those of the training, in units of ``x``. ``(L,)``.
        step_size: :math:`\epsilon > 0`; below 1 it is stable on smooth densities. ``()``.
        num_steps_each: n; static.
        temperature: :math:`T > 0`. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``AnnealedLangevinState``, ``Info`` and ``AnnealedLangevinTuning``.

    Raises:
        ValueError: scales that are not a falling vector of positive numbers, a bad count, a number that is not positive.

    Reference: Song and Ermon (2019), NeurIPS, arXiv:1907.05600, algorithm 1, whose :math:`\epsilon` is half of ours times
    :math:`\sigma_L^2`.

    >>> from funcebm import random
    >>> energy = lambda params, x, scale: (x**2).sum() / (2 * (1 + scale**2))  # N(0, I) data with noise
    >>> sampler = annealed_langevin(energy, torch.tensor([3.0, 1.0, 0.1]), num_steps_each=2)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> int(state.step_count)
    1
    """
    right = isinstance(noise_scales, Tensor) and noise_scales.ndim == 1 and len(noise_scales) > 0
    got = str(tuple(noise_scales.shape)) if isinstance(noise_scales, Tensor) else type(noise_scales).__name__
    fix = "Use losses.geometric_noise_scales(3.0, 0.05, 10), as in the training."
    checks.require(right, "noise_scales must be a vector", got, fix)
    checks.positive("noise_scales", noise_scales)
    if checks.is_concrete(noise_scales):
        is_falling = bool((noise_scales.diff() < 0).all())
        checks.require(is_falling, "noise_scales must fall strictly", str(noise_scales.tolist())[:200], fix)
    checks.positive_int("num_steps_each", num_steps_each)
    checks.positive("step_size", step_size, "Try 0.1.")
    checks.positive("temperature", temperature, "Use 1.0.")
    tuning = AnnealedLangevinTuning(torch.as_tensor(step_size), noise_scales, torch.as_tensor(temperature))

    def scale_at(tuning: AnnealedLangevinTuning, index: Tensor) -> Tensor:
        scales = tuning.noise_scales
        places = torch.arange(len(scales), device=scales.device)
        at = torch.div(index, num_steps_each, rounding_mode="floor").clamp(max=len(scales) - 1)
        return (scales * (places == at)).sum()

    def with_gradient(params: Params, position: Position, scale: Tensor) -> tuple[Tensor, Position]:
        return fields.value_and_gradient(lambda params, x: energy(params, x, scale))(params, position)

    def init(params: Params, position: Position) -> AnnealedLangevinState:
        like = tree.first(position)
        value, gradient = with_gradient(params, position, noise_scales[0].to(like))
        index = torch.zeros((), dtype=torch.int64, device=like.device)
        return AnnealedLangevinState(position, nan_outside(value, gradient), index)

    def draw(key: Key, position: Position) -> Tree:
        return tree.normal_like(key, position)

    def step(
        params: Params, tuning: AnnealedLangevinTuning, state: AnnealedLangevinState, noise: Tree
    ) -> tuple[AnnealedLangevinState, Info]:
        scale = scale_at(tuning, state.step_count)
        length = tuning.step_size * scale.square()
        spread = torch.sqrt(2 * length * tuning.temperature)
        position = tree.map(lambda x, g, z: x - length * g + spread * z, state.position, state.gradient, noise)
        value, gradient = with_gradient(params, position, scale_at(tuning, state.step_count + 1))
        new_state = AnnealedLangevinState(position, gradient, state.step_count + 1)
        return new_state, unadjusted_info(position, value, num_gradients=1)

    return Sampler(init, draw, step, tuning)
