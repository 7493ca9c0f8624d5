r"""The Schroedinger bridge between two Gaussians, in closed form, for covariances that need not commute."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from ... import checks, tree
from ...types import Number, Params
from .gaussian import check_alike, check_point, symmetric_power

__all__ = ["GaussianBridge", "schrodinger_bridge"]


class GaussianBridge(NamedTuple):
    r"""A bridge between Gaussians; params are ``{"start": ..., "end": ...}``, each from :func:`gaussian_params`.

    Attributes:
        cross_covariance: ``params`` to :math:`\mathrm{Cov}(x_0, x_1)`. ``(D, D)``, in general not symmetric.
        marginal: ``(params, t)`` to the Gaussian at a time, as params of :func:`gaussian_params`.
        drift: ``(params, t, x)`` to the drift of the process forward in time. ``(D,)``.
        backward_drift: ``(params, t, x)`` to the drift of the process run backwards, with respect to the time that is left.
        velocity: ``(params, t, x)`` to the velocity of the flow with the same marginals. ``(D,)``.
        score: ``(params, t, x)`` to the score of the marginal. ``(D,)``.
    """

    cross_covariance: Callable[[Params], Tensor]
    marginal: Callable[[Params, Tensor], Params]
    drift: Callable[[Params, Tensor, Tensor], Tensor]
    backward_drift: Callable[[Params, Tensor, Tensor], Tensor]
    velocity: Callable[[Params, Tensor, Tensor], Tensor]
    score: Callable[[Params, Tensor, Tensor], Tensor]


def schrodinger_bridge(scale: float | Tensor = 1.0) -> GaussianBridge:
    r"""The process closest to :math:`c\,dW` that carries one Gaussian to another in a unit of time.

    With :math:`G = (4 S_0^{1/2} S_1 S_0^{1/2} + c^4 I)^{1/2}`,

    .. math:: C = \mathrm{Cov}(x_0, x_1) = \tfrac12 (S_0^{1/2} G S_0^{-1/2} - c^2 I), \quad
        S_t = (1-t)^2 S_0 + t^2 S_1 + t(1-t)(C + C^\top + c^2 I),

    and the drift is :math:`m_1 - m_0 + B_t S_t^{-1}(x - m_t)` with :math:`B_t = t(S_1 - C) - (1-t)(S_0 - C^\top) - c^2 t I`,
    regular at both ends. As c goes to 0 this is optimal transport.

    Args:
        scale: :math:`c > 0`, the noise in a unit of time. ``()``.

    Returns:
        :class:`GaussianBridge`.

    Reference: Bunne, Hsieh, Cuturi and Krause (2023), "The Schroedinger bridge between Gaussian measures has a closed form",
    AISTATS, arXiv:2202.05722.

    >>> from funcebm.paths.exact import gaussian_params
    >>> ends = {"start": gaussian_params(torch.tensor([-0.1])), "end": gaussian_params(torch.tensor([0.1]))}
    >>> schrodinger_bridge(1.0).cross_covariance(ends)  # (sqrt(5) - 1) / 2
    tensor([[0.6180]])
    """
    checks.positive("scale", scale)

    def identity(like: Tensor) -> Tensor:
        return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)

    def cross_covariance(params: Params) -> Tensor:
        first, second = params["start"]["covariance"], params["end"]["covariance"]
        root, inverse = symmetric_power(first, 0.5), symmetric_power(first, -0.5)
        middle = symmetric_power(4 * root @ second @ root + scale**4 * identity(first), 0.5)
        return (root @ middle @ inverse - scale**2 * identity(first)) / 2

    def moments(params: Params, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        right = isinstance(params, dict) and {"start", "end"} <= set(params)
        fix = 'Write {"start": gaussian_params(...), "end": gaussian_params(...)}.'
        checks.require(right, "params of a bridge must have a start and an end", type(params).__name__, fix)
        start, end = params["start"], params["end"]
        check_alike(start, end)
        first, second, cross = start["covariance"], end["covariance"], cross_covariance(params)
        noise = scale**2 * identity(first)
        mean = (1 - t) * start["mean"] + t * end["mean"]
        covariance = (1 - t) ** 2 * first + t**2 * second + t * (1 - t) * (cross + cross.mT + noise)
        return mean, covariance, t * (second - cross) - (1 - t) * (first - cross.mT) - t * noise

    def marginal(params: Params, t: Tensor) -> Params:
        mean, covariance, _ = moments(params, tree.number(t).to(params["start"]["mean"]))
        return {"mean": mean, "covariance": covariance}

    def linear(params: Params, t: Tensor, x: Tensor, of_slope: float, of_noise: Number, of_shift: float) -> Tensor:
        """A field that is linear in x: shares of the slope of the drift, of c^2 and of the difference of the means."""
        mean, covariance, slope = moments(params, tree.number(t).to(x))
        check_point(x, mean)
        pull = torch.linalg.solve_ex(covariance, (x - mean)[:, None])[0][:, 0]
        shift = params["end"]["mean"] - params["start"]["mean"]
        return of_shift * shift + of_slope * (slope @ pull) + of_noise * scale**2 * pull

    return GaussianBridge(
        cross_covariance,
        marginal,
        lambda params, t, x: linear(params, t, x, 1.0, 0.0, 1.0),
        lambda params, t, x: linear(params, t, x, -1.0, -1.0, -1.0),
        lambda params, t, x: linear(params, t, x, 1.0, 0.5, 1.0),
        lambda params, t, x: linear(params, t, x, 0.0, -1.0 / scale**2, 0.0),
    )
