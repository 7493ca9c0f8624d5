"""Bijections of matrices: Cholesky factors and what they make, correlations and covariances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from .bijection import Bijection, floating, within
from .vectors import check_vector

__all__ = ["correlation", "correlation_cholesky", "covariance", "covariance_cholesky"]

_LOWER = "K (K - 1) / 2 numbers to K by K"
_WHOLE = "K (K + 1) / 2 numbers to K by K"


def _size(name: str, y: Tensor, is_strict: bool) -> int:
    sizes = _LOWER if is_strict else _WHOLE
    check_vector(name, sizes, y, 1)
    num = (math.isqrt(8 * len(y) + 1) - 1) // 2  # of rows
    got = f"{len(y)} numbers"
    right = num * (num + 1) // 2 == len(y)
    counts = "1, 3, 6, 10 or another such number"
    checks.require(right, f"{name} maps {sizes}: a vector of {counts}", got, "Give a vector of one of these lengths.")
    return num + 1 if is_strict else num


def _square(name: str, x: Tensor, is_strict: bool) -> None:
    right = isinstance(x, Tensor) and x.ndim == 2 and x.shape[0] == x.shape[1] and len(x) >= (2 if is_strict else 1)
    got = f"the shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
    fix = "Give one square matrix for one particle; funcebm adds the axis of chains."
    checks.require(right, f"{name} maps {_LOWER if is_strict else _WHOLE}", got, fix)
    floating(x)


def _rows(y: Tensor, num: int, is_strict: bool) -> Tensor:
    """A lower triangle ``(K, K)`` filled row by row, zeros elsewhere."""
    rows, first = [], 0
    for index in range(num):
        length = index if is_strict else index + 1
        rows.append(torch.nn.functional.pad(y[first : first + length], (0, num - length)))
        first += length
    return torch.stack(rows)


def _entries(x: Tensor, is_strict: bool) -> Tensor:
    """The numbers of a lower triangle, row by row."""
    return torch.cat([row[: index if is_strict else index + 1] for index, row in enumerate(x.unbind(0))])


def _is_like(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b).abs() <= torch.finfo(a.dtype).eps ** 0.5 * (1 + b.abs())).all()


# -- correlations -------------------------------------------------------------------------------------------------


def _to_correlation_cholesky(y: Tensor) -> tuple[Tensor, Tensor]:
    num = _size("correlation_cholesky", y, is_strict=True)
    partial = _rows(y, num, is_strict=True)
    log_rest = 2 * (math.log(2) - partial.abs() - torch.nn.functional.softplus(-2 * partial.abs()))  # log(1 - tanh^2)
    left = log_rest.cumsum(-1)  # zeros on and above the diagonal, so that the last column has the whole
    below = torch.ones_like(left).tril(-1)
    before = left - log_rest
    factor = torch.tanh(partial) * torch.exp(before / 2) * below
    diagonal = torch.exp(left[:, -1] / 2).clamp(min=torch.finfo(y.dtype).tiny)
    return factor + torch.diag(diagonal), (log_rest + before * below / 2).sum()


def _from_correlation_cholesky(x: Tensor) -> Tensor:
    _square("correlation_cholesky", x, is_strict=True)
    squares = x.tril() ** 2
    # what is to the right of an entry, which a difference of sums would lose where it is small
    rest = torch.nn.functional.pad(squares[:, 1:], (0, 1)).flip(-1).cumsum(-1).flip(-1)
    is_inside = _is_like(squares.sum(-1), torch.ones_like(x[0])) & (x.diagonal() > 0).all() & _is_like(x.triu(1), 0 * x)
    ratio = x / torch.where(rest > 0, rest, 1).sqrt()
    must = "x must be lower triangular, with rows of length one and a positive diagonal"
    y = torch.asinh(_entries(ratio, is_strict=True))
    return within(is_inside, y, must, x, "Use torch.linalg.cholesky(correlation).")


correlation_cholesky = Bijection(_to_correlation_cholesky, _from_correlation_cholesky)
r"""Cholesky factors of correlation matrices, K (K - 1) / 2 numbers to K by K.

Partial correlations :math:`z_{ij} = \tanh y_{ij}` in rows, :math:`L_{ij} = z_{ij} \prod_{k < j} (1 - z_{ik}^2)^{1/2}`. The
log determinant is over the entries below the diagonal. For a density over the correlation matrices themselves use
:data:`correlation`.

Reference: Lewandowski, Kurowicka and Joe (2009), Journal of Multivariate Analysis 100(9):1989-2001."""


def _powers(num: int, first: int, like: Tensor) -> Tensor:
    return torch.arange(first, first - num, -1, device=like.device).to(like)


def _cholesky(x: Tensor) -> tuple[Tensor, Tensor]:
    factor, failed = torch.linalg.cholesky_ex(x)
    return factor, failed == 0


def _to_correlation(y: Tensor) -> tuple[Tensor, Tensor]:
    num = _size("correlation", y, is_strict=True)
    factor, log_det = _to_correlation_cholesky(y)
    return factor @ factor.T, log_det + (_powers(num, num - 1, y) * factor.diagonal().log()).sum()


def _from_correlation(x: Tensor) -> Tensor:
    _square("correlation", x, is_strict=True)
    factor, is_inside = _cholesky(x)
    is_inside = is_inside & _is_like(x, x.T) & _is_like(x.diagonal(), torch.ones_like(x[0]))
    must = "x must be symmetric and positive definite, with ones on the diagonal"
    safe = torch.where(is_inside, factor, torch.eye(len(x), device=x.device).to(x))
    return within(is_inside, _from_correlation_cholesky(safe), must, x, "Use torch.corrcoef.")


correlation = Bijection(_to_correlation, _from_correlation)
r"""Correlation matrices, K (K - 1) / 2 numbers to K by K: :math:`L L^\top` with :math:`L` of :data:`correlation_cholesky`. The
log determinant is over the entries below the diagonal."""


# -- covariances --------------------------------------------------------------------------------------------------


def _to_covariance_cholesky(y: Tensor) -> tuple[Tensor, Tensor]:
    num = _size("covariance_cholesky", y, is_strict=False)
    triangle = _rows(y, num, is_strict=False)
    log_diagonal = triangle.diagonal()
    return triangle.tril(-1) + torch.diag(log_diagonal.exp()), log_diagonal.sum()


def _from_covariance_cholesky(x: Tensor) -> Tensor:
    _square("covariance_cholesky", x, is_strict=False)
    diagonal = x.diagonal()
    is_inside = (diagonal > 0).all() & _is_like(x.triu(1), 0 * x)
    y = _entries(x.tril(-1) + torch.diag(torch.where(diagonal > 0, diagonal, 1).log()), is_strict=False)
    must = "x must be lower triangular with a positive diagonal"
    return within(is_inside, y, must, x, "Use torch.linalg.cholesky(covariance).")


covariance_cholesky = Bijection(_to_covariance_cholesky, _from_covariance_cholesky)
r"""Cholesky factors of covariances, K (K + 1) / 2 numbers to K by K: a lower triangle, row by row, whose diagonal is
:math:`e^y`."""


def _to_covariance(y: Tensor) -> tuple[Tensor, Tensor]:
    num = _size("covariance", y, is_strict=False)
    factor, log_det = _to_covariance_cholesky(y)
    log_diagonal = _rows(y, num, is_strict=False).diagonal()
    return factor @ factor.T, log_det + (_powers(num, num, y) * log_diagonal).sum() + num * math.log(2)


def _from_covariance(x: Tensor) -> Tensor:
    _square("covariance", x, is_strict=False)
    factor, is_inside = _cholesky(x)
    is_inside = is_inside & _is_like(x, x.T)
    safe = torch.where(is_inside, factor, torch.eye(len(x), device=x.device).to(x))
    must = "x must be symmetric and positive definite"
    return within(is_inside, _from_covariance_cholesky(safe), must, x, "Add a little to the diagonal.")


covariance = Bijection(_to_covariance, _from_covariance)
r"""Covariance matrices, K (K + 1) / 2 numbers to K by K: :math:`L L^\top` with :math:`L` of :data:`covariance_cholesky`. The log
determinant is over the entries on and below the diagonal."""
