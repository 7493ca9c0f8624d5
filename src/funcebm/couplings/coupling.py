r"""Couplings: which noise goes with which data, as indices, so that labels, masks and any tree follow."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, pairwise, tree
from ..types import Key, Position, Tree

__all__ = ["Coupling", "Pairing", "from_cost", "independent", "reflow", "take", "within_labels"]


class Pairing(NamedTuple):
    """Which row of the data goes with each row of the noise, which itself stays in order.

    Attributes:
        index: the row of the data. ``(B,)`` int64.
        weight: how much the pair counts, of mean one. ``(B,)``.
        residual: how far an iterative method was from its end; NaN where points were not finite. ``()``.
        data: what replaces the rows of the data, where a coupling makes its own; else ``()``.
    """

    index: Tensor  # type: ignore[assignment]
    weight: Tensor
    residual: Tensor
    data: Tree = ()


class Coupling(NamedTuple):
    """How noise and data are paired, as pure functions of whole batches.

    Attributes:
        draw: ``(key, num) -> noise``, all the random numbers of one pairing.
        pair: ``(x0, x1, labels, noise) -> Pairing``, over leading axes B; ``labels`` are those of ``x1``, or ``()``.
        solve: ``(cost, noise) -> Pairing`` from costs ``(B, B)``, where the coupling is one by cost; else None.
    """

    draw: Callable[[Key, int], Tree]
    pair: Callable[[Position, Position, Tree, Tree], Pairing]
    solve: Callable[[Tensor, Tree], Pairing] | None = None

    def __call__(self, key: Key, x0: Position, x1: Position, labels: Tree = ()) -> Pairing:
        """Draws the noise of one pairing and applies it."""
        return self.pair(x0, x1, labels, self.draw(key, tree.batch_size(x0)))


def _check(x0: Position, x1: Position, labels: Tree) -> None:
    leaves = tree.leaves((x0, x1, labels))
    right = bool(tree.leaves(x0)) and all(isinstance(leaf, Tensor) and leaf.ndim > 0 for leaf in leaves)
    must = "noise, data and labels must be tensors that lead with an axis of rows"
    checks.require(
        right, must, f"{[getattr(leaf, 'shape', leaf) for leaf in leaves]}"[:200], "Write x[None] for one row."
    )
    sizes = [leaf.shape[0] for leaf in tree.leaves((x0, x1))]
    must = "noise and data must be batches of one size, of one row or more"
    right = len(set(sizes)) == 1 and sizes[0] > 0
    checks.require(right, must, f"leading axes {sizes}", "Draw one noise for each row of the data.")
    counts = [leaf.shape[0] for leaf in tree.leaves(labels)]
    must = "there must be a label for each row of the data"
    checks.require(
        all(count == sizes[0] for count in counts), must, f"{counts} for {sizes[0]} rows", "Batch them alike."
    )


def _plain(like: Tensor, num: int) -> Pairing:
    one = torch.ones(num, dtype=like.dtype, device=like.device)
    return Pairing(torch.arange(num, device=like.device), one, torch.zeros((), dtype=like.dtype, device=like.device))


def take(pairing: Pairing, x1: Position, labels: Tree = ()) -> tuple[Position, Tree]:
    """The data and their labels in the order of the noise.

    Args:
        pairing: from a coupling.
        x1: the data that it was given. ``(B, *event)`` or a tree.
        labels: a tree with the leading axis B, or ``()``.

    Returns:
        ``(x1, labels)``, row i for row i of the noise.

    Raises:
        ValueError: data or labels that have not the rows of the pairing.

    >>> pairing = Pairing(torch.tensor([1, 0]), torch.ones(2), torch.tensor(0.0))
    >>> take(pairing, torch.tensor([5.0, 6.0]), torch.tensor([0, 1]))
    (tensor([6., 5.]), tensor([1, 0]))
    """
    counts = sorted({leaf.shape[0] for leaf in tree.leaves((x1, labels))})
    must = f"data and labels must have the {len(pairing.index)} rows of the pairing"
    checks.require(counts in ([], [len(pairing.index)]), must, f"{counts}", "Give those that were paired.")
    moved = tree.map(lambda leaf: leaf[pairing.index], labels)
    if tree.leaves(pairing.data):
        return pairing.data, moved
    return tree.map(lambda leaf: leaf[pairing.index], x1), moved


def from_cost(draw: Callable[[Key, int], Tree], solve: Callable[[Tensor, Tree], Pairing]) -> Coupling:
    r"""A coupling by the costs :math:`C_{ij} = |x_{0i} - x_{1j}|^2`, summed over all leaves.

    Args:
        draw: ``(key, num) -> noise``.
        solve: ``(cost, noise) -> Pairing``; the cost is ``(B, B)``, without gradient.

    Returns:
        A :class:`Coupling`.

    Raises:
        ValueError: when called, batches of unequal size, or labels that do not fit.

    >>> nearest = from_cost(lambda key, num: (), lambda cost, noise: Pairing(cost.argmin(1), cost[:, 0], cost[0, 0]))
    >>> from funcebm import random
    >>> nearest(random.key(0), torch.tensor([[0.0], [3.0]]), torch.tensor([[4.0], [1.0]])).index
    tensor([1, 0])
    """

    def pair(x0: Position, x1: Position, labels: Tree, noise: Tree) -> Pairing:
        _check(x0, x1, labels)
        return _flagged(solve(_costs(x0, x1), noise), x0, x1)

    return Coupling(draw, pair, solve)


def _costs(x0: Position, x1: Position) -> Tensor:
    checks.one_structure("the noise", x0, "the data", x1)
    checks.same_shapes("noise", x0, x1, "Draw it with funcebm.tree.normal_like(key, data).")
    return pairwise.squared_distances(tree.rows(x0).detach(), tree.rows(x1).detach())


def _flagged(pairing: Pairing, x0: Position, x1: Position) -> Pairing:
    """The residual is NaN where points are not finite."""
    is_finite = tree.all_finite((x0, x1))
    return pairing._replace(residual=torch.where(is_finite, pairing.residual, torch.nan))


def independent() -> Coupling:
    """Noise and data as they come: independent, where both are. The one of which score, noise and energy are exact.

    Returns:
        A :class:`Coupling`.

    Raises:
        ValueError: when called, batches of unequal size, or labels that do not fit.

    >>> from funcebm import random
    >>> independent()(random.key(0), torch.zeros(3, 2), torch.ones(3, 2)).index
    tensor([0, 1, 2])
    """

    def pair(x0: Position, x1: Position, labels: Tree, noise: Tree) -> Pairing:
        _check(x0, x1, labels)
        return _plain(tree.first(x0), tree.batch_size(x0))

    return Coupling(lambda key, num: (), pair)


def within_labels(coupling: Coupling, penalty: float | Tensor = float("inf")) -> Coupling:
    r"""A coupling that keeps classes apart: a row of noise is paired with data of the label that it came with.

    A coupling that sees only points makes the noise depend on the label, :math:`p(x_0 | y) \ne p(x_0)`, and then sampling for a
    label from plain noise is wrong. Here row i of the noise takes the label of row i of the data, at random since the noise is,
    and the cost grows by the penalty where labels differ.

    Args:
        coupling: by cost, such as :func:`optimal_transport`.
        penalty: added where labels differ, in units of the cost; infinite: classes never mix. ``()``.

    Returns:
        A :class:`Coupling`, which needs labels: a tree of tensors ``(B, ...)``, compared exactly.

    Raises:
        ValueError: a coupling that has no cost; when called, no labels, batches of unequal size, labels that do not fit.

    >>> from funcebm import couplings, random
    >>> labels = torch.tensor([0, 1, 1])
    >>> coupling = within_labels(couplings.optimal_transport())
    >>> labels[coupling(random.key(0), torch.tensor([[5.0], [0.0], [1.0]]), torch.tensor([[0.0], [1.0], [0.0]]), labels).index]
    tensor([0, 1, 1])
    """
    fix = "Use optimal_transport(), sinkhorn(...) or unbalanced(...)."
    checks.require(coupling.solve is not None, "the coupling must be one by cost", "one without solve", fix)
    if not isinstance(penalty, Tensor):
        checks.require(
            penalty >= 0, "penalty must not be negative", penalty, "Write float('inf') to keep labels apart."
        )
    solve = coupling.solve
    assert solve is not None

    def pair(x0: Position, x1: Position, labels: Tree, noise: Tree) -> Pairing:
        checks.require(bool(tree.leaves(labels)), "pairs within labels need labels", "()", "Pass those of the data.")
        _check(x0, x1, labels)
        differs = torch.zeros((), dtype=torch.bool, device=tree.first(x0).device)
        for leaf in tree.leaves(labels):
            rows = leaf.reshape(leaf.shape[0], -1)
            differs = differs | (rows[:, None] != rows[None]).any(-1)
        cost = _costs(x0, x1)
        extra = tree.number(penalty).to(cost)
        return _flagged(solve(torch.where(differs, cost + extra, cost), noise), x0, x1)

    return Coupling(coupling.draw, pair, solve)


def reflow(flow: Callable[..., Position]) -> Coupling:
    r"""Noise with what a trained flow makes of it: :math:`x_1 := \Phi(x_0)`, whatever the data of the batch.

    A flow trained on such pairs has straighter paths, and needs fewer steps. What the first flow got wrong is not mended.

    Args:
        flow: ``x0 -> x1`` of one particle, with its params closed over; ``(x0, label) -> x1`` where batches have labels.

    Returns:
        A :class:`Coupling`, whose pairings have ``data``.

    Raises:
        ValueError: when called, batches of unequal size, or labels that do not fit.

    Reference: Liu, Gong and Liu (2023), "Flow straight and fast", ICLR, arXiv:2209.03003.

    >>> from funcebm import random
    >>> pairing = reflow(lambda x: 2 * x)(random.key(0), torch.ones(3, 2), torch.zeros(3, 2))
    >>> take(pairing, torch.zeros(3, 2))[0][0]
    tensor([2., 2.])
    """
    checks.function("flow", flow, "Write lambda x: flows.flow(field).forward(params, x)[0], say.")

    def pair(x0: Position, x1: Position, labels: Tree, noise: Tree) -> Pairing:
        _check(x0, x1, labels)
        made = vmap(flow)(x0, labels) if tree.leaves(labels) else vmap(flow)(x0)
        checks.one_structure("what the flow makes", made, "the data", x1)
        checks.same_shapes("what the flow makes", made, x1, "Return one particle like the data.")
        return _plain(tree.first(x0), tree.batch_size(x0))._replace(data=tree.map(torch.Tensor.detach, made))

    return Coupling(lambda key, num: (), pair)
