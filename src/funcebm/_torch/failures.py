"""Linear algebra that fails for some matrices: NaN in their place, in those of many, and not the end of all; and masks."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["FailuresAreNan", "LinAlgError", "finite_eigh"]

LinAlgError: type[Exception] = torch.linalg.LinAlgError


def _marked(value: Any, is_good: Tensor) -> Any:
    """NaN where a matrix of the batch failed, in each floating-point part of a result."""
    if isinstance(value, Tensor):
        if not (value.is_floating_point() or value.is_complex()):
            return value
        return torch.where(is_good.reshape(is_good.shape + (1,) * (value.ndim - is_good.ndim)), value, torch.nan)
    parts = [_marked(part, is_good) for part in value]
    return type(value)(parts)


def _by_info(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a function with an ``info`` that is not 0 for matrices that fail."""

    def replaced(*args: Any, **kwargs: Any) -> Any:
        *parts, info = function(*args, **kwargs)
        is_good = info == 0
        results = [_marked(part, is_good) for part in parts]
        return results[0] if len(results) == 1 else tuple(results)

    return replaced


def _cholesky(matrix: Tensor, upper: bool = False, **kwargs: Any) -> Tensor:
    return _by_info(torch.linalg.cholesky_ex)(matrix, upper=upper)


def _solve(matrix: Tensor, right: Tensor, *, left: bool = True, **kwargs: Any) -> Tensor:
    """By the factors, through which derivatives go where the matrix is singular too."""
    is_vector = right.ndim == 1 or (right.ndim == matrix.ndim - 1 and right.shape == matrix.shape[:-1])
    factors, pivots, info = torch.linalg.lu_factor_ex(matrix)
    result = torch.linalg.lu_solve(factors, pivots, right.unsqueeze(-1) if is_vector else right, left=left or is_vector)
    return _marked(result.squeeze(-1) if is_vector else result, info == 0)


def _of_finite(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a function that fails for matrices that are not finite only: those are replaced by the identity."""

    def replaced(matrix: Tensor, *args: Any, **kwargs: Any) -> Any:
        is_good = torch.isfinite(matrix).all(-1).all(-1)
        unit = torch.eye(matrix.shape[-2], matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        safe = torch.where(is_good[..., None, None], matrix, unit)
        return _marked(function(safe, *args, **kwargs), is_good)

    return replaced


def _norm(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a norm; those of a matrix by its singular values are the ones that fail."""

    def replaced(value: Tensor, ord: Any = None, **kwargs: Any) -> Any:
        given = () if ord is None else (ord,)
        is_spectral = ord in ("nuc", 2, -2) and not kwargs and (value.ndim == 2 or function is torch.linalg.matrix_norm)
        return (_of_finite(function) if is_spectral else function)(value, *given, **kwargs)

    return replaced


def _power(matrix: Tensor, n: int) -> Tensor:
    """Negative powers are those of the inverse."""
    return torch.linalg.matrix_power(_by_info(torch.linalg.inv_ex)(matrix) if n < 0 else matrix, abs(n))


def _set(value: Tensor, index: Any, new: Any) -> None:
    """``value[mask] = number``, as torch's multinomial and geometric distributions write it, in a way that can be mapped."""
    is_mask = isinstance(index, Tensor) and index.dtype == torch.bool and index.shape == value.shape
    if is_mask and not isinstance(new, Tensor):
        value.masked_fill_(index, new)
    else:
        value[index] = new


def finite_eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``torch.linalg.eigh``, with NaN for matrices that are not finite, on which it fails.

    >>> finite_eigh(torch.full((2, 2), torch.inf))[0]
    tensor([nan, nan])
    """
    values, vectors = _of_finite(torch.linalg.eigh)(matrix)
    return values, vectors


_REPLACED: dict[Any, Callable[..., Any]] = {
    Tensor.__setitem__: _set,
    torch.linalg.cholesky: _cholesky,
    torch.cholesky: _cholesky,
    Tensor.cholesky: _cholesky,
    torch.linalg.inv: _by_info(torch.linalg.inv_ex),
    torch.inverse: _by_info(torch.linalg.inv_ex),
    Tensor.inverse: _by_info(torch.linalg.inv_ex),
    torch.linalg.solve: _solve,
    torch.linalg.matrix_norm: _norm(torch.linalg.matrix_norm),
    torch.linalg.norm: _norm(torch.linalg.norm),
    torch.linalg.matrix_power: _power,
    torch.matrix_power: _power,
    Tensor.matrix_power: _power,
    torch.linalg.lu_factor: _by_info(torch.linalg.lu_factor_ex),
    torch.linalg.ldl_factor: _by_info(torch.linalg.ldl_factor_ex),
    **{
        function: _of_finite(function)
        for function in (
            torch.linalg.eigh,
            torch.linalg.eigvalsh,
            torch.linalg.eig,
            torch.linalg.eigvals,
            torch.linalg.svd,
            torch.linalg.svdvals,
            torch.svd,
            Tensor.svd,
            torch.linalg.pinv,
            torch.pinverse,
            Tensor.pinverse,
            torch.linalg.cond,
        )
    },
}


class FailuresAreNan(TorchFunctionMode):
    """While it is active, what :mod:`torch.linalg` would raise an error about has NaN as result."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function, or what stands for it."""
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))
