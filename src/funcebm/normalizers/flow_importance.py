"""Boltzmann generators: draws of a flow, weighted to a target."""

from __future__ import annotations

from typing import NamedTuple, Sequence

from torch import Tensor
from torch.func import vmap

from .. import checks, fields, random, tree
from ..flows import Flow
from ..flows.flow import normal_log_density
from ..transforms import is_worth_it
from ..transforms import jit as compiled
from ..types import Energy, Key, Params, Position
from .annealed_importance import log_mean_exp
from .pareto import pareto_khat

__all__ = ["FlowImportance", "importance"]


class FlowImportance(NamedTuple):
    r"""What :func:`importance` returns, of N draws.

    Attributes:
        log_normalizer: the estimate of :math:`\log Z`. ``()``.
        standard_error: of ``log_normalizer``, by the jackknife. ``()``.
        effective_sample_size: :math:`(\sum w)^2 / \sum w^2`, of N. ``()``.
        pareto_khat: above 0.7, do not trust the others. ``()``.
        log_weights: :math:`-E(x) - \log q(x)`. ``(N,)``.
        positions: draws of the flow; with the weights, of the target. ``(N, *event)``.
    """

    log_normalizer: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    pareto_khat: Tensor
    log_weights: Tensor
    positions: Position


def importance(
    key: Key,
    energy: Energy,
    params: Params,
    *,
    flow: Flow,
    flow_params: Params = (),
    num_particles: int = 1000,
    event_shape: Sequence[int],
    jit: bool | None = None,
) -> FlowImportance:
    r"""Importance sampling with a flow as proposal (a Boltzmann generator): weighted draws of an energy, and its normalizer.

    .. math:: x = F(z),\quad z \sim N(0, I), \qquad \log w = -E(x) - \log q(x), \quad
        \log q(x) = \log N(z) - \log |\det \partial F / \partial z|

    The density is exact for a flow of :func:`funcebm.flows.flow` with ``divergence="discrete"``, and then
    :math:`\mathrm{E}\,w = Z`. Modes that the flow has no mass at are missing, and nothing here shows it: for draws that cannot
    miss them for ever, mix :func:`funcebm.samplers.independence` with local moves.

    Args:
        key: ``(2,)``.
        energy: ``(params, x) -> ()``.
        params: of the energy.
        flow: from :func:`funcebm.flows.flow`.
        flow_params: its params.
        num_particles: N.
        event_shape: of one particle.
        jit: compile; None decides as for :func:`funcebm.sample`.

    Returns:
        :class:`FlowImportance`.

    Raises:
        ValueError: a bad count or key; an energy that is not a scalar.
        TypeError: something that is not a flow.

    Reference: Noé et al. (2019), "Boltzmann generators", Science 365(6457):eaaw1147.

    >>> import torch
    >>> from funcebm import flows
    >>> flow = flows.flow(lambda params, t, x: params * x, times=8)
    >>> energy = lambda params, x: (x**2).sum() / 2
    >>> result = importance(random.key(0), energy, (), flow=flow, flow_params=torch.tensor(0.2), event_shape=(1,))
    >>> bool((result.log_normalizer - 0.9189).abs() < 4 * result.standard_error), bool(result.pareto_khat < 0.5)
    (True, True)
    """
    random.check_key(key)
    checks.positive_int("num_particles", num_particles, minimum=25)
    checks.require(isinstance(flow, Flow), "flow must be a flow", flow, "Use flows.flow(field).", TypeError)
    like = tree.first(flow_params) if tree.leaves(flow_params) else tree.first(params) if tree.leaves(params) else None
    dtype = like.dtype if like is not None and like.is_floating_point() else None
    noise = random.normal(key if like is None else key.to(like.device), (num_particles, *event_shape), dtype=dtype)
    fields.require_scalar(energy(params, noise[0]), noise[0])

    def one(params: Params, flow_params: Params, z: Position) -> tuple[Position, Tensor]:
        x, log_det = flow.forward(flow_params, z)
        return x, log_det - normal_log_density(z) - energy(params, x)

    many = vmap(one, (None, None, 0))
    run = compiled(many) if is_worth_it(jit, 1, 100) else many
    positions, log_weights = run(params, flow_params, noise)
    return FlowImportance(*log_mean_exp(log_weights), pareto_khat(log_weights), log_weights, positions)
