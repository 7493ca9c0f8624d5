"""Sums and draws on trees, by passing messages from the leaves to the root."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from ... import checks, graphs, random
from ...types import Key

__all__ = ["is_forest", "tree_log_normalizer", "tree_sample"]


def is_forest(edges: Tensor, num_sites: int) -> bool:
    """Whether a graph has no circle.

    Args:
        edges: ``(M, 2)``.
        num_sites: N.

    Returns:
        A ``bool``.

    >>> is_forest(graphs.grid(4), 4), is_forest(graphs.torus(4), 4)
    (True, False)
    """
    return len(edges) + len(graphs.components(edges, num_sites).unique()) == num_sites


def _levels(edges: Tensor, num: int) -> tuple[list[int], list[list[tuple[int, int, int, bool]]]]:
    """Roots, and for each depth from 1 on ``(child, parent, edge, whether the edge is written child first)``."""
    fix = "Use exact.log_normalizer or exact.transfer_matrix for graphs with circles."
    checks.require(is_forest(edges, num), "the graph must be a tree, or several", "one with a circle", fix)
    neighbours: list[list[tuple[int, int, bool]]] = [[] for _ in range(num)]
    for index, (a, b) in enumerate(edges.tolist()):
        neighbours[a].append((b, index, False))
        neighbours[b].append((a, index, True))
    roots = graphs.components(edges, num).unique().tolist() if num else []
    levels: list[list[tuple[int, int, int, bool]]] = []
    here, seen = list(roots), set(roots)
    while True:
        level = []
        for parent in here:
            for child, index, is_first in neighbours[parent]:
                if child not in seen:
                    seen.add(child)
                    level.append((child, parent, index, is_first))
        if not level:
            return roots, levels
        levels.append(level)
        here = [child for child, *_ in level]


def _tables(level: list[tuple[int, int, int, bool]], couplings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Children and parents ``(n,)``, and the couplings between them with the value of the child first ``(n, K, K)``."""
    children, parents, indices, firsts = (
        torch.tensor(part, device=couplings.device) for part in zip(*level, strict=True)
    )
    between = couplings[indices]
    return children, parents, torch.where(firsts[:, None, None], between, between.mT)


def _gathered(
    edges: Tensor, fields: Tensor, couplings: Tensor
) -> tuple[list[int], list[tuple[Tensor, Tensor, Tensor]], Tensor]:
    """Roots, the tables of each depth, and the fields with the messages of all children added. ``(N, K)``."""
    right = isinstance(fields, Tensor) and isinstance(couplings, Tensor) and fields.ndim == 2
    got = f"{type(fields).__name__}, {type(couplings).__name__}, fields {tuple(getattr(fields, 'shape', ()))}"
    checks.require(
        right, "fields and couplings must be tensors, fields (N, K)", got, "Expand what is the same everywhere."
    )
    num, values = fields.shape
    dtype = torch.promote_types(fields.dtype, couplings.dtype)
    fields, couplings = fields.to(dtype), couplings.to(dtype)
    got = f"{tuple(couplings.shape)} for {len(edges)} edges of {num} sites with {values} values"
    right = couplings.shape == (len(edges), values, values)
    checks.require(right, "couplings must have the shape (M, K, K)", got, "See the arguments.")
    roots, levels = _levels(edges, num)
    tables = [_tables(level, couplings) for level in levels]
    beliefs = fields
    for children, parents, between in reversed(tables):
        messages = torch.logsumexp(beliefs[children][:, :, None] + between, 1)
        beliefs = beliefs.index_add(0, parents, messages)
    return roots, tables, beliefs


def tree_log_normalizer(edges: Tensor, fields: Tensor, couplings: Tensor) -> Tensor:
    r"""The log of :math:`\sum_x \exp\bigl(\sum_i h_i(x_i) + \sum_{(i,j)} J_{ij}(x_i, x_j)\bigr)` on a tree, in :math:`O(N K^2)`.

    Args:
        edges: ``(M, 2)``, a tree or several.
        fields: :math:`h`, ``(N, K)``; minus infinity where a site has fewer values.
        couplings: :math:`J`, ``(M, K, K)``, of the values of the first and of the second site of each edge.

    Returns:
        ``()``; gradients give the marginals.

    Raises:
        ValueError: a graph with a circle, or another shape.

    Reference: Pearl (1982), AAAI, 133-136.

    >>> tree_log_normalizer(graphs.grid(3), torch.zeros(3, 2), torch.zeros(2, 2, 2))  # 3 log(2)
    tensor(2.0794)
    """
    roots, _, beliefs = _gathered(edges, fields, couplings)
    return torch.logsumexp(beliefs[torch.tensor(roots, device=fields.device)], 1).sum()


def tree_sample(key: Key, edges: Tensor, fields: Tensor, couplings: Tensor, num: int) -> Tensor:
    """Exact independent draws on a tree, from the root to the leaves.

    Args:
        key: ``(2,)``.
        edges, fields, couplings: as in :func:`tree_log_normalizer`.
        num: how many draws.

    Returns:
        The numbers of the values, ``(num, N)`` int64.

    Raises:
        ValueError: a graph with a circle, or another shape.

    >>> tree_sample(random.key(0), graphs.grid(3), 99.0 * torch.tensor([[0, 1], [1, 0], [0, 1]]), torch.zeros(2, 2, 2), 1)
    tensor([[1, 0, 1]])
    """
    checks.positive_int("num", num)
    roots, tables, beliefs = _gathered(edges, fields, couplings)
    first = torch.tensor(roots, device=fields.device)

    def one(key: Key) -> Tensor:
        noise = random.gumbel(key, tuple(fields.shape), dtype=fields.dtype)
        values = torch.zeros(len(fields), dtype=torch.int64, device=fields.device)
        values = values.index_copy(0, first, (beliefs[first] + noise[first]).argmax(1))
        for children, parents, between in tables:
            index = values[parents][:, None, None].expand(-1, between.shape[1], 1)
            logits = beliefs[children] + between.gather(2, index)[:, :, 0]
            values = values.index_copy(0, children, (logits + noise[children]).argmax(1))
        return values

    return vmap(one)(random.split(key, num))
