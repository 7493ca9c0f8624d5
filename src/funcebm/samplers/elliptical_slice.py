"""Elliptical slice sampling, for a Gaussian prior times any likelihood."""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, loops, metrics, random, tree
from ..types import Energy, Key, Params, Position, Sampler, Tree
from ._kernel import Chains, lockstep
from ._slices import found_or_stayed
from .constraints import takes_energy

__all__ = [
    "EllipticalSliceInfo",
    "EllipticalSliceNoise",
    "EllipticalSliceState",
    "EllipticalSliceTuning",
    "elliptical_slice",
]


class EllipticalSliceState(NamedTuple):
    """A position, and the energy of the likelihood there, without the prior. ``()``."""

    position: Position
    energy: Tensor


class EllipticalSliceNoise(NamedTuple):
    """Standard normals like the position, a uniform for the level, and one for each angle. ``()``, ``(max_shrinks + 1,)``."""

    normal: Tree
    level: Tensor
    angles: Tensor


class EllipticalSliceTuning(NamedTuple):
    """The prior: its mean, ``()`` or a tree like the position, and its covariance as a metric."""

    mean: Tree
    covariance: Any


class EllipticalSliceInfo(NamedTuple):
    """The fields of :class:`~funcebm.types.Info`, and the price of the step.

    ``energy`` is the likelihood's, without the prior; ``acceptance_rate`` is 1, or 0 where no angle was found.

    Attributes:
        num_evaluations: how many energies the step computed. ``()`` int32.
    """

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor
    num_evaluations: Tensor


class _Ellipse(NamedTuple):
    """What a step moves on: the position less the mean, the other axis, the highest energy of the slice, the uniforms."""

    centred: Tree
    axis: Tree
    bound: Tensor
    angles: Tensor


class _Search(NamedTuple):
    """What the loop carries: the bracket of angles, the angles tried, and whether the last is on the slice; its point."""

    low: Tensor
    high: Tensor
    num_tried: Tensor
    is_found: Tensor
    position: Position
    energy: Tensor


@takes_energy
def elliptical_slice(
    energy: Energy,
    *,
    mean: float | Tree = 0.0,
    covariance: float | Tree | None = None,
    max_shrinks: int = 50,
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
    prior_covariance = metrics.of(covariance, name="covariance")

    def scalar_energy(params: Params, position: Position) -> Tensor:
        return fields.require_scalar(energy(params, position), position)

    check_shape = metrics.shape_check(prior_covariance, name="covariance")

    def init(params: Params, position: Position) -> EllipticalSliceState:
        check_shape(position)
        if not _is_scalar(prior_mean):
            checks.one_structure("mean", prior_mean, "one position", position)
            shapes = [[tuple(leaf.shape) for leaf in tree.leaves(value)] for value in (prior_mean, position)]
            checks.require(
                shapes[0] == shapes[1], f"mean must have the shapes {shapes[1]}", str(shapes[0]), "Give one position."
            )
        return EllipticalSliceState(position, scalar_energy(params, position))

    def draw(key: Key, position: Position) -> EllipticalSliceNoise:
        key_normal, key_level, key_angles = random.split(key, 3)
        dtype = tree.first(position).dtype
        return EllipticalSliceNoise(
            tree.normal_like(key_normal, position),
            random.uniform(key_level, dtype=dtype),
            random.uniform(key_angles, (max_shrinks + 1,), dtype=dtype),
        )

    def over_mean(function: Callable[..., Tensor], tuning: EllipticalSliceTuning, *trees: Tree) -> Tree:
        if _is_scalar(tuning.mean):
            return tree.map(lambda *leaves: function(tuning.mean, *leaves), *trees)
        return tree.map(function, tuning.mean, *trees)

    def start(
        params: Params, tuning: EllipticalSliceTuning, state: EllipticalSliceState, noise: EllipticalSliceNoise
    ) -> tuple[_Ellipse, _Search]:
        ellipse = _Ellipse(
            over_mean(lambda mean, x: x - mean, tuning, state.position),
            metrics.displacement(tuning.covariance, noise.normal),
            state.energy - torch.log(noise.level),
            noise.angles.clone(),  # compiled, the loop does not keep views alive
        )
        angle = 2 * math.pi * noise.angles[0]
        no = torch.zeros_like(state.energy, dtype=torch.bool)
        count = torch.zeros_like(state.energy, dtype=torch.int32)
        return ellipse, _Search(angle - 2 * math.pi, angle, count, no, state.position, state.energy)

    def attempt(params: Params, tuning: EllipticalSliceTuning, ellipse: _Ellipse, search: _Search) -> _Search:
        uniform = ellipse.angles.gather(0, search.num_tried.long().reshape(1)).reshape(())
        is_first = search.num_tried == 0
        angle = torch.where(is_first, search.high, search.low + (search.high - search.low) * uniform)
        cos, sin = torch.cos(angle), torch.sin(angle)
        move = lambda mean, x, axis: mean + x * cos + axis * sin  # noqa: E731
        position = over_mean(move, tuning, ellipse.centred, ellipse.axis)
        value = scalar_energy(params, position)
        is_found = torch.isfinite(value) & (value <= ellipse.bound)
        return _Search(
            torch.where(angle < 0, angle, search.low),
            torch.where(angle < 0, search.high, angle),
            search.num_tried + 1,
            is_found,
            position,
            value,
        )

    def finish(
        params: Params, tuning: EllipticalSliceTuning, state: EllipticalSliceState, search: _Search
    ) -> tuple[EllipticalSliceState, EllipticalSliceInfo]:
        found = EllipticalSliceState(search.position, search.energy)
        return found_or_stayed(EllipticalSliceInfo, state, found, search.is_found, search.num_tried)

    def make_step(chains: Chains) -> Callable[..., tuple[EllipticalSliceState, EllipticalSliceInfo]]:
        def step(
            params: Params, tuning: EllipticalSliceTuning, state: EllipticalSliceState, noise: EllipticalSliceNoise
        ) -> tuple[EllipticalSliceState, EllipticalSliceInfo]:
            ellipse, search = chains(start)(params, tuning, state, noise)
            search = loops.while_loop(
                lambda search: ~search.is_found & (search.num_tried <= max_shrinks),
                lambda search: chains(attempt)(params, tuning, ellipse, search),
                search,
            )
            return chains(finish)(params, tuning, state, search)

        return step

    return lockstep(init, draw, make_step, EllipticalSliceTuning(prior_mean, prior_covariance), adaptation="unchanged")


def _is_scalar(mean: Tree) -> bool:
    return isinstance(mean, Tensor) and mean.ndim == 0
