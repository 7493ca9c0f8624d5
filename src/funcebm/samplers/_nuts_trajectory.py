r"""The trajectory of the No-U-Turn Sampler: doubled sub-tree by sub-tree, grown a pair of leaves at a time.

Everything here is of one chain, on ravelled vectors, and in coordinates of unit scale: with :math:`M^{-1} = A A^\top` the
momentum is :math:`A^\top p`, whose distribution is :math:`N(0, I)`, so that the test for a U-turn is Euclidean. The trajectory
always grows at its *front*: a doubling that goes back in time turns the trajectory around (its ends change places, its
momenta change sign).

A sub-tree is not built by recursion. Of the spans whose last leaf is still to come it is enough to keep the first leaf,
each in a *slot*: number 0 is the far end of the trajectory, number ``1 + ones(m)`` the first leaf of pair ``m`` of the
sub-tree, where ``ones`` counts the binary digits 1. Pair ``m`` ends the spans that start in the slots ``ones(m + 1)`` to
``ones(m)``, and in slot 0 if it is the last; the right half of such a span starts in the slot after it.

Reference: Phan, Pradhan and Jankowiak (2019), arXiv:1912.11554, for the loop and the slots. Pairs, the cross
checks and the trajectory as one more span are ours.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import metrics, tree
from ..types import Tree
from .metropolis import DIVERGENCE_THRESHOLD

__all__ = ["Dynamics", "NUTSNoise", "Point", "Trajectory", "grow", "start"]


class NUTSNoise(NamedTuple):
    """Standard normals like the position, and three uniforms for each doubling.

    Attributes:
        momentum: the momentum, in coordinates of unit scale.
        uniforms: ``(3, max_depth)``. Row 0: below 1/2 the trajectory is turned around before the doubling. Row 1: the state
            moves to the new sub-tree below the ratio of weights. Row 2: number ``j`` chooses among the leaves ``2^j`` to
            ``2^{j+1} - 1`` of a sub-tree, any sub-tree: only the choices inside of one of them can matter.
    """

    momentum: Tree
    uniforms: Tensor


class Dynamics(NamedTuple):
    """What moves a trajectory: ``field`` is ``position -> (energy, gradient)``, the metric is of ravelled vectors."""

    field: Callable[[Tensor], tuple[Tensor, Tensor]]
    metric: Any
    step_size: Tensor
    temperature: Tensor


class Point(NamedTuple):
    """What may become the next state: position ``(D,)``, gradient of the energy ``(D,)``, energy, Hamiltonian."""

    position: Tensor
    gradient: Tensor
    energy: Tensor
    total_energy: Tensor


class End(NamedTuple):
    """An end of a trajectory, ``(D,)`` each; momentum and gradient (of ``E / T``) in coordinates of unit scale."""

    position: Tensor
    momentum: Tensor
    gradient: Tensor


class Trajectory(NamedTuple):
    """What is known of the leaves so far.

    Attributes:
        front: where it grows.
        far: the other end.
        total: the sum of all momenta. ``(D,)``.
        firsts: the momentum of the leaf in each slot. ``(S, D)``.
        sums: the sum of all momenta before that leaf. ``(S, D)``.
        lasts: the momentum of the leaf before that leaf. ``(S, D)``.
        selected: the next state, from the finished sub-trees.
        candidate: the next state, if it comes from the growing sub-tree.
        log_weight: log of the sum of ``exp(H_0 - H)`` over the finished sub-trees.
        subtree_log_weight: the same of the growing one.
        uniform: chooses the candidate.
        acceptance: the sum of ``min(1, exp(H_0 - H))`` over all leaves.
        num_leaves: leapfrog steps so far. int32, as the next three.
        pair: the number of the next pair in its sub-tree.
        slot: where its first leaf goes.
        depth: the number of doublings.
        is_moved: whether the selected point is not the start.
        is_divergent: whether a leaf diverged.
        is_turning: whether a U-turn ended the trajectory.
        goes_on: whether the trajectory still grows; one that does not stands still at its far end.
    """

    front: End
    far: End
    total: Tensor
    firsts: Tensor
    sums: Tensor
    lasts: Tensor
    selected: Point
    candidate: Point
    log_weight: Tensor
    subtree_log_weight: Tensor
    uniform: Tensor
    acceptance: Tensor
    num_leaves: Tensor
    pair: Tensor
    slot: Tensor
    depth: Tensor
    is_moved: Tensor
    is_divergent: Tensor
    is_turning: Tensor
    goes_on: Tensor


def _leapfrog(dynamics: Dynamics, end: End) -> tuple[End, Point]:
    """One step on, and what the new leaf offers."""
    field, metric, step_size, temperature = dynamics
    half = end.momentum - step_size / 2 * end.gradient
    position = end.position + step_size * metrics.displacement(metric, half)
    energy, slope = field(position)
    gradient = metrics.whiten(metric, slope) / temperature
    momentum = half - step_size / 2 * gradient
    total_energy = energy / temperature + (momentum * momentum).sum() / 2
    return End(position, momentum, gradient), Point(position, slope, energy, total_energy)


def _log_weight(initial: Tensor, leaf: Point) -> tuple[Tensor, Tensor]:
    """``H_0 - H``, ``-inf`` where that is not finite, and whether that is a divergence."""
    error = initial - leaf.total_energy
    log_weight = torch.where(torch.isfinite(error), error, -torch.inf)
    return log_weight, log_weight < -DIVERGENCE_THRESHOLD


def _turns(first: Tensor, last: Tensor, total: Tensor) -> Tensor:
    """Whether a span no longer gets longer: the generalised U-turn, of its end momenta and the sum of all. ``(...)``."""
    return ~(((first * total).sum(-1) > 0) & ((last * total).sum(-1) > 0))


def _set_out(is_back: Tensor, t: Trajectory) -> Trajectory:
    """Turns the trajectory around where ``is_back`` holds; one that has ended goes to its far end to stay there."""
    is_back = is_back & t.goes_on
    front, far = (end._replace(momentum=-end.momentum) for end in (t.front, t.far))
    return t._replace(
        front=tree.where(is_back | ~t.goes_on, far, t.front),
        far=tree.where(is_back, front, t.far),
        total=torch.where(is_back, -t.total, t.total),
    )


def start(dynamics: Dynamics, uniforms: Tensor, momentum: Tensor, point: Point) -> Trajectory:
    """The trajectory after its first doubling, of one leaf and one step, turned to where it grows next.

    Args:
        dynamics: what moves the front.
        uniforms: of the noise. ``(3, max_depth)``.
        momentum: of the first leaf, in coordinates of unit scale. ``(D,)``.
        point: the first leaf.
    """
    flips, merges, _ = uniforms.unbind(0)
    max_depth, zero = flips.shape[0], torch.zeros_like(point.energy)
    momentum = torch.where(flips[0] < 0.5, -momentum, momentum)
    far = End(point.position, momentum, metrics.whiten(dynamics.metric, point.gradient) / dynamics.temperature)
    front, leaf = _leapfrog(dynamics, far)
    total = momentum + front.momentum
    log_weight, is_divergent = _log_weight(point.total_energy, leaf)
    is_turning = ~is_divergent & _turns(momentum, front.momentum, total)
    is_taken = ~is_divergent & (merges[0] < torch.exp(log_weight))
    slots = momentum.new_zeros(max_depth, *momentum.shape)
    no, one = torch.zeros_like(is_taken), torch.ones_like(zero, dtype=torch.int32)
    t = Trajectory(
        front=front,
        far=far,
        total=total,
        firsts=slots,
        sums=slots,
        lasts=slots,
        selected=tree.where(is_taken, leaf, point),
        candidate=leaf,
        log_weight=torch.logaddexp(zero, log_weight),
        subtree_log_weight=torch.full_like(zero, -torch.inf),
        uniform=zero,
        acceptance=log_weight.clamp(max=0).exp(),
        num_leaves=one,
        pair=torch.zeros_like(one),
        slot=one,
        depth=(~is_divergent).to(torch.int32),
        is_moved=is_taken,
        is_divergent=is_divergent,
        is_turning=is_turning,
        goes_on=no if max_depth == 1 else ~is_divergent & ~is_turning,
    )
    return _set_out(flips[1] < 0.5, t) if max_depth > 1 else t


def _log2(n: Tensor) -> Tensor:
    """The exponent of a power of two; any whole number of others."""
    return torch.log2(n.to(torch.float32)).round().to(torch.int32)


def _at(index: Tensor, row: Tensor) -> Tensor:
    """``row[index]``, or the last number of the row beyond its end."""
    return row.gather(0, index.clamp(max=row.shape[0] - 1).long()[None])[0]


def grow(dynamics: Dynamics, uniforms: Tensor, initial: Tensor, t: Trajectory) -> Trajectory:
    """Adds a pair of leaves at the front, and merges the sub-tree with the trajectory if that completes it.

    Args:
        dynamics: what moves the front.
        uniforms: of the noise. ``(3, max_depth)``.
        initial: the Hamiltonian of the first leaf. ``()``.
        t: the trajectory; of one that has ended only the ends are used.
    """
    max_depth = uniforms.shape[1]
    number, pair = torch.arange(max_depth, dtype=torch.int32, device=t.pair.device), t.pair
    first, one = _leapfrog(dynamics, t.front)
    front, two = _leapfrog(dynamics, first)
    total = t.total + first.momentum + front.momentum
    (weight_one, diverges_one), (weight_two, diverges_two) = _log_weight(initial, one), _log_weight(initial, two)

    # numbers of this doubling, and a new uniform at each pair whose number is a power of two, or 0
    is_power = (pair & (pair - 1)) == 0
    flip, merge = _at(t.depth + 1, uniforms[0]), _at(t.depth, uniforms[1])
    uniform = torch.where(is_power, _at(_log2((2 * pair).clamp(min=1)), uniforms[2]), t.uniform)

    # the leaves take the candidate's place with their shares; what is left of the uniform is stretched to [0, 1) again
    subtree_log_weight = torch.logaddexp(t.subtree_log_weight, torch.logaddexp(weight_one, weight_two))
    share, share_two = torch.exp(weight_one - subtree_log_weight), torch.exp(weight_two - subtree_log_weight)
    both = share + share_two
    is_two = uniform < share_two
    is_one = ~is_two & ((uniform < both) | (pair == 0))
    left = torch.where(is_one, (uniform - share_two) / share, (uniform - both) / (1 - both))
    left = torch.where(is_two, uniform / share_two, left).clamp(0, 1 - torch.finfo(uniform.dtype).eps)
    candidate = tree.where(is_two, two, tree.where(is_one, one, t.candidate))

    # a span must not turn as a whole, nor each half with the nearest leaf of the other
    is_written = (number == t.slot)[:, None]
    firsts = torch.where(is_written, first.momentum, torch.where((number == 0)[:, None], t.far.momentum, t.firsts))
    sums = torch.where(is_written, t.total, t.sums)
    lasts = torch.where(is_written, t.front.momentum, t.lasts)
    turns = (
        _turns(firsts[:-1], front.momentum, total - sums[:-1])
        | _turns(firsts[:-1], firsts[1:], sums[1:] - sums[:-1] + firsts[1:])
        | _turns(lasts[1:], front.momentum, total - sums[1:] + lasts[1:])
    )
    lowest = t.slot + 1 - _log2((pair ^ (pair + 1)) + 1)
    is_ended = (number[:-1] >= lowest) & (number[:-1] < t.slot)
    turns_inside = (turns & is_ended).any() | _turns(first.momentum, front.momentum, first.momentum + front.momentum)

    is_complete = ((2 * pair + 2) >> t.depth) > 0
    is_divergent = t.goes_on & (diverges_one | diverges_two)
    is_merged = t.goes_on & is_complete & ~turns_inside & ~is_divergent
    is_turning = t.goes_on & ~is_divergent & (turns_inside | (is_complete & turns[0]))
    is_taken = is_merged & (merge < torch.exp(subtree_log_weight - t.log_weight))
    has_two = t.goes_on & ~diverges_one
    rate_one, rate_two = weight_one.clamp(max=0).exp(), weight_two.clamp(max=0).exp()
    depth = t.depth + is_merged.to(torch.int32)
    t = t._replace(
        front=front,
        total=total,
        firsts=firsts,
        sums=sums,
        lasts=lasts,
        selected=tree.where(is_taken, candidate, t.selected),
        candidate=candidate,
        log_weight=torch.where(is_merged, torch.logaddexp(t.log_weight, subtree_log_weight), t.log_weight),
        subtree_log_weight=torch.where(is_complete, -torch.inf, subtree_log_weight),
        uniform=left,
        acceptance=t.acceptance + t.goes_on * rate_one + has_two * rate_two,
        num_leaves=t.num_leaves + t.goes_on.to(torch.int32) + has_two.to(torch.int32),
        pair=torch.where(is_complete, 0, pair + 1),
        slot=torch.where(is_complete, 1, lowest + 1),
        depth=depth,
        is_moved=t.is_moved | is_taken,
        is_divergent=t.is_divergent | is_divergent,
        is_turning=t.is_turning | is_turning,
        goes_on=t.goes_on & ~is_turning & ~is_divergent & (depth < max_depth),
    )
    return _set_out(is_merged & (flip < 0.5), t)
