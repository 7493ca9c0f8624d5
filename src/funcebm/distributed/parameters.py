"""Parameters too large for one device: torch's DTensors. ``fit`` trains them in parts; chains run with whole ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Params, Tree
from .mesh import Mesh, bounds, stacked

__all__ = ["Layout", "check_whole", "gathered", "is_cut", "layout_of", "local"]


def is_cut(params: Params) -> bool:
    """Whether there is a DTensor among the parameters."""
    return any(_is_dtensor(leaf) for leaf in tree.leaves(params))


def _is_dtensor(leaf: Any) -> bool:
    kind = type(leaf)
    return kind.__name__ == "DTensor" and kind.__module__.startswith("torch.distributed")


def gathered(params: Params) -> Params:
    """Whole parameters, on every rank, of those that ranks hold parts of; once before chains run, not in each step.

    :func:`funcebm.fit` trains a tree of DTensors in parts: params, their average and what the optimizer remembers stay cut, and
    are whole, with their gradient, for the time of a step alone. Where one step is too large for a device as well, write the
    loop with torch: an energy of a plain module as template, ``energy = lambda params, x: functional_call(template, params,
    (x,))``, differentiated by ``torch.func.grad`` at a tree of DTensors, also twice (score matching), and the optimizers of
    :mod:`funcebm.optimizers`, whose arithmetic needs no message. Gradients of parameters that are replicated must be reduced
    before: ``gradient.redistribute(placements=[Replicate()])``. What does not work in torch 2.13: ``torch.func.jvp`` and
    ``hessian`` of DTensors, ``functional_call`` of a module under ``fully_shard``, and double backward through one unless
    ``set_reshard_after_backward(False)``.

    Args:
        params: a tree, some of whose leaves may be DTensors; every rank makes this call.

    Returns:
        The tree, with plain tensors.

    >>> import torch
    >>> gathered({"a": torch.ones(2)})["a"]
    tensor([1., 1.])
    """
    return tree.map(lambda leaf: leaf.full_tensor() if _is_dtensor(leaf) else leaf, params)


def check_whole(params: Params, who: str) -> None:
    """Chains, warm-ups and ensembles take plain parameters."""
    fix = (
        "Call params = funcebm.distributed.gathered(params) once before. To train DTensors as they are, call funcebm.fit with "
        "mesh=."
    )
    checks.require(not is_cut(params), f"the params of {who} must be whole on every rank", "DTensors", fix)


def local(value: Tree) -> Tree:
    """What this rank holds of DTensors; other tensors as they are."""
    return tree.map(lambda leaf: leaf.to_local() if _is_dtensor(leaf) else leaf, value)


# -- in a run -----------------------------------------------------------------------------------------------------


class _Kind(NamedTuple):
    """What a DTensor is, but for its numbers; ``axis`` is where it is cut, None where every rank has the whole."""

    made: Any
    device_mesh: Any
    placements: Any
    shape: torch.Size
    stride: tuple[int, ...]
    axis: int | None

    @property
    def num(self) -> int:
        """How many rows the whole has along the axis."""
        return 0 if self.axis is None else self.shape[self.axis]


class Layout(NamedTuple):
    """Which part of each leaf a rank holds: its kind, or None where it is a plain tensor, the same on all ranks."""

    mesh: Mesh
    kinds: tuple[_Kind | None, ...]

    def whole(self, value: Tree) -> Tree:
        """All of what ranks hold, on every rank, by one message."""
        leaves, structure = tree.flatten(value)
        cut = [(index, kind) for index, kind in enumerate(self.kinds) if kind is not None and kind.axis is not None]
        parts = [self._filled(leaves[index], kind) for index, kind in cut]
        found = stacked(parts, self.mesh.size, self.mesh.name) if parts else []
        for (index, kind), rows in zip(cut, found, strict=True):
            assert kind.axis is not None
            leaves[index] = rows.flatten(0, 1)[: kind.num].movedim(0, kind.axis)
        return tree.unflatten(structure, leaves)

    def _filled(self, leaf: Tensor, kind: _Kind) -> Tensor:
        """The rows of this rank, as many as those of the first."""
        assert kind.axis is not None
        rows = leaf.movedim(kind.axis, 0)
        missing = -(-kind.num // self.mesh.size) - rows.shape[0]
        return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows.contiguous()

    def own(self, value: Tree) -> Tree:
        """The part of this rank, of whole leaves."""
        leaves, structure = tree.flatten(value)
        return tree.unflatten(structure, [self._own(*pair) for pair in zip(leaves, self.kinds, strict=True)])

    def _own(self, leaf: Tensor, kind: _Kind | None) -> Tensor:
        if kind is None or kind.axis is None:
            return leaf
        first, last = bounds(kind.num, self.mesh.rank, self.mesh.size)
        return leaf.narrow(kind.axis, first, last - first).clone()

    def own_named(self, found: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        """The parts of this rank, of leaves by name that are DTensors or whole; others as they are."""
        kinds = dict(zip(names, self.kinds, strict=True))

        def part(name: str, leaf: Tensor) -> Tensor:
            kind = kinds.get(name)
            is_whole = not _is_dtensor(leaf) and kind is not None and leaf.shape == kind.shape
            return self._own(leaf, kind) if is_whole else local(leaf)

        return {name: part(name, leaf) for name, leaf in found.items()}

    def dtensors(self, value: Tree) -> Tree:
        """DTensors again, of the parts of this rank."""
        leaves, structure = tree.flatten(value)
        return tree.unflatten(structure, [_as(*pair) for pair in zip(leaves, self.kinds, strict=True)])

    def sum_of_squares(self, value: Tree) -> Tensor:
        """Of the numbers that this rank counts: those that all hold count on the first."""
        pairs = zip(tree.leaves(value), self.kinds, strict=True)
        counted = [leaf for leaf, kind in pairs if self.mesh.rank == 0 or (kind is not None and kind.axis is not None)]
        return sum((leaf.square().sum() for leaf in counted), torch.zeros((), device=tree.first(value).device))


def _as(leaf: Tensor, kind: _Kind | None) -> Any:
    if kind is None:
        return leaf
    options: Any = {"run_check": False, "shape": kind.shape, "stride": kind.stride}
    return kind.made.from_local(leaf, kind.device_mesh, kind.placements, **options)


def layout_of(value: Tree, mesh: Mesh) -> Layout:
    """How the DTensors of a tree are cut.

    Raises:
        ValueError: DTensors of other ranks than the mesh, cut along several axes, strided, or not summed up yet.
    """
    return Layout(mesh, tuple(_kind(*pair, mesh) for pair in zip(tree.paths(value), tree.leaves(value), strict=True)))


def _kind(path: str, leaf: Any, mesh: Mesh) -> _Kind | None:
    if not _is_dtensor(leaf):
        return None
    devices = leaf.device_mesh
    right = devices.ndim == 1 and devices.size() == mesh.size and devices.get_local_rank() == mesh.rank
    must = "DTensors to train must be cut over the ranks of mesh="
    got = f"{path or 'params'} over {tuple(devices.shape)} ranks, and {mesh}"
    fix = "Pass mesh=funcebm.distributed.mesh(), and make them with init_device_mesh(device, (mesh.size,))."
    checks.require(right, must, got, fix)
    placement = leaf.placements[0]
    is_known = type(placement).__name__ in ("Shard", "Replicate")
    must, fix = "DTensors to train must be Shard or Replicate", "Call leaf.redistribute(placements=[Shard(0)])."
    checks.require(is_known, must, f"{path or 'params'}: {placement}", fix)
    axis = getattr(placement, "dim", None)
    axis = None if axis is None else axis % leaf.ndim
    return _Kind(type(leaf), devices, leaf.placements, leaf.shape, leaf.stride(), axis)
