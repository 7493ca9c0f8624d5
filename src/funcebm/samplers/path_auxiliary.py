"""Path auxiliary proposals: a random number of different sites along a path, by one gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, random, tree
from ..types import Energy, Key, Number, Params, Position, Sampler, Tree
from ._heat_bath import DiscreteInfo, value_of
from ._moves import (
    apply,
    argmax_mask,
    checked,
    door,
    estimates,
    masked_sum,
    num_changed,
    num_moves,
    reverse,
    same_sites,
    space_for,
)
from .mala import MalaState as InformedState
from .metropolis import metropolis_hastings

__all__ = ["PathAuxiliaryNoise", "PathAuxiliaryTuning", "path_auxiliary"]


class PathAuxiliaryNoise(NamedTuple):
    """A Gumbel number for each move ``(T,)``, a uniform for the length of the path, and one for the test, each ``()``."""

    gumbel: Tensor
    length: Tensor
    uniform: Tensor


class PathAuxiliaryTuning(NamedTuple):
    """The mean number of flips, and the temperature, each ``()``."""

    num_flips: Tensor
    temperature: Tensor


def path_auxiliary(
    energy: Energy,
    space: Tree | None = None,
    *,
    num_flips: Number = 2.0,
    max_flips: int = 16,
    is_fixed: bool = False,
    temperature: Number = 1.0,
) -> Sampler:
    r"""Path auxiliary fast sampler: R different sites, drawn one after the other from one locally balanced distribution.

    With weights :math:`w_m = e^{d_m / 2}` of the first-order changes :math:`d_m = -\nabla E(x) \cdot (y_m - x) / T`, moves are
    drawn without replacement of sites,

    .. math:: p(m_r \mid m_1, \dots, m_{r-1}) = w_{m_r} \Big/ \sum_{m \text{ at other sites}} w_m,

    by Gumbel numbers, and all are made. The Metropolis-Hastings test has the probability of the way back, with the weights at
    :math:`y` and in reversed order. The length is drawn again each step, 1 + Poisson, because a *fixed even* number of flips
    keeps the parity of the bits and never reaches half of all states. One gradient a step.

    Args:
        energy: ``(params, x) -> ()``, differentiable.
        space: of the positions, from :mod:`funcebm.spaces`; None is that of the energy, if it has one that fits, else bits.
        num_flips: the mean length of a path, at least 1 (a little less where ``max_flips`` cuts it). ``()``.
        max_flips: the longest path; each costs a pass over all moves. Static.
        is_fixed: paths of ``max_flips`` sites always. Static.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``MalaState`` (the gradient is kept), ``DiscreteInfo`` and
        :class:`PathAuxiliaryTuning`.

    Raises:
        ValueError: a number out of its range; from ``init`` and at the start of a run, a fixed number of flips that cannot reach
            every state (of two-valued and ordinal sites an even one, or all of them), a position off the levels.

    Reference: Sun, Dai, Xia and Ramamurthy (2022), ICLR, "Path auxiliary proposal for MCMC in discrete space".

    >>> params = torch.tensor([3.0, -3.0, 1.0])
    >>> sampler = path_auxiliary(lambda params, x: -(params * x).sum(), num_flips=1.5)
    >>> state, info = sampler(random.key(0), params, sampler.init(params, torch.zeros(3)))
    >>> int(info.num_gradients)
    1
    """
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    checks.positive_int("max_flips", max_flips)
    checks.positive("num_flips", num_flips, "Try 2.0.")
    if checks.is_concrete(torch.as_tensor(num_flips)):
        right = 1 <= float(num_flips) <= max_flips
        checks.require(right, f"num_flips must be from 1 to max_flips, {max_flips}", str(float(num_flips)), "Try 2.0.")
    space_of = space_for("path_auxiliary", space, energy)
    value_and_gradient = fields.value_and_gradient(energy)

    def init(params: Params, position: Position) -> InformedState:
        own = checked(space_of, position)
        if is_fixed:
            _check_length(own, _longest(own, max_flips))
        value, gradient = value_and_gradient(params, position)
        return InformedState(position, door(own, position, value), gradient)

    def draw(key: Key, position: Position) -> PathAuxiliaryNoise:
        key_gumbel, key_length, key_accept = random.split(key, 3)
        dtype = tree.first(position).dtype
        return PathAuxiliaryNoise(
            random.gumbel(key_gumbel, (num_moves(space_of(position)),), dtype=dtype),
            random.uniform(key_length, dtype=dtype),
            random.uniform(key_accept, dtype=dtype),
        )

    def step(
        params: Params, tuning: PathAuxiliaryTuning, state: InformedState, noise: PathAuxiliaryNoise
    ) -> tuple[InformedState, DiscreteInfo]:
        own = space_of(state.position)
        longest = _longest(own, max_flips)
        length = torch.full_like(noise.length, longest).long()
        if not is_fixed:
            length = 1 + value_of(noise.length, _poisson(tuning.num_flips - 1, longest))

        def weights(state: InformedState) -> Tensor:
            return estimates(own, state.position, state.gradient) / (2 * tuning.temperature)

        # forth: the path, and its probability
        forth = weights(state)
        left = torch.ones_like(forth, dtype=torch.bool)
        path, log_ratio = [], torch.zeros_like(state.energy)
        for index in range(longest):
            chosen = argmax_mask(torch.where(left, forth + noise.gumbel, -torch.inf)) & (index < length)
            log_ratio = log_ratio - _log_chance(chosen, forth, left)
            left = left & ~same_sites(own, chosen)
            path.append(chosen)
        position = apply(own, state.position, torch.stack(path).any(0))
        proposal = InformedState(position, *value_and_gradient(params, position))
        # back: the same sites in reversed order
        back = weights(proposal)
        left = torch.ones_like(left)
        for chosen in reversed(path):
            home = reverse(own, state.position, chosen)
            log_ratio = log_ratio + _log_chance(home, back, left)
            left = left & ~same_sites(own, home)
        log_ratio = log_ratio + (state.energy - proposal.energy) / tuning.temperature
        after, info = metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients=1)
        return after, DiscreteInfo.of(info, info.acceptance_rate * num_changed(own, state.position, position))

    tuning = PathAuxiliaryTuning(torch.as_tensor(float(num_flips)), torch.as_tensor(temperature))
    return Sampler(init, draw, step, tuning, adaptation="unchanged")


def _longest(space: Tree, max_flips: int) -> int:
    """No path is longer than there are sites."""
    return min(max_flips, sum(part.num_sites for part in tree.leaves(space)))


def _check_length(space: Tree, length: int) -> None:
    """Paths of one length must reach every state."""
    fix = "Leave is_fixed out: lengths are then random, and 1 among them. Or fix an odd number."
    # a move changes the parity of a site of two values, and that of a level, and may leave that of a category
    parities = [part.kind != "categorical" or size == 2 for part in tree.leaves(space) for size in part.sizes]
    must = "a fixed number of flips must be odd, since an even one keeps the parity of the bits and is reducible"
    checks.require(not (all(parities) and length % 2 == 0), must, str(length), fix)
    must = (
        "a fixed number of flips must be below that of sites, since to flip all keeps which are equal and is reducible"
    )
    checks.require(not (length == len(parities) and sum(parities) > 1), must, f"{length} of {len(parities)} sites", fix)


def _poisson(mean: Tensor, num: int) -> Tensor:
    """The Poisson probabilities of ``0 .. num - 1``, cut there. ``(num,)``."""
    counts = torch.arange(num, device=mean.device).to(mean.dtype)
    return torch.softmax(torch.xlogy(counts, mean) - torch.lgamma(counts + 1), -1)


def _log_chance(chosen: Tensor, weights: Tensor, left: Tensor) -> Tensor:
    """Of one move among those that are left; 0 where the path has ended."""
    total = torch.logsumexp(torch.where(left, weights, -torch.inf), -1)
    return torch.where(chosen.any(), masked_sum(chosen, weights) - torch.where(left.any(), total, 0), 0)
