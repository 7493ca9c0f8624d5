"""Elliptical slice sampling, for a Gaussian prior times any likelihood."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, metrics, random, tree
from ..types import Energy, Key, Params, Position, Sampler, Tree
from ._kernel import Chains, ValueState, lockstep, normal_and_uniform, valued
from ._slices import Search, SliceInfo, begin_search, found_or_stayed, shrink
from .constraints import takes_energy

__all__ = [
    "EllipticalSliceInfo",
    "EllipticalSliceNoise",
    "EllipticalSliceState",
    "EllipticalSliceTuning",
    "elliptical_slice",
]

EllipticalSliceState = ValueState
"""The energy is that of the likelihood, without the prior."""

EllipticalSliceInfo = SliceInfo
"""The energy is that of the likelihood, without the prior."""


class EllipticalSliceNoise(NamedTuple):
    """Standard normals like the position, a uniform for the level, and one for each angle. ``()``, ``(max_shrinks + 1,)``."""

    normal: Tree
    level: Tensor
    angles: Tensor


class EllipticalSliceTuning(NamedTuple):
    """The prior: its mean, ``()`` or a tree like the position, and its covariance as a metric."""

    mean: Tree
    covariance: Any


class _Ellipse(NamedTuple):
    """What a step moves on: the position less the mean, the other axis, and the highest energy of the slice."""

    centred: Tree
    axis: Tree
    bound: Tensor


@takes_energy
def elliptical_slice(
    energy: Energy, *, mean: float | Tree = 0.0, covariance: float | Tree | None = None, max_shrinks: int = 50
) -> Sampler[EllipticalSliceState, EllipticalSliceInfo, EllipticalSliceTuning]:
    r"""Elliptical slice sampling.

    The target is :math:`N(x; \mu, C)\, e^{-E(x)}`: a Gaussian prior, and the energy of the *likelihood* alone,
    :math:`E = -\log L`. With :math:`\nu \sim N(0, C)` it moves on the ellipse

    .. math:: x'(\phi) = \mu + (x - \mu) \cos\phi + \nu \sin\phi

    to a point of the slice :math:`E(x') \le E(x) - \log U`. The first angle is uniform on the circle; an angle off the
    slice becomes an end of the bracket, which shrinks towards :math:`\phi = 0`, and the next is uniform in what is left.
    No gradient, no step size and, but for the limit of the loop, no rejection; the energy may jump, and may be infinite or
    NaN, which is off the slice. Where all ``max_shrinks + 1`` angles fail, the chain stays and ``is_divergent`` is set;
    paths of each length are reversible, so the target is invariant for every ``max_shrinks``.

    Args:
        energy: ``(params, x) -> ()``, minus the log likelihood.
        mean: :math:`\mu`, a number or a tree like one position.
        covariance: :math:`C`. None is the identity, a matrix ``(D, D)`` is dense over the ravelled position, anything else
            (a number, a vector, a tree like one position) holds variances. :mod:`funcebm.metrics` makes the choice
            explicit.
        max_shrinks: how often the bracket may shrink; static.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``EllipticalSliceState``, ``EllipticalSliceInfo`` and
        ``EllipticalSliceTuning``. ``state.energy`` and ``info.energy`` are the likelihood's.

    Raises:
        ValueError: a covariance that is not positive definite, a prior that does not fit the position.

    Reference: Murray, Adams and MacKay (2010), AISTATS, PMLR 9:541-548, figure 2.

    >>> sampler = elliptical_slice(lambda params, x: ((x - 1.0) ** 2).sum() / 2, covariance=4.0)
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> bool(info.is_accepted), int(info.num_gradients)
    (True, 0)
    """
    checks.positive_int("max_shrinks", max_shrinks, minimum=0)
    prior_mean = torch.tensor(float(mean)) if isinstance(mean, (int, float)) else mean
    prior = EllipticalSliceTuning(prior_mean, metrics.of(covariance, name="covariance"))
    value, start = valued(energy, prior.covariance, "covariance")

    def init(params: Params, position: Position) -> ValueState:
        if not _is_scalar(prior_mean):
            checks.one_structure("mean", prior_mean, "one position", position)
            checks.same_shapes("mean", prior_mean, position, "Give one position.")
        return start(params, position)

    def draw(key: Key, position: Position) -> EllipticalSliceNoise:
        normal, level, key_angles = normal_and_uniform(key, position, 3)
        return EllipticalSliceNoise(normal, level, random.uniform(key_angles, (max_shrinks + 1,), dtype=level.dtype))

    def step(
        chains: Chains, params: Params, tuning: EllipticalSliceTuning, state: ValueState, noise: EllipticalSliceNoise
    ) -> tuple[ValueState, SliceInfo]:
        def mean_like(position: Position) -> Position:
            return tree.map(lambda _: tuning.mean, position) if _is_scalar(tuning.mean) else tuning.mean

        def begin(state: ValueState, noise: EllipticalSliceNoise) -> tuple[_Ellipse, Search]:
            centred = tree.map(lambda mean, x: x - mean, mean_like(state.position), state.position)
            axis = metrics.displacement(tuning.covariance, noise.normal)
            angle = 2 * math.pi * noise.angles[0]
            ellipse = _Ellipse(centred, axis, state.energy - torch.log(noise.level))
            return ellipse, begin_search(state, angle - 2 * math.pi, angle)

        def attempt(ellipse: _Ellipse, search: Search, uniform: Tensor) -> tuple[Tensor, Position, Tensor, Tensor]:
            is_first = search.num_tried == 0
            angle = torch.where(is_first, search.high, search.low + (search.high - search.low) * uniform)
            cos, sin = torch.cos(angle), torch.sin(angle)
            position = tree.map(
                lambda mean, x, axis: mean + x * cos + axis * sin,
                mean_like(ellipse.centred),
                ellipse.centred,
                ellipse.axis,
            )
            energy = value(params, position)
            return angle, position, energy, torch.isfinite(energy) & (energy <= ellipse.bound)

        ellipse, search = chains(begin)(state, noise)
        search = shrink(chains, attempt, search, ellipse, noise.angles, max_shrinks)
        return chains(found_or_stayed)(state, search, search.num_tried)

    return lockstep(init, draw, step, prior, adaptation="unchanged")


def _is_scalar(mean: Tree) -> bool:
    return isinstance(mean, Tensor) and mean.ndim == 0
