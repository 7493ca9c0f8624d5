"""Samplers at another temperature, and at one that falls: simulated annealing."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from .. import checks
from ..types import InfoT, Number, Sampler, Schedule, StateT, Tree, TuningT
from .combinators import check_samplers

__all__ = ["annealed", "tempered"]


def tempered(sampler: Sampler[StateT, InfoT, TuningT], temperature: Number) -> Sampler[StateT, InfoT, TuningT]:
    r"""The sampler at another temperature: its target is :math:`e^{-E/T}`.

    Args:
        sampler: one whose tuning has a ``temperature``, or a :func:`cycle` or :func:`mix` of such.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        The same :class:`~funcebm.types.Sampler` with another tuning.

    Raises:
        ValueError: a temperature that is not positive, or a sampler that has none.

    >>> from funcebm import samplers
    >>> tempered(samplers.mala(lambda params, x: (x**2).sum() / 2), 2.0).tuning.temperature
    tensor(2.)
    """
    check_samplers("tempered", (sampler,))
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    return sampler._replace(tuning=_at_temperature(sampler.tuning, torch.as_tensor(temperature)))


def annealed(sampler: Sampler, schedule: Schedule) -> Callable[[Tensor], Tree]:
    r"""Simulated annealing: the tuning of a sampler whose temperature follows a schedule, :math:`e^{-E/T_n}` at step n.

    Args:
        sampler: one whose tuning has a ``temperature``, or a :func:`cycle` or :func:`mix` of such.
        schedule: step index to temperature, such as :func:`funcebm.schedules.geometric` or
            :func:`funcebm.schedules.logarithmic`.

    Returns:
        A function from the step index to a tuning, for ``funcebm.sample(..., tuning=...)``.

    Raises:
        ValueError: a schedule that is not a function, or a sampler that has no temperature.

    Reference: Kirkpatrick, Gelatt and Vecchi (1983), Science 220(4598):671-680.

    >>> from funcebm import samplers, schedules
    >>> sampler = samplers.mala(lambda params, x: (x**2).sum() / 2)
    >>> annealed(sampler, schedules.geometric(4.0, 1.0, 2))(torch.tensor(1)).temperature
    tensor(2.)
    """
    check_samplers("annealed", (sampler,))
    checks.require(callable(schedule), "schedule must be a function of the step", schedule, "Use funcebm.schedules.")
    _at_temperature(sampler.tuning, torch.ones(()))
    tuning = sampler.tuning
    return lambda index: _at_temperature(tuning, schedule(index))


def _at_temperature(tuning: Tree, temperature: Tensor) -> Tree:
    if hasattr(tuning, "temperature"):
        return tuning._replace(temperature=temperature)
    if type(tuning) is tuple and tuning:
        return tuple(_at_temperature(part, temperature) for part in tuning)
    fix = "Give it a tempered energy instead: funcebm.energies.tempered(energy, 1 / temperature)."
    fields = ", ".join(getattr(tuning, "_fields", ())) or "nothing"
    raise ValueError(checks.message("the tuning of the sampler must have a temperature", fields, fix))
