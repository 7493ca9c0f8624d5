"""Landscapes in the plane, with several minima and the paths between them."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..types import Params, Position
from .closed_forms import Number, analytic, cast_params, positive_scalar

__all__ = ["himmelblau", "mueller_brown"]


def _plane(name: str, x: Tensor) -> None:
    if x.shape != (2,):
        got = f"the shape {tuple(x.shape)}"
        raise ValueError(
            checks.message(f"{name} lives in the plane, on positions of shape (2,)", got, "Give two numbers.")
        )


def _himmelblau_params(scale: Number = 1.0) -> Params:
    """``{"scale": ()}``, positive."""
    return {"scale": positive_scalar("scale", scale)}


@analytic(_himmelblau_params)
def himmelblau(params: Params, x: Position) -> Tensor:
    r"""Four equal minima in the plane, :math:`E = s\,[(x^2 + y - 11)^2 + (x + y^2 - 7)^2]`.

    Args:
        params: ``{"scale": ()}``; ``himmelblau.params(scale=1.0)`` makes it.
        x: ``(2,)``.

    The minima, all zero, are at (3, 2), (-2.805, 3.131), (-3.779, -3.283) and (3.584, -1.848).

    Returns:
        The energy. ``()``.

    >>> himmelblau(himmelblau.params(), torch.tensor([3.0, 2.0]))
    tensor(0.)
    """
    _plane("himmelblau", x)
    return params["scale"].to(x.dtype) * ((x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2)


def _mueller_brown_params(scale: Number = 1.0) -> Params:
    """The four wells of the paper: ``amplitude``, ``xx``, ``xy``, ``yy`` of shape (4,) and ``center`` (4, 2)."""
    return {
        "amplitude": positive_scalar("scale", scale) * torch.tensor([-200.0, -100.0, -170.0, 15.0]),
        "xx": torch.tensor([-1.0, -1.0, -6.5, 0.7]),
        "xy": torch.tensor([0.0, 0.0, 11.0, 0.6]),
        "yy": torch.tensor([-10.0, -10.0, -6.5, 0.7]),
        "center": torch.tensor([[1.0, 0.0], [0.0, 0.5], [-0.5, 1.5], [-1.0, 1.0]]),
    }


@analytic(_mueller_brown_params)
def mueller_brown(params: Params, x: Position) -> Tensor:
    r"""A model reaction path, :math:`E = \sum_k A_k e^{a_k u_k^2 + b_k u_k v_k + c_k v_k^2}`,
    :math:`(u_k, v_k) = x - x_k`: three minima, two saddles.

    Args:
        params: ``mueller_brown.params(scale=1.0)`` makes them; ``scale`` multiplies the energy (at 1 the barriers
            are about 100 high, so samplers want 0.1 or less).
        x: ``(2,)``.

    Returns:
        The energy. ``()``.

    Reference: Mueller and Brown (1979), Theoretica Chimica Acta 53:75-93.

    >>> round(float(mueller_brown(mueller_brown.params(), torch.tensor([-0.5582, 1.4417]))), 1)
    -146.7
    """
    _plane("mueller_brown", x)
    params = cast_params(params, x)
    u, v = (x - params["center"]).unbind(-1)
    exponent = params["xx"] * u**2 + params["xy"] * u * v + params["yy"] * v**2
    return (params["amplitude"] * torch.exp(exponent)).sum()
