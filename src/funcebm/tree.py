"""Arithmetic on trees of tensors. The only module that imports optree."""

from __future__ import annotations

from typing import Any, Callable

import optree
import torch
from torch import Tensor

from . import random
from .types import Key, Tree

__all__ = [
    "add",
    "add_scaled",
    "all_finite",
    "batch_size",
    "broadcast",
    "cast_like",
    "dot",
    "first",
    "flatten",
    "leaves",
    "map",
    "mul",
    "normal_like",
    "parts",
    "paths",
    "ravel",
    "scale",
    "size",
    "squared_norm",
    "stack",
    "structure",
    "sub",
    "unflatten",
    "where",
    "zeros_like",
]

_map = map


def map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Applies ``function`` to the leaves of ``tree``, with those of the trees in ``rest`` beside them.

    >>> map(lambda leaf: leaf + 1, {"a": torch.zeros(2)})
    {'a': tensor([1., 1.])}
    """
    return optree.tree_map(function, tree, *rest)


def leaves(tree: Tree) -> list[Any]:
    """The leaves of a tree, in the order of :func:`flatten` (dictionaries by sorted key)."""
    return optree.tree_leaves(tree)


def first(tree: Tree) -> Tensor:
    """The first leaf of a tree: the one to ask for device and dtype."""
    return leaves(tree)[0]


def flatten(tree: Tree) -> tuple[list[Any], Any]:
    """The leaves of a tree, and the structure with which :func:`unflatten` makes it again."""
    return optree.tree_flatten(tree)


def unflatten(structure: Any, leaves: list[Any]) -> Tree:
    """The inverse of :func:`flatten`."""
    return optree.tree_unflatten(structure, leaves)


def parts(structure: Any, tree: Tree) -> list[Tree]:
    """What a tree has in the places of the leaves of a structure, with which it begins.

    >>> parts(structure({"a": 0, "b": 0}), {"a": 1, "b": {"c": 2}})
    [1, {'c': 2}]
    """
    return structure.flatten_up_to(tree)


def structure(tree: Tree) -> Any:
    """What a tree is without its leaves; equal structures compare equal."""
    return optree.tree_structure(tree)


def paths(tree: Tree) -> list[str]:
    """The names of the leaves, such as ``"layers/0/weight"``, in the order of :func:`leaves`."""
    return [
        "/".join(str(getattr(entry, "field", entry.entry)) for entry in path) for path in optree.tree_accessors(tree)
    ]


def describe(tree: Tree, most: int = 3) -> str:
    """The names, shapes and dtypes of the first leaves, and how many more there are, in one line.

    >>> describe({"a": torch.zeros(3, 2), "b": torch.zeros(3)})
    'a (3, 2) float32, b (3,) float32'
    """
    names, values = paths(tree), leaves(tree)
    parts = [
        f"{name} {tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}"
        for name, leaf in zip(names, values, strict=True)
    ]
    more = [f"and {len(parts) - most} more"] if len(parts) > most else []
    return ", ".join([part.strip() for part in parts[:most]] + more)


def rows(batch: Tree) -> Tensor:
    """A tree of ``(n, *event)`` as one matrix ``(n, D)``, columns in the order of :func:`ravel`.

    >>> rows({"a": torch.zeros(3, 2), "b": torch.zeros(3)}).shape
    torch.Size([3, 3])
    """
    flat = [leaf.reshape(leaf.shape[0], -1) for leaf in leaves(batch)]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


def size(tree: Tree) -> int:
    """How many numbers a tree holds.

    >>> size({"a": torch.zeros(3, 2), "b": torch.zeros(3)})
    9
    """
    return sum(leaf.numel() for leaf in leaves(tree))


def index(tree: Tree, i: int) -> Tree:
    """The ``i``-th entry along the first axis of each leaf.

    >>> index({"a": torch.tensor([3, 5])}, 1)
    {'a': tensor(5)}
    """
    return map(lambda leaf: leaf[i], tree)


def add(a: Tree, b: Tree) -> Tree:
    """``a + b``, leaf by leaf."""
    return map(torch.add, a, b)


def sub(a: Tree, b: Tree) -> Tree:
    """``a - b``, leaf by leaf."""
    return map(torch.sub, a, b)


def mul(a: Tree, b: Tree) -> Tree:
    """``a * b``, leaf by leaf."""
    return map(torch.mul, a, b)


def scale(factor: float | Tensor, tree: Tree) -> Tree:
    """``factor * tree``."""
    return map(lambda leaf: factor * leaf, tree)


def add_scaled(a: Tree, factor: float | Tensor, b: Tree) -> Tree:
    """``a + factor * b``."""
    return map(lambda x, y: x + factor * y, a, b)


def dot(a: Tree, b: Tree) -> Tensor:
    """The inner product over all leaves. ``()``.

    >>> dot({"x": torch.ones(2)}, {"x": torch.tensor([1.0, 2.0])})
    tensor(3.)
    """
    products = [(x * y).sum() for x, y in zip(leaves(a), leaves(b), strict=True)]
    return sum(products[1:], products[0])


def squared_norm(tree: Tree) -> Tensor:
    """``dot(tree, tree)``. ``()``."""
    return dot(tree, tree)


def where(condition: Tensor, a: Tree, b: Tree) -> Tree:
    """``a`` where the 0-d ``condition`` holds, ``b`` elsewhere; NaNs of the branch not taken stay out."""
    return map(lambda x, y: torch.where(condition, x, y), a, b)


def zeros_like(tree: Tree) -> Tree:
    """Zeros with the shapes, dtypes and devices of ``tree``."""
    return map(torch.zeros_like, tree)


def all_finite(tree: Tree) -> Tensor:
    """Whether every number in the tree is finite. ``()`` bool.

    >>> all_finite([torch.ones(3), torch.arange(2)]), all_finite([torch.ones(3), torch.tensor([0.0, -torch.inf])])
    (tensor(True), tensor(False))
    """
    # a finite number less itself is zero, any other NaN: two operators a leaf, where isfinite compiles to seven. Summed: under
    # vmap, all() flattens each leaf, and compiled code then divides integers for every number
    inexact = [leaf for leaf in leaves(tree) if leaf.is_floating_point() or leaf.is_complex()]
    if not inexact:
        return torch.ones_like(first(tree), dtype=torch.bool).all()
    rests = [(leaf - leaf).sum() for leaf in inexact]
    return sum(rests[1:], rests[0]) == 0


def stack(trees: list[Tree], dim: int = 0) -> Tree:
    """Stacks trees of one structure along a new axis of every leaf."""
    return map(lambda *group: torch.stack(group, dim), *trees)


def broadcast(tree: Tree, num: int) -> Tree:
    """``num`` copies of ``tree`` on a new leading axis, without memory."""
    return map(lambda leaf: leaf.expand(num, *leaf.shape), tree)


def batch_size(tree: Tree) -> int:
    """The length of the leading axis of the first leaf.

    Raises:
        ValueError: the leaf has no axis.
    """
    leaf = first(tree)
    if leaf.ndim == 0:
        must, fix = "a batch must lead with an axis of its members", "Write batch[None] for a batch of one."
        raise ValueError(f"{must}. Got a tensor of shape (). {fix}")
    return leaf.shape[0]


def cast_like(tree: Tree, like: Tensor) -> Tree:
    """Floating-point leaves moved to the dtype and device of ``like``; others, and all where it has none, to its device."""
    is_float = like.is_floating_point()
    return map(lambda leaf: leaf.to(like) if is_float and leaf.is_floating_point() else leaf.to(like.device), tree)


def number(value: float | Tensor) -> Tensor:
    """A number as a 0-d tensor, which a compiled function takes as an argument: another one compiles nothing.

    In double precision, so that nothing is lost; :func:`cast_like` gives it the dtype and the device of what it meets.

    >>> number(0.1), number(torch.tensor(2.0))
    (tensor(0.1000, dtype=torch.float64), tensor(2.))
    """
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def normal_like(key: Key, tree: Tree) -> Tree:
    """Standard normal numbers with the shapes, dtypes and devices of ``tree``.

    A tree of one leaf uses ``key`` itself; of several, child ``i`` of the key for leaf ``i``.

    >>> noise = normal_like(random.key(0), {"a": torch.zeros(2), "b": torch.zeros(3)})
    >>> noise["b"].shape
    torch.Size([3])
    """
    parts, treedef = flatten(tree)
    keys = [key] if len(parts) == 1 else list(random.split(key, len(parts)).unbind(0))
    drawn = [random.normal(k, tuple(part.shape), dtype=part.dtype) for k, part in zip(keys, parts, strict=True)]
    return unflatten(treedef, drawn)


def ravel(tree: Tree) -> tuple[Tensor, Callable[[Tensor], Tree]]:
    """All leaves in one vector ``(D,)``, and the function back.

    >>> vector, back = ravel({"a": torch.zeros(2), "b": torch.ones(1)})
    >>> vector
    tensor([0., 0., 1.])
    >>> back(vector)
    {'a': tensor([0., 0.]), 'b': tensor([1.])}
    """
    parts, treedef = flatten(tree)
    shapes = [part.shape for part in parts]
    sizes = [part.numel() for part in parts]
    dtypes = [part.dtype for part in parts]
    is_mixed = len(set(dtypes)) > 1

    def back(vector: Tensor) -> Tree:
        pieces = list(vector.split(sizes))
        if is_mixed:
            pieces = [piece.to(dtype) for piece, dtype in zip(pieces, dtypes, strict=True)]
        return unflatten(treedef, [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)])

    if len(parts) == 1:
        return parts[0].reshape(-1), back
    return torch.cat([part.reshape(-1) for part in parts]), back
