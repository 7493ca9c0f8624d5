r"""The trajectory of the No-U-Turn Sampler: doubled sub-tree by sub-tree, grown a pair of leaves at a time.

Everything here is of one chain, on ravelled vectors, and in coordinates of unit scale: with :math:`M^{-1} = A A^\top` the
momentum is :math:`A^\top p`, whose law is :math:`N(0, I)`, so that the test for a U-turn is Euclidean. The trajectory
always grows at its *front*: a doubling that goes back in time turns the trajectory around (its ends change places, its
momenta change sign).

A sub-tree is not built by recursion. Of all the spans whose last leaf is still to come it is enough to keep the first
leaf, and each leaf that starts one has a *slot*: number 0 is the far end of the trajectory, number ``1 + ones(m)`` the
first leaf of pair ``m`` of the sub-tree, where ``ones`` counts the binary digits 1. Pair ``m`` ends the spans that start in
the slots ``ones(m + 1)`` to ``ones(m)``; the right half of such a span starts in the slot after it.

Reference: Phan, Pradhan and Jankowiak (2019), arXiv:1912.11554, appendix A (iterative form; the slots are as there, pairs
and the cross checks are ours).
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .. import metrics, tree
from ..types import Tree

__all__ = ["Candidate", "Dynamics", "NUTSNoise", "Packed", "Trajectory", "grow", "pack", "start", "unpack"]

_DIVERGENCE_THRESHOLD = 1000.0


class NUTSNoise(NamedTuple):
    """Standard normals like the position, and three uniforms for each doubling.

    Attributes:
        momentum: the momentum, in coordinates of unit scale.
        uniforms: ``(3, max_depth)``. Rows: below 1/2 the trajectory is turned around before the doubling; whether the
            state moves to the new sub-tree; number ``j`` chooses among the leaves ``2^j`` to ``2^{j+1} - 1`` of a sub-tree,
            any sub-tree, for only the choices inside of one of them can matter.
    """

    momentum: Tree
    uniforms: Tensor


class Candidate(NamedTuple):
    """A point that may become the next state: position ``(D,)``, gradient of the energy ``(D,)``, energy, Hamiltonian."""

    position: Tensor
    gradient: Tensor
    energy: Tensor
    total_energy: Tensor


class Trajectory(NamedTuple):
    """What is known of the leaves so far. Vectors are ``(D,)``, arrays of slots ``(S, D)``, the rest ``()``.

    Attributes:
        position: of the front.
        momentum: of the front.
        gradient: of the front: of ``E / T`` in coordinates of unit scale.
        far_position: of the far end, whose momentum is in slot 0.
        far_gradient: of the far end.
        total: the sum of all momenta.
        slots: ``(3, S, D)``: the momentum of the leaf in each slot, the sum of all momenta before that leaf, and the
            momentum of the leaf before that leaf.
        selected: the next state, from the finished sub-trees.
        candidate: the next state, if it comes from the growing sub-tree.
        log_weight: log of the sum of ``exp(H_0 - H)`` over the finished sub-trees.
        subtree_log_weight: the same of the growing one.
        uniform: chooses the candidate.
        acceptance: the sum of ``min(1, exp(H_0 - H))`` over all leaves.
        num_leaves: leapfrog steps so far. int32, as the next two.
        num_pairs: pairs in the growing sub-tree.
        depth: the number of doublings.
        is_moved: whether the selected point is not the start.
        is_divergent: whether a leaf diverged.
        is_turning: whether a U-turn ended the trajectory.
        goes_on: whether the trajectory still grows.
    """

    position: Tensor
    momentum: Tensor
    gradient: Tensor
    far_position: Tensor
    far_gradient: Tensor
    total: Tensor
    slots: Tensor
    selected: Candidate
    candidate: Candidate
    log_weight: Tensor
    subtree_log_weight: Tensor
    uniform: Tensor
    acceptance: Tensor
    num_leaves: Tensor
    num_pairs: Tensor
    depth: Tensor
    is_moved: Tensor
    is_divergent: Tensor
    is_turning: Tensor
    goes_on: Tensor


class Packed(NamedTuple):
    """A trajectory in few tensors, as a compiled loop likes to carry it: ``(3, S, D)``, ``(10, D)``, and ``(n,)`` each."""

    slots: Tensor
    vectors: Tensor
    numbers: Tensor
    counts: Tensor
    flags: Tensor


def pack(t: Trajectory) -> Packed:
    """The tensors of a kind in one."""
    leaves = [leaf for leaf in tree.leaves(t) if leaf is not t.slots]
    vectors = [leaf for leaf in leaves if leaf.ndim == 1]
    groups = [[leaf for leaf in leaves if leaf.ndim == 0 and leaf.dtype == dtype] for dtype in (t.log_weight.dtype, torch.int32, torch.bool)]
    return Packed(t.slots, *(torch.stack(group) for group in (vectors, *groups)))


def unpack(packed: Packed) -> Trajectory:
    """The inverse of :func:`pack`."""
    x, p, g, far_x, far_g, total, *points = packed.vectors.unbind(0)
    energies = packed.numbers.unbind(0)
    selected, candidate = (Candidate(*points[2 * i : 2 * i + 2], *energies[2 * i : 2 * i + 2]) for i in range(2))
    rest = (*energies[4:], *packed.counts.unbind(0), *packed.flags.unbind(0))
    return Trajectory(x, p, g, far_x, far_g, total, packed.slots, selected, candidate, *rest)


class Dynamics(NamedTuple):
    """What moves a trajectory: ``field`` is ``position -> (energy, gradient)``, the metric is of ravelled vectors."""

    field: Callable[[Tensor], tuple[Tensor, Tensor]]
    metric: Any
    step_size: Tensor
    temperature: Tensor


def _at(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(0, index.clamp(max=values.shape[0] - 1).long().reshape(1)).reshape(())


def _turn_around(is_back: Tensor, t: Trajectory) -> Trajectory:
    """Exchanges the ends and reverses time where ``is_back`` holds."""
    numbers = torch.arange(t.slots.shape[0] * t.slots.shape[1], device=is_back.device).reshape(t.slots.shape[:2])
    is_far = is_back & (numbers == 0)
    return t._replace(
        position=torch.where(is_back, t.far_position, t.position),
        momentum=torch.where(is_back, -t.slots[0, 0], t.momentum),
        gradient=torch.where(is_back, t.far_gradient, t.gradient),
        far_position=torch.where(is_back, t.position, t.far_position),
        far_gradient=torch.where(is_back, t.gradient, t.far_gradient),
        total=torch.where(is_back, -t.total, t.total),
        slots=torch.where(is_far[:, :, None], -t.momentum, t.slots),
    )


def start(dynamics: Dynamics, noise: NUTSNoise, momentum: Tensor, point: Candidate) -> Trajectory:
    """The trajectory of one leaf, turned to where it first grows."""
    gradient = metrics.whiten(dynamics.metric, point.gradient) / dynamics.temperature
    momentum = torch.where(noise.uniforms[0, 0] < 0.5, -momentum, momentum)
    num_slots = max(noise.uniforms.shape[1], 2)
    slots = momentum.new_zeros(3, num_slots, *momentum.shape)
    zero = torch.zeros_like(point.energy)
    no, count = torch.zeros_like(zero, dtype=torch.bool), torch.zeros_like(zero, dtype=torch.int32)
    return Trajectory(
        position=point.position,
        momentum=momentum,
        gradient=gradient,
        far_position=point.position,
        far_gradient=gradient,
        total=momentum,
        slots=torch.cat([slots[:1] + momentum, slots[1:]]),
        selected=point,
        candidate=point,
        log_weight=zero,
        subtree_log_weight=torch.full_like(zero, -torch.inf),
        uniform=zero,
        acceptance=zero,
        num_leaves=count,
        num_pairs=count,
        depth=count,
        is_moved=no,
        is_divergent=no,
        is_turning=no,
        goes_on=~no,
    )


def _leaf(dynamics: Dynamics, initial: Tensor, t: Trajectory) -> Trajectory:
    """A leapfrog step of the front; the new point takes the candidate's place with its share of the sub-tree's weight."""
    field, metric, step_size, temperature = dynamics
    half = t.momentum - step_size / 2 * t.gradient
    position = t.position + step_size * metrics.displacement(metric, half)
    energy, slope = field(position)
    gradient = metrics.whiten(metric, slope) / temperature
    momentum = half - step_size / 2 * gradient
    total_energy = energy / temperature + (momentum * momentum).sum() / 2

    log_weight = initial - total_energy
    log_weight = torch.where(torch.isfinite(log_weight), log_weight, -torch.inf)
    subtree_log_weight = torch.logaddexp(t.subtree_log_weight, log_weight)
    share = torch.exp(log_weight - subtree_log_weight)
    is_taken = t.uniform < share
    # what is left of the uniform, stretched to [0, 1) again
    uniform = torch.where(is_taken, t.uniform / share, (t.uniform - share) / (1 - share))
    point = Candidate(position, slope, energy, total_energy)
    counts = ~t.is_divergent  # a pair whose first leaf diverged has no second
    return t._replace(
        position=position,
        momentum=momentum,
        gradient=gradient,
        total=t.total + momentum,
        candidate=Candidate(*(torch.where(is_taken, new, old) for new, old in zip(point, t.candidate, strict=True))),
        subtree_log_weight=subtree_log_weight,
        uniform=uniform.clamp(max=1 - torch.finfo(uniform.dtype).eps),
        acceptance=t.acceptance + torch.where(counts, log_weight.clamp(max=0).exp(), 0.0),
        num_leaves=t.num_leaves + counts.to(torch.int32),
        is_divergent=t.is_divergent | (log_weight < -_DIVERGENCE_THRESHOLD),
    )


def _turns(first: Tensor, last: Tensor, total: Tensor) -> Tensor:
    """Whether a span no longer gets longer: the generalised U-turn of its end momenta and their sum. ``(...)``."""
    return ~(((first * total).sum(-1) > 0) & ((last * total).sum(-1) > 0))


def grow(dynamics: Dynamics, noise: NUTSNoise, initial: Tensor, t: Trajectory, num_leaves: int) -> Trajectory:
    """Adds a pair of leaves, or the single leaf of the first doubling, and merges what that completes.

    Args:
        dynamics: what moves the front.
        noise: of the step.
        initial: the Hamiltonian of the start. ``()``.
        t: a trajectory that goes on.
        num_leaves: 2, or 1 for the first doubling.
    """
    max_depth, num_slots = noise.uniforms.shape[1], t.slots.shape[1]
    numbers, bits = (torch.arange(num, device=t.depth.device) for num in (num_slots, max_depth))

    def ones(n: Tensor) -> Tensor:
        return ((n >> bits) & 1).sum()

    pair = t.num_pairs
    digits = ((pair >> bits) > 0).sum()
    is_power = (pair & (pair - 1)) == 0
    t = t._replace(uniform=torch.where(is_power, _at(noise.uniforms[2], digits), t.uniform))

    before, first = t, _leaf(dynamics, initial, t)
    t = first if num_leaves == 1 else _leaf(dynamics, initial, first)
    in_slot = torch.stack([first.momentum, before.total, before.momentum])
    is_written = (numbers == 1 + ones(pair))[:, None]
    slots = torch.where(is_written, in_slot[:, None], before.slots)
    firsts, sums, lasts = slots.unbind(0)
    length = (pair + 1) * num_leaves
    is_complete = (length >> t.depth) > 0

    # the spans that end here, as wholes, and each half with the nearest leaf of the other
    turns = (
        _turns(firsts[:-1], t.momentum, t.total - sums[:-1])
        | _turns(firsts[:-1], firsts[1:], sums[1:] - sums[:-1] + firsts[1:])
        | _turns(lasts[1:], t.momentum, t.total - sums[1:] + lasts[1:])
    )
    is_ended = (numbers[:-1] >= ones(pair + 1)) & (numbers[:-1] <= ones(pair))
    is_turning = (turns & is_ended).any()
    if num_leaves == 2:
        is_turning = is_turning | _turns(first.momentum, t.momentum, first.momentum + t.momentum)
    is_merged = is_complete & ~is_turning & ~t.is_divergent
    is_turning = is_turning | (is_merged & turns[0])

    is_taken = is_merged & (_at(noise.uniforms[1], t.depth) < torch.exp(t.subtree_log_weight - t.log_weight))
    depth = t.depth + is_merged.to(torch.int32)
    t = t._replace(
        slots=slots,
        selected=Candidate(*(torch.where(is_taken, a, b) for a, b in zip(t.candidate, t.selected, strict=True))),
        log_weight=torch.where(is_merged, torch.logaddexp(t.log_weight, t.subtree_log_weight), t.log_weight),
        subtree_log_weight=torch.where(is_complete, -torch.inf, t.subtree_log_weight),
        num_pairs=torch.where(is_complete, 0, pair + 1),
        depth=depth,
        is_moved=t.is_moved | is_taken,
        is_turning=is_turning & ~t.is_divergent,
        goes_on=~is_turning & ~t.is_divergent & (depth < max_depth),
    )
    return _turn_around(is_merged & (_at(noise.uniforms[0], depth) < 0.5), t)
