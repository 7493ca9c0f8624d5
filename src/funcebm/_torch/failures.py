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
        if not (value.is_floating_point() or value.is_complex()) or value.numel() == 0:
            return value
        return torch.where(is_good.reshape(is_good.shape + (1,) * (value.ndim - is_good.ndim)), value, torch.nan)
    parts = [_marked(part, is_good) for part in value]
    return type(value)(parts)


def _by_info(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a function with an ``info`` that is not 0 for matrices that fail."""

    def replaced(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("check_errors", None)
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


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a function with ``check_errors``, which would raise them."""

    def replaced(*args: Any, check_errors: bool = False, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        return _with_info(found, [_marked(part, found[-1] == 0) for part in found[:-1]]) if check_errors else found

    return replaced


def _with_info(found: Any, parts: list[Any]) -> Any:
    return type(found)([*parts, found[-1]])


def _solve_ex(matrix: Tensor, right: Tensor, *, left: bool = True, check_errors: bool = False) -> Any:
    """Through whose own derivative a singular matrix is an error."""
    info = torch.linalg.lu_factor_ex(matrix.detach())[2]
    return torch.return_types.linalg_solve_ex((_solve(matrix, right, left=left), info))  # type: ignore[attr-defined]


def _tensorinv(value: Tensor, ind: int = 2) -> Tensor:
    rows, columns = value.shape[:ind], value.shape[ind:]
    return _by_info(torch.linalg.inv_ex)(value.reshape(rows.numel(), columns.numel())).reshape(columns + rows)


def _tensorsolve(value: Tensor, right: Tensor, dims: Any = None) -> Tensor:
    if dims is not None:
        value = value.movedim(tuple(dims), tuple(range(value.ndim - len(dims), value.ndim)))
    rest = value.shape[right.ndim :]
    return _solve(value.reshape(right.numel(), rest.numel()), right.reshape(-1)).reshape(rest)


def _lstsq(matrix: Tensor, right: Tensor, *args: Any, **kwargs: Any) -> Any:
    is_good = torch.isfinite(right).all(-1).all(-1)
    safe = torch.where(is_good[..., None, None], right, 0)
    return _marked(_of_finite(torch.linalg.lstsq)(matrix, safe, *args, **kwargs), is_good)


def _matrix_rank(matrix: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """-1 of a matrix that is not finite."""
    is_good = torch.isfinite(matrix).all(-1).all(-1)
    return torch.where(is_good, _of_finite(torch.linalg.matrix_rank)(matrix, *args, **kwargs), -1)


def _log_det(function: Callable[..., Any]) -> Callable[..., Any]:
    """Through whose derivative a singular matrix is an error: there it is constant."""

    def replaced(matrix: Tensor) -> Any:
        fixed = function(matrix.detach())
        values = (fixed,) if isinstance(fixed, Tensor) else tuple(fixed)
        is_good = torch.isfinite(values[-1])
        unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        moved = function(torch.where(is_good[..., None, None], matrix, unit))
        if isinstance(fixed, Tensor):
            return torch.where(is_good, moved, fixed)
        return type(fixed)([torch.where(is_good, new, old) for new, old in zip(moved, values, strict=True)])

    return replaced


def _cholesky_inverse(factor: Tensor, upper: bool = False) -> Tensor:
    is_good = (factor.diagonal(dim1=-2, dim2=-1) != 0).all(-1)
    unit = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    safe = torch.where(is_good[..., None, None], factor, unit)
    return _marked(torch.cholesky_inverse(safe, upper=upper), is_good)


def _norm(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a norm; those of a matrix by its singular values are the ones that fail."""
    is_old = function in (torch.norm, torch.nuclear_norm)  # whose 2 is that of a vector

    def replaced(value: Tensor, *args: Any, **kwargs: Any) -> Any:
        names = ("dim", "keepdim") if function is torch.nuclear_norm else ("p" if is_old else "ord", "dim", "keepdim")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        order = "nuc" if function is torch.nuclear_norm else given.get(names[0])
        dims: Any = given.get("dim") or ((-2, -1) if function is torch.linalg.matrix_norm or value.ndim == 2 else None)
        is_pair = isinstance(dims, (tuple, list)) and len(dims) == 2
        if not (is_pair and order in (("nuc",) if is_old else ("nuc", 2, -2))):
            return function(value, *args, **kwargs)
        is_good = torch.isfinite(value).all(dims[0], keepdim=True).all(dims[1], keepdim=True)
        found = function(torch.where(is_good, value, 1.0), *args, **kwargs)
        if not given.get("keepdim"):
            is_good = is_good.squeeze(tuple(dims))
        return torch.where(is_good, found, torch.nan)

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
    torch.linalg.solve_ex: _solve_ex,
    torch.linalg.tensorsolve: _tensorsolve,
    torch.linalg.tensorinv: _tensorinv,
    torch.linalg.lstsq: _lstsq,
    torch.linalg.matrix_rank: _matrix_rank,
    torch.linalg.slogdet: _log_det(torch.linalg.slogdet),
    torch.slogdet: _log_det(torch.linalg.slogdet),
    Tensor.slogdet: _log_det(torch.linalg.slogdet),
    torch.logdet: _log_det(torch.logdet),
    Tensor.logdet: _log_det(torch.logdet),
    torch.cholesky_inverse: _cholesky_inverse,
    Tensor.cholesky_inverse: _cholesky_inverse,
    torch.linalg.matrix_norm: _norm(torch.linalg.matrix_norm),
    torch.linalg.norm: _norm(torch.linalg.norm),
    torch.norm: _norm(torch.norm),
    Tensor.norm: _norm(torch.norm),
    torch.nuclear_norm: _norm(torch.nuclear_norm),
    **{
        function: _checked(function)
        for function in (
            torch.linalg.inv_ex,
            torch.linalg.cholesky_ex,
            torch.linalg.lu_factor_ex,
            torch.linalg.ldl_factor_ex,
        )
    },
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
            torch.linalg.det,
            torch.det,
            Tensor.det,
        )
    },
}


class FailuresAreNan(TorchFunctionMode):
    """While it is active, what :mod:`torch.linalg` would raise an error about has NaN as result."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function, or what stands for it."""
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))
