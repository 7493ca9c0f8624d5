"""Hopfield networks: classical, dense, and with continuous states."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, graphs, spaces
from ..types import Params, Position
from ._discrete import DiscreteEnergy, carrying, sites
from .closed_forms import Number, cast_params, positive_scalar, to_tensor

__all__ = ["hopfield"]


def hopfield(num_units: int, kind: str = "classical", *, degree: int = 3) -> DiscreteEnergy:
    r"""A Hopfield network: an energy with its valleys at stored patterns :math:`\xi_\mu`.

    - ``"classical"``: :math:`E(s) = -\tfrac{\beta}{2N} \sum_\mu \bigl((\xi_\mu^\top s)^2 - \sum_i \xi_{\mu i}^2 s_i^2\bigr)`, the
      Boltzmann machine of spins with :math:`W = \tfrac1N \sum_\mu \xi_\mu \xi_\mu^\top` and no diagonal;
    - ``"dense"``: :math:`E(s) = -\beta \sum_\mu (\xi_\mu^\top s)^n`, which stores of the order of :math:`N^{n-1}` patterns;
    - ``"exponential"``: :math:`E(s) = -\beta \sum_\mu e^{\xi_\mu^\top s}`;
    - ``"modern"``: :math:`E(s) = -\tfrac1\beta \log \sum_\mu e^{\beta \xi_\mu^\top s} + \tfrac12 s^\top s` over real states.

    Args:
        num_units: N.
        kind: one of the above. Static.
        degree: n of ``"dense"``. Static.

    Returns:
        A :class:`DiscreteEnergy` over spins ``(N,)``, of ``"modern"`` over real numbers. ``params(patterns, beta=1.0)`` makes its
        params, ``{"patterns": (P, N), "beta": ()}``.

    Raises:
        ValueError: a bad count or kind; from ``params``, patterns of another size; when called, a position of another size.

    Reference: Hopfield (1982), PNAS 79(8):2554-2558; Krotov and Hopfield (2016), NIPS, arXiv:1606.01164; Demircigil et al.
    (2017), Journal of Statistical Physics 168:288-299; Ramsauer et al. (2021), ICLR, arXiv:2008.02217.

    >>> energy = hopfield(4)
    >>> pattern = torch.tensor([1.0, -1.0, 1.0, 1.0])
    >>> energy(energy.params(pattern[None]), pattern)  # -(16 - 4) / 8
    tensor(-1.5000)
    """
    checks.positive_int("num_units", num_units)
    checks.positive_int("degree", degree, 2)
    kinds = ("classical", "dense", "exponential", "modern")
    checks.require(kind in kinds, f"kind must be one of {', '.join(kinds)}", kind, 'Write kind="classical".')

    def make_params(patterns: Number, beta: Number = 1.0) -> Params:
        patterns = to_tensor(patterns)
        right = patterns.ndim == 2 and patterns.shape[1] == num_units
        checks.require(right, f"patterns must be (P, {num_units})", str(tuple(patterns.shape)), "One row a pattern.")
        return {"patterns": patterns, "beta": positive_scalar("beta", beta).to(patterns)}

    def energy(params: Params, x: Position) -> Tensor:
        state = sites(x, (num_units,))
        params = cast_params(params, state)
        patterns, beta = params["patterns"], params["beta"]
        overlaps = patterns @ state
        if kind == "classical":
            own = (patterns**2 @ state**2).sum()
            return -beta / (2 * num_units) * ((overlaps**2).sum() - own)
        if kind == "dense":
            return -beta * (overlaps**degree).sum()
        if kind == "exponential":
            return -beta * torch.exp(overlaps).sum()
        return -torch.logsumexp(beta * overlaps, 0) / beta + (state**2).sum() / 2

    space = spaces.real(num_units) if kind == "modern" else spaces.spins(num_units)
    return carrying(energy, params=make_params, space=space, edges=graphs.complete(num_units))
