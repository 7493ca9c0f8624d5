"""Energies of constrained positions: samplers work on free numbers, users see their own."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from .. import checks
from ..types import Energy, Params, Position
from .bijection import Bijection, as_bijection

__all__ = ["Constrained", "constrained"]


class Constrained(NamedTuple):
    """What :func:`constrained` returns; as an energy it is a function of the free numbers.

    Attributes:
        energy: ``(params, y) -> ()``, of the free numbers.
        bijection: from them to the positions.
    """

    energy: Energy
    bijection: Bijection

    def __call__(self, params: Params, y: Position) -> Tensor:
        """The energy of the free numbers. ``()``."""
        return self.energy(params, y)


def constrained(energy: Energy, bijection: Any) -> Constrained:
    r"""An energy whose positions obey constraints, such as a positive scale or a vector of probabilities.

    A sampler that is made with it moves in the free numbers :math:`y`, where :math:`x = f(y)` has the given energy,

    .. math:: E'(\theta, y) = E(\theta, f(y)) - \log |\det \partial f / \partial y| ,

    and takes starts and gives draws in :math:`x`: so do ``sample``, ``warm_up``, ``resume``, ``collect`` and the reducers.
    ``tuning`` (the metric, the step size) and ``info.energy`` are of the free numbers.

    Losses that are functions of densities alone (contrastive divergences, ``maximum_likelihood``,
    ``jarzynski_maximum_likelihood``) take data and starts in :math:`x` too, and compare them in the free numbers, where the
    divergence is the same. Their chains, memory, noise and a ``reference`` that is drawn from are free numbers, of which the
    function that makes their sampler gets the energy; the value of a likelihood is that of :math:`x`. Losses by slopes, or noise
    on the data, refuse it: on ``vmap(bijection.inverse)(data)`` they are other objectives, of ``constrained(...).energy``.

    Args:
        energy: ``(params, x) -> ()`` of a position that obeys the constraints; it is never called with another one.
        bijection: a :class:`Bijection`, a transform or constraint of ``torch.distributions``, or a tree of them like positions.

    Returns:
        A :class:`Constrained`, for every function of :mod:`funcebm.samplers` that takes an energy. As a function it is
        :math:`E'(\theta, y)`.

    Raises:
        TypeError: an energy that is not a function, or a leaf that is not a bijection.
        ValueError: (at the door of ``sample`` and ``warm_up``) starts outside of the range, or of another shape.

    >>> import torch
    >>> import funcebm as ebm
    >>> from funcebm.bijections import identity, positive
    >>> def energy(data, x):  # the mean and the scale of normal data
    ...     return ((data - x["mu"]) ** 2).sum() / (2 * x["sigma"] ** 2) + (len(data) + 1) * x["sigma"].log()
    >>> sampler = ebm.samplers.hmc(constrained(energy, {"mu": identity, "sigma": positive}), step_size=0.2)
    >>> starts = {"mu": torch.zeros(4), "sigma": torch.ones(4)}
    >>> samples = ebm.sample(ebm.random.key(0), sampler, torch.tensor([1.0, 3.0]), starts, num_samples=20, jit=False)
    >>> samples.draws["sigma"].shape, bool((samples.draws["sigma"] > 0).all())
    (torch.Size([4, 20]), True)
    """
    fix = "Give a function (params, x) -> 0-d tensor."
    checks.require(callable(energy), "energy must be a function", energy, fix, TypeError)
    bijection = as_bijection(bijection)
    apply = bijection.apply

    def unconstrained(params: Params, y: Position) -> Tensor:
        x, log_det = apply(y)
        return energy(params, x) - log_det

    return Constrained(unconstrained, bijection)
