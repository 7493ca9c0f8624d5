"""Dual averaging: a step size that brings the acceptance rate to its target."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .. import checks

__all__ = ["DualAveraging", "DualAveragingState", "dual_averaging"]

_LARGEST_LOG = 40.0  # a step size stays in (4e-18, 2e17), which float32 can square


class DualAveragingState(NamedTuple):
    """Where the search is; all ``()``, and floating point.

    Attributes:
        step_size: what the next step uses.
        log_average: the weighted mean of the log step sizes, for the end.
        error: the running mean of the target minus the acceptance rate.
        num: how many updates there were.
        log_anchor: where the log step size is pulled to, ten times the first one.
    """

    step_size: Tensor
    log_average: Tensor
    error: Tensor
    num: Tensor
    log_anchor: Tensor


class DualAveraging(NamedTuple):
    """The algorithm, as pure functions; to restart it, call ``init`` again.

    Attributes:
        init: ``step_size () -> state``.
        update: ``(state, acceptance_rate ()) -> state``.
        final: ``state -> step_size ()``.
    """

    init: Callable[[Tensor], DualAveragingState]
    update: Callable[[DualAveragingState, Tensor], DualAveragingState]
    final: Callable[[DualAveragingState], Tensor]


def dual_averaging(
    *, target: float | Tensor = 0.8, gamma: float = 0.05, t0: float = 10.0, kappa: float = 0.75
) -> DualAveraging:
    r"""Nesterov's dual averaging of the log step size.

    With the acceptance rate :math:`a_t` of update :math:`t = 1, 2, \dots`, the target :math:`\delta` and
    :math:`\mu = \log 10 \varepsilon_0`,

    .. math::
        \bar H_t &= \Big(1 - \frac{1}{t + t_0}\Big) \bar H_{t-1} + \frac{\delta - a_t}{t + t_0}, \qquad
        \log \varepsilon_t = \mu - \frac{\sqrt t}{\gamma} \bar H_t, \\
        \log \bar\varepsilon_t &= t^{-\kappa} \log \varepsilon_t + (1 - t^{-\kappa}) \log \bar\varepsilon_{t-1} .

    :math:`\varepsilon_t` is for the next step, :math:`\bar\varepsilon_t` for the end. An acceptance rate that is not finite
    counts as 0. One beyond 1, or a step size beyond ``exp(40)`` or below ``exp(-40)``, is cut off there.

    Args:
        target: :math:`\delta` in (0, 1). ``()``.
        gamma: :math:`\gamma > 0`; larger is slower.
        t0: :math:`t_0 \ge 0` damps the first updates.
        kappa: :math:`\kappa` in (0.5, 1]; smaller forgets the first step sizes sooner.

    Returns:
        A :class:`DualAveraging`.

    Raises:
        ValueError: a number out of its range.

    Reference: Hoffman and Gelman (2014), JMLR 15:1593-1623, section 3.2; Nesterov (2009).

    >>> algorithm = dual_averaging(target=0.8)
    >>> state = algorithm.init(torch.tensor(5.0))
    >>> for _ in range(200):  # a chain that accepts with probability exp(-step size)
    ...     state = algorithm.update(state, torch.exp(-state.step_size))
    >>> round(float(torch.exp(-algorithm.final(state))), 1)
    0.8
    """
    if not isinstance(target, Tensor):
        checks.require(0 < target < 1, "target must be between 0 and 1", target, "Try 0.8.")
    checks.positive("gamma", gamma, "The usual value is 0.05.")
    checks.require(t0 >= 0, "t0 must not be negative", t0, "The usual value is 10.")
    checks.require(0.5 < kappa <= 1, "kappa must be above 0.5 and at most 1", kappa, "The usual value is 0.75.")

    def init(step_size: Tensor) -> DualAveragingState:
        log_step = torch.log(step_size)
        zero = torch.zeros_like(log_step)
        return DualAveragingState(torch.exp(log_step), log_step, zero, zero, log_step + torch.log(zero + 10))

    def update(state: DualAveragingState, acceptance_rate: Tensor) -> DualAveragingState:
        rate = torch.where(torch.isfinite(acceptance_rate), acceptance_rate.clamp(max=1), 0).to(state.error.dtype)
        num = state.num + 1
        error = state.error + (target - rate - state.error) / (num + t0)
        log_step = (state.log_anchor - num.sqrt() / gamma * error).clamp(-_LARGEST_LOG, _LARGEST_LOG)
        log_average = state.log_average + num**-kappa * (log_step - state.log_average)
        return DualAveragingState(torch.exp(log_step), log_average, error, num, state.log_anchor)

    def final(state: DualAveragingState) -> Tensor:
        return torch.exp(state.log_average)

    return DualAveraging(init, update, final)
