"""Stein variational gradient descent."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import fields, tree
from ..distributed.agreement import failing_together, nan_unless_same, starting_together
from ..distributed.mesh import Mesh, own_rows, shared_rows, single
from ..types import Energy, Info, Number, Params, Position, Sampler, Tree
from ._kernel import GradientState, no_noise, positive
from .constraints import check_ensemble, takes_energy
from .metropolis import nan_outside, unadjusted_info

__all__ = ["SVGDState", "SVGDTuning", "median_bandwidth", "svgd"]


SVGDState = GradientState
"""An ensemble, and the gradient at each particle; every leaf leads with the particle axis ``n``."""


class SVGDTuning(NamedTuple):
    """``step_size`` ``()``, and ``bandwidth`` ``()``, or nothing where the median chooses it."""

    step_size: Tensor
    bandwidth: Any


def median_bandwidth(squared_distances: Tensor) -> Tensor:
    r"""The bandwidth :math:`h = \sqrt{m / (2 \log(n + 1))}` of the median :math:`m` of all squared distances of pairs. ``()``.

    Then all other particles together weigh about as much as the one itself, whatever n is. The median of an even number of
    pairs is the lower one in the middle.

    Args:
        squared_distances: ``(n, n)``.

    Reference: Liu and Wang (2016), section 5, with :math:`n + 1` for n as in the authors' code, where one particle is enough.

    >>> median_bandwidth(torch.tensor([[0.0, 4.0], [4.0, 0.0]]))
    tensor(1.3493)
    """
    num = squared_distances.shape[0]
    if num == 1:  # no pair: any will do
        return torch.ones_like(squared_distances[0, 0])
    rows, columns = torch.triu_indices(num, num, offset=1, device=squared_distances.device)
    median = squared_distances[rows, columns].sort().values[(len(rows) - 1) // 2]
    return torch.sqrt(median.clamp(min=1e-30) / (2 * math.log(num + 1)))  # clamped where most are at one place


@takes_energy
def svgd(
    energy: Energy, *, step_size: Number = 0.1, bandwidth: Number | None = None, mesh: Mesh = single
) -> Sampler[GradientState, Info, SVGDTuning]:
    r"""Stein variational gradient descent: particles that go downhill together, and keep apart.

    One *chain* is an ensemble of n particles, a position whose leaves lead with the particle axis:
    ``funcebm.sample(key, sampler, params, positions, ...)`` with positions ``(C, n, *event)`` runs C ensembles. With the
    kernel :math:`k(x, y) = e^{-|x - y|^2 / 2 h^2}`

    .. math:: x_i' = x_i + \epsilon\, \frac1n \sum_{j=1}^n \big[ -k(x_j, x_i) \nabla E(x_j) + \nabla_{x_j} k(x_j, x_i) \big],
              \qquad \nabla_{x_j} k(x_j, x_i) = \frac{x_i - x_j}{h^2}\, k(x_j, x_i).

    Deterministic, and not a sampler of the exact distribution: the particles tend to a set that represents it as n grows, and
    their variance is too small in many dimensions. One particle is :func:`~funcebm.samplers.gradient_descent`.

    Args:
        energy: ``(params, x) -> ()`` of one particle.
        step_size: :math:`\epsilon > 0`, in squared units of ``x`` over energy. A particle far from all others moves by
            :math:`\epsilon / n`, one among many by up to :math:`\epsilon`. ``()``.
        bandwidth: :math:`h > 0`, in units of ``x``; by default :func:`median_bandwidth` chooses it at each step, which
            sorts n (n - 1) / 2 distances. ``()``.
        mesh: of ranks that share the particles: each has all of them, moves its part, and one message a step shows all ranks
            where they are. Call ``funcebm.sample`` on all ranks with the same positions, and without its ``mesh``.

    Returns:
        A :class:`~funcebm.types.Sampler` that draws no noise, with ``GradientState``, :class:`~funcebm.types.Info` and
        ``SVGDTuning``. ``info.energy`` is the mean over the particles, ``num_gradients`` is n.

    Raises:
        ValueError: a number that is not positive, or a position without one particle axis.

    Reference: Liu and Wang (2016), NeurIPS, arXiv:1608.04471, algorithm 1 and eq. 8; a plain step in place of their AdaGrad.

    >>> sampler = svgd(lambda params, x: (x**2).sum() / 2, step_size=0.5)
    >>> state = sampler.init((), torch.linspace(2.0, 3.0, 10)[:, None])
    >>> for _ in range(200):
    ...     state, info = sampler.step((), sampler.tuning, state, ())
    >>> bool(state.position.mean().abs() < 0.01), bool((state.position.std() - 1).abs() < 0.1)
    (True, True)
    """
    hint = "Leave it out for the median of the distances."
    with failing_together(mesh):
        chosen = () if bandwidth is None else positive("bandwidth", bandwidth, hint)
        tuning = SVGDTuning(positive("step_size", step_size, "Try 0.1."), chosen)
    evaluate = vmap(fields.value_and_gradient(energy), (None, 0))

    def init(params: Params, position: Position) -> GradientState:
        with starting_together(mesh):
            check_ensemble(position)
            energies, gradient = evaluate(params, position)
        given = {"params": params, "positions": position, "the tuning": tuning}
        return GradientState(position, nan_outside(nan_unless_same(mesh, given, energies.mean()), gradient))

    def step(params: Params, tuning: SVGDTuning, state: GradientState, noise: Tree) -> tuple[GradientState, Info]:
        with failing_together(mesh):
            return move(params, tuning, state)

    def move(params: Params, tuning: SVGDTuning, state: GradientState) -> tuple[GradientState, Info]:
        x, gradient = (tree.rows(value) for value in (state.position, state.gradient))
        mine = own_rows(x, mesh)
        difference = mine[:, None] - x  # (n, n, D)
        squared_distances = (difference**2).sum(-1)
        if bandwidth is not None:
            h = tuning.bandwidth
        else:
            h = median_bandwidth(squared_distances if mesh.size == 1 else ((x[:, None] - x) ** 2).sum(-1))
        kernel = torch.exp(-squared_distances / (2 * h**2))
        repulsion = (kernel[..., None] * difference).sum(1) / h**2
        mine = mine + tuning.step_size * (repulsion - kernel @ gradient) / x.shape[0]

        _, back = tree.ravel(tree.map(lambda leaf: leaf[0], state.position))
        mine = vmap(back)(mine)
        position, energies, gradient = shared_rows((mine, *evaluate(params, mine)), mesh, x.shape[0])
        return GradientState(position, gradient), unadjusted_info(position, energies.mean(), num_gradients=x.shape[0])

    return Sampler(init, no_noise, step, tuning)
