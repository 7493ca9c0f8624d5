"""The SoftAbs metric: the Hessian with its eigenvalues made positive."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from .. import checks, fields
from .._torch.failures import finite_eigh
from ..types import Energy, Params, Position

__all__ = ["softabs"]


def softabs(energy: Energy, *, alpha: float = 1e6) -> Callable[[Params, Position], Tensor]:
    r"""The SoftAbs metric of an energy, for :func:`~funcebm.samplers.riemannian_hmc`.

    With the Hessian :math:`\nabla^2 E = Q \operatorname{diag}(\lambda) Q^\top` it is
    :math:`G = Q \operatorname{diag}(f(\lambda)) Q^\top`, :math:`f(\lambda) = \lambda \coth(\alpha \lambda)`: the absolute
    value of the Hessian, but for eigenvalues below :math:`1/\alpha`, which are lifted to :math:`1/\alpha`.

    Its derivative is :math:`\mathrm d G = Q (J \circ (Q^\top\, \mathrm d \nabla^2 E\; Q)) Q^\top` with the divided
    differences :math:`J_{ij} = (f(\lambda_i) - f(\lambda_j)) / (\lambda_i - \lambda_j)`, :math:`f'` where they coincide, and
    so stays finite where eigenvalues do. Only the first derivative is right: derivatives through a step of a chain take
    the eigenvectors for constants.

    Args:
        energy: ``(params, x) -> ()``, three times differentiable.
        alpha: :math:`\alpha > 0`, one over the smallest curvature that the metric resolves. Large ones, as here, make a
            metric that is barely smooth where an eigenvalue changes its sign; there fixed points do not converge, and
            10 or 1 goes better.

    Returns:
        ``(params, x) -> (D, D)``.

    Raises:
        ValueError: an ``alpha`` that is not positive.

    Reference: Betancourt (2013), A general metric for Riemannian manifold Hamiltonian Monte Carlo, arXiv:1212.4693.

    >>> metric = softabs(lambda params, x: x[0] ** 2 - 2 * x[1] ** 2)
    >>> metric((), torch.zeros(2))
    tensor([[2., 0.],
            [0., 4.]])
    """
    checks.positive("alpha", alpha, "Use 1e6 for the absolute value of the Hessian, less for a smoother metric.")
    hessian = fields.hessian(energy)

    def metric(params: Params, position: Position) -> Tensor:
        matrix = hessian(params, position)
        matrix = 0.5 * (matrix + matrix.mT)
        fixed = matrix.detach()
        values, vectors = finite_eigh(fixed)
        # zero, with the derivative that a matrix function has; eigh's own is NaN where eigenvalues coincide
        change = _divided_differences(values, alpha) * (vectors.mT @ (matrix - fixed) @ vectors)
        result = vectors @ (torch.diag(_lifted(values, alpha)) + change) @ vectors.mT
        return 0.5 * (result + result.mT)

    return metric


def _lifted(value: Tensor, alpha: float) -> Tensor:
    """``x coth(alpha x)``, by its series near zero."""
    z = alpha * value
    is_small = z.abs() < 1e-4
    return torch.where(is_small, (1 + z**2 / 3) / alpha, value / torch.tanh(torch.where(is_small, 1, z)))


def _slope(value: Tensor, alpha: float) -> Tensor:
    """The derivative of ``x coth(alpha x)``, ``coth z - z / sinh^2 z`` at ``z = alpha x``, by its series near zero."""
    z = alpha * value
    is_small = z.abs() < 0.1
    series = 2 * z / 3 - 4 * z**3 / 45 + 4 * z**5 / 315 - 8 * z**7 / 4725
    safe = torch.where(is_small, 1, z.clamp(-40, 40))
    return torch.where(is_small, series, 1 / torch.tanh(safe) - safe / torch.sinh(safe) ** 2)


def _divided_differences(values: Tensor, alpha: float) -> Tensor:
    """``(f(a) - f(b)) / (a - b)`` of all pairs, the slope in between where they are closer than rounding resolves."""
    gap = values[:, None] - values
    is_close = gap.abs() <= torch.finfo(values.dtype).eps ** (1 / 3) / alpha
    lifted = _lifted(values, alpha)
    quotient = (lifted[:, None] - lifted) / torch.where(is_close, 1, gap)
    return torch.where(is_close, _slope((values[:, None] + values) / 2, alpha), quotient)
