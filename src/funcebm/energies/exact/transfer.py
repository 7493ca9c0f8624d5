"""The transfer matrix of Ising lattices, one spin at a time."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ... import checks, loops, spaces

__all__ = ["transfer_matrix"]


def transfer_matrix(rows: Tensor, columns: Tensor, field: Tensor, *, chunk_size: int = 2**10) -> Tensor:
    r"""The log normalizer of an Ising lattice with any couplings and fields, by the transfer matrix.

    .. math:: -E(s) = \sum_{ij} R_{ij}\,s_{ij}\,s_{i,j+1} + \sum_{ij} C_{ij}\,s_{ij}\,s_{i+1,j} + \sum_{ij} h_{ij}\,s_{ij}

    In logarithms, so that no coupling is too strong. Rows are added one spin at a time, so that no :math:`2^n \times 2^n` matrix
    is made: :math:`O(n m 2^n)` with open columns and :math:`O(n m 4^n)` with periodic ones, n being the shorter side. Gradients
    give exact magnetisations and correlations.

    Args:
        rows: :math:`R`, ``(m, n)`` where the last column is joined to the first, ``(m, n - 1)`` where it is not.
        columns: :math:`C`, ``(m, n)`` where the last row is joined to the first, ``(m - 1, n)`` where it is not.
        field: :math:`h`, ``(m, n)``.
        chunk_size: how many first rows are followed at once around a periodic lattice, static.

    Returns:
        ``()``.

    Raises:
        TypeError: couplings or a field that are no tensors.
        ValueError: shapes that are not those of one lattice; a shorter side beyond 20.

    Reference: Kramers and Wannier (1941), Physical Review 60(3):252-262.

    >>> J = torch.full((4, 4), 0.2, dtype=torch.float64)
    >>> transfer_matrix(J, J, 0 * J)
    tensor(11.7715, dtype=torch.float64)
    """
    checks.positive_int("chunk_size", chunk_size)
    given = (rows, columns, field)
    fix = "Write J.expand(m, n) for one number everywhere."
    got = ", ".join(type(part).__name__ for part in given)
    checks.require(
        all(isinstance(part, Tensor) for part in given), "couplings and field must be tensors", got, fix, TypeError
    )
    dtype = functools.reduce(torch.promote_types, [part.dtype for part in given])
    rows, columns, field = (part.to(dtype if dtype.is_floating_point else torch.get_default_dtype()) for part in given)
    shape = tuple(field.shape)
    checks.require(len(shape) == 2, "field must have the shape (m, n)", str(shape), "Use one row for a chain.")
    m, n = shape
    fits = tuple(rows.shape) in ((m, n), (m, n - 1)) and tuple(columns.shape) in ((m, n), (m - 1, n))
    must = f"rows must be {(m, n)} or {(m, n - 1)}, columns {(m, n)} or {(m - 1, n)}"
    got = f"{tuple(rows.shape)} and {tuple(columns.shape)}"
    checks.require(fits, must, got, "Leave out the last column or row of couplings for open ends.")
    if n > m:
        return transfer_matrix(columns.mT, rows.mT, field.mT, chunk_size=chunk_size)
    is_periodic = columns.shape[0] == m
    checks.require(n <= 20, "the shorter side must be at most 20", n, "Use exact.kaufman on a torus without a field.")
    patterns = spaces.states(spaces.spins(n), field.dtype).to(field.device)
    neighbours = patterns * patterns.roll(-1, 1)
    within = rows @ neighbours[:, : rows.shape[1]].T + field @ patterns.T  # (m, 2**n), of each row by itself
    if m == 1:
        own = columns[0].sum() if is_periodic else 0  # a row joined to itself
        return torch.logsumexp(within[0], 0) + own

    def add_row(weights: Tensor, x: tuple[Tensor, Tensor]) -> Tensor:
        couplings, inside = x
        return _pass(weights, couplings) + inside

    def follow(weights: Tensor) -> Tensor:
        return loops.fold(add_row, weights, (columns[: m - 1], within[1:]))

    if not is_periodic:
        return torch.logsumexp(follow(within[:1])[0], 0)

    def around(_: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        # chains of rows that begin with the patterns `starts`; what returns to where it began is a trace
        is_begin = starts[:, None] == torch.arange(2**n, device=starts.device)
        weights = follow(torch.where(is_begin, within[0], _NEVER))
        return _, torch.logsumexp(_pass(weights, columns[m - 1]).gather(1, starts[:, None]), (0, 1))

    at_once = 2 ** min(n, chunk_size.bit_length() - 1)  # a power of two divides the patterns
    starts = torch.arange(2**n, device=field.device).reshape(-1, at_once)
    return torch.logsumexp(loops.scan(around, torch.zeros((), device=field.device), starts)[1], 0)


_NEVER = -1e30  # in place of minus infinity, so that there are gradients


def _pass(weights: Tensor, couplings: Tensor) -> Tensor:
    """Log weights of patterns of one row ``(R, 2**n)`` to those of the next, over the couplings between them ``(n,)``."""
    num, n = weights.shape[0], couplings.shape[0]
    for j, coupling in enumerate(couplings.unbind(0)):
        low, high = weights.reshape(num, 2**j, 2, -1).unbind(2)
        after = [torch.logaddexp(low + coupling, high - coupling), torch.logaddexp(high + coupling, low - coupling)]
        weights = torch.stack(after, 2)
    return weights.reshape(num, 2**n)
