"""The mesh: how ranks (processes, one a device) share work, as a value of pure functions."""

from __future__ import annotations

import math
import zlib
from types import MappingProxyType
from typing import Any, Callable, Mapping, NamedTuple

import torch
from torch import Tensor

from .. import checks, tree
from .._torch import collectives
from .._torch.tracing import is_mapped, is_tracing
from ..types import Tree

__all__ = [
    "Mesh",
    "Shard",
    "bits_of",
    "bounds",
    "mesh",
    "num_bytes_sent",
    "own_rows",
    "shared_rows",
    "single",
    "stacked",
    "tree_sum",
]

_MIXERS = 663608941, 374761393  # odd, below 2^30
_BYTES_BY_TREE = 2**20  # larger sums are left to the network's own reduction


class Shard(NamedTuple):
    """A tree that differs between ranks: the rows of this one, made by ``mesh.shard(rows)``."""

    rows: Tree


class Mesh(NamedTuple):
    """The ranks that share some work, seen from one of them; the identity where there is one.

    Attributes:
        rank: which one this is, from 0.
        size: W, how many there are.
        sum: ``tree -> tree``, added up over the ranks, in a fixed order.
        gather: ``(C_r, ...) -> (C, ...)``, the rows of all ranks in their order; numbers of rows may differ between ranks, but
            inside of a compiled function they must be equal.
        take: ``(C, ...) -> (C_r, ...)``, the rows of this rank: those from ``r ceil(C / W)`` on, as many or as there are.
        agree: ``flag -> flag``, whether any rank raised it.
        name: of the group of processes, empty where there is none.
        memory: how many bytes of draws one rank may hold before a run is refused.
        axes: by name, the meshes of the ranks in one line with this one; see :func:`mesh`.
    """

    rank: int
    size: int
    sum: Callable[[Tree], Tree]
    gather: Callable[[Tree], Tree]
    take: Callable[[Tree], Tree]
    agree: Callable[[Any], bool]
    name: str = ""
    memory: int = 2**32
    axes: Mapping[str, Mesh] = MappingProxyType({})

    def shard(self, rows: Tree) -> Shard:
        """Marks rows as those of this rank alone, where the whole would be taken otherwise."""
        return Shard(rows)

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}"


def _same(value: Tree) -> Tree:
    return value


single = Mesh(0, 1, _same, _same, _same, bool)


def mesh(*, timeout: float = 60.0, memory: int = 2**32, backend: str | None = None, **axes: int) -> Mesh:
    """Joins the ranks of this run.

    Under ``torchrun`` it opens the group of processes (gloo for CPUs, NCCL for CUDA); where there is a group already, as under
    Lightning Fabric or accelerate, it joins that and owns nothing. (Where torchrun may restart ranks, let it open the group:
    torch itself takes the addresses of ranks that are no more from torchrun's store, and may wait for them for ever.) In a lone
    process it is :data:`single`, whose functions are identities. Every rank must call it.

    Before torch 2.5 its functions refuse ``vmap``: ladders, Stein particles and energies over sharded data then need one process.

    Args:
        timeout: seconds that a rank waits for the others before it gives up with an error; making a group may take five more.
        memory: the most bytes of draws that one rank may hold; a run that would keep more is refused.
        backend: of ``torch.distributed``, where the group is opened here.
        axes: names and sizes whose product is the number of ranks, such as ``chains=8, rungs=4``: then
            ``mesh.axes["rungs"]`` is the mesh of the ranks that share a place among the chains. The last axis runs fastest.

    Returns:
        A :class:`Mesh`.

    Raises:
        ValueError: axes that do not multiply to the number of ranks, or that differ between ranks.
        RankError: a rank that does not come, which is named.

    >>> lone = mesh()
    >>> lone.rank, lone.size, lone.sum(torch.ones(2)), lone.agree(False)
    (0, 1, tensor([1., 1.]), False)
    """
    checks.positive("timeout", timeout)
    checks.positive_int("memory", memory)
    for axis, size in axes.items():
        checks.positive_int(axis, size)
    if not collectives.has_ranks():
        size, whole = 1, single._replace(memory=memory)
    else:
        words = f"mesh({', '.join(f'{axis}={size}' for axis, size in axes.items())})"
        whole = _mesh_of(collectives.connect(timeout, backend, words), memory)
        size = whole.size
    shape = list(axes.values())
    must = "the sizes of the axes must multiply to the number of ranks"
    fix = f"Start {math.prod(shape)} ranks (torchrun --nproc-per-node), or change the sizes."
    checks.require(not axes or math.prod(shape) == size, must, f"{axes} for {size}", fix)
    return whole._replace(axes=_axes(whole, axes, memory))


def _axes(whole: Mesh, axes: dict[str, int], memory: int) -> dict[str, Mesh]:
    if whole.size == 1:
        return {axis: whole for axis in axes}
    found, numbers = {}, torch.arange(whole.size).reshape(list(axes.values()) or [-1])
    for place, (axis, size) in enumerate(axes.items()):
        lines = numbers.movedim(place, -1).reshape(-1, size).tolist()
        found[axis] = _mesh_of(collectives.subgroups(whole.name, axis, lines), memory)
    return found


def _mesh_of(name: str, memory: int) -> Mesh:
    """The mesh of a group; of one rank it is the identity."""
    peers = collectives.peers_of(name)
    rank, size = peers.rank, peers.size
    if size == 1:
        return single._replace(name=name, memory=memory)
    functions = [_bound(function, rank, size, name) for function in (_sum, _gather, _take, _agree)]
    return Mesh(rank, size, functions[0], functions[1], functions[2], functions[3], name, memory)


def _bound(function: Callable[..., Any], rank: int, size: int, name: str) -> Callable[[Any], Any]:
    return lambda value: function(value, rank, size, name)


def num_bytes_sent() -> int:
    """How many bytes this process has sent to other ranks so far.

    Returns:
        Payload, all meshes together; 0 in one process.

    >>> num_bytes_sent()
    0
    """
    return collectives.num_bytes_sent()


# -- the four functions -------------------------------------------------------------------------------------------


def bounds(num: int, rank: int, size: int) -> tuple[int, int]:
    """The first and the end of the rows of a rank.

    >>> [bounds(10, rank, 4) for rank in range(4)]
    [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    each = -(-num // size)
    return min(rank * each, num), min((rank + 1) * each, num)


def tree_sum(values: Tensor) -> Tensor:
    """The sum over the leading axis by halving: neighbours first, then neighbouring sums. The order is in the program.

    >>> tree_sum(torch.arange(5))
    tensor(10)
    """
    num = 1 << (values.shape[0] - 1).bit_length()
    if num > values.shape[0]:
        values = torch.cat([values, values.new_zeros(num - values.shape[0], *values.shape[1:])])
    while values.shape[0] > 1:
        values = values[0::2] + values[1::2]
    return values[0]


def _sum(value: Tree, rank: int, size: int, name: str) -> Tree:
    leaves, structure = tree.flatten(value)
    leaves = [leaf.to(torch.int64) if leaf.dtype == torch.bool else leaf for leaf in map(torch.as_tensor, leaves)]
    _row_counts("sum", leaves, size, name)
    num_bytes = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    if size * num_bytes <= _BYTES_BY_TREE:
        return tree.unflatten(structure, [tree_sum(leaf) for leaf in stacked(leaves, size, name)])
    return tree.unflatten(structure, [collectives.exchange(leaf, name, size, True) for leaf in leaves])


def _gather(value: Tree, rank: int, size: int, name: str) -> Tree:
    leaves, structure = tree.flatten(value)
    counts = _row_counts("gather", leaves, size, name, 1)
    if not leaves:
        return value
    most = max(counts)
    padded = [_filled(leaf, most) for leaf in leaves]
    return tree.unflatten(structure, [_rows_of(leaf, counts) for leaf in stacked(padded, size, name)])


def _row_counts(which: str, leaves: list[Tensor], size: int, name: str, num_free: int = 0) -> list[int]:
    """How many rows each rank brings, where all have the same leaves but for so many axes: else the transport would abort.

    A trace, and ``vmap``, take it that all is the same.
    """
    num_rows = leaves[0].shape[0] if leaves and leaves[0].ndim else 0
    if is_tracing() or any(is_mapped(leaf) for leaf in leaves):
        return [num_rows] * size
    kinds = ", ".join(f"{leaf.dtype} {tuple(leaf.shape[num_free:])}".removeprefix("torch.") for leaf in leaves)
    own = torch.tensor([num_rows, zlib.crc32(kinds.encode())], device=_device(name))
    counts, codes = collectives.exchange(own, name, size, False).T.tolist()
    if len(set(codes)) > 1:
        other = next(rank for rank, code in enumerate(codes) if code != codes[0])
        must, got = f"mesh.{which} must be given the same kind of tree on all ranks", f"leaves {kinds} here"
        error = ValueError(checks.message(must, f"{got}, others on rank {other} than on rank 0", "Make them alike."))
        error.is_of_all_ranks = True  # type: ignore[attr-defined]
        raise error
    return counts


def _filled(leaf: Tensor, num: int) -> Tensor:
    missing = num - leaf.shape[0]
    return torch.cat([leaf, leaf.new_zeros(missing, *leaf.shape[1:])]) if missing else leaf


def _rows_of(everything: Tensor, counts: list[int]) -> Tensor:
    """``(W, most, ...) -> (C, ...)``, without what filled the ranks up."""
    if min(counts) == everything.shape[1]:
        return everything.flatten(0, 1)
    return torch.cat([everything[rank, :count] for rank, count in enumerate(counts)])


def _take(value: Tree, rank: int, size: int, name: str) -> Tree:
    return tree.map(lambda leaf: leaf[slice(*bounds(leaf.shape[0], rank, size))], value)


def _agree(flag: Any, rank: int, size: int, name: str) -> bool:
    raised = torch.full((1,), int(bool(flag)), dtype=torch.uint8, device=_device(name))
    return bool(collectives.exchange(raised, name, size, False).any())


def _device(name: str) -> torch.device:
    """Where flags are: on the device that the group can send from."""
    return torch.device("cuda" if collectives.peers_of(name).backend == "nccl" else "cpu")


def own_rows(value: Tree, mesh: Mesh) -> Tree:
    """The rows of this rank, ``(ceil(C / W), ...)`` on every rank: where there are too few, the last one again."""
    if mesh.size == 1:
        return value

    def take(leaf: Tensor) -> Tensor:
        num = leaf.shape[0]
        each = -(-num // mesh.size)
        first, last = bounds(num, mesh.rank, mesh.size)
        missing = each - (last - first)
        if not missing:
            return leaf[first:last]
        return torch.cat([leaf[first:last], leaf[-1:].expand(missing, *leaf.shape[1:])])

    return tree.map(take, value)


def shared_rows(value: Tree, mesh: Mesh, num: int) -> Tree:
    """What every rank has made of its :func:`own_rows`, as all ``(C, ...)`` rows, on all ranks; by one message."""
    if mesh.size == 1:
        return value
    leaves, structure = tree.flatten(value)
    return tree.unflatten(structure, [leaf.flatten(0, 1)[:num] for leaf in stacked(leaves, mesh.size, mesh.name)])


# -- one message for a whole tree ---------------------------------------------------------------------------------


def stacked(leaves: list[Tensor], size: int, name: str) -> list[Tensor]:
    """The leaves of all ranks, ``(W, *shape)`` each, by one message of 32-bit words."""
    if len(leaves) == 1 or any(is_mapped(leaf) for leaf in leaves):
        return [collectives.exchange(leaf, name, size, False) for leaf in leaves]
    words = [_to_words(leaf) for leaf in leaves]
    everything = collectives.exchange(torch.cat(words), name, size, False)
    parts = everything.split([len(part) for part in words], 1)
    return [_from_words(part, leaf).reshape(size, *leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]


def bits_of(leaf: Tensor) -> Tensor:
    """A number ``()`` int64 that hardly ever is that of a tensor of other bits; in a trace too."""
    words = _to_words(leaf.contiguous()).to(torch.int64)
    places = torch.arange(1, len(words) + 1, device=words.device)
    mixed = words * _MIXERS[0] + places * _MIXERS[1]  # within 64 bits: compiled code does not wrap around
    mixed = mixed ^ (mixed >> 17)
    return (mixed & 0xFFFFFFFFFF).sum()


def _to_words(leaf: Tensor) -> Tensor:
    """The bits of a tensor as int32 words, ``(n,)``."""
    flat = leaf.reshape(-1)
    if flat.dtype in (torch.float64, torch.int64):
        flat = flat.view(torch.int64) if flat.dtype == torch.float64 else flat
        return torch.cat([(flat >> 32).to(torch.int32), (flat & 0xFFFFFFFF).to(torch.int32)])
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.view(torch.int16)
    return flat.view(torch.int32) if flat.dtype == torch.float32 else flat.to(torch.int32)


def _from_words(words: Tensor, like: Tensor) -> Tensor:
    """``(W, n)`` words as numbers of the dtype of ``like``."""
    if like.dtype in (torch.float64, torch.int64):
        high, low = words.chunk(2, 1)
        whole = (high.to(torch.int64) << 32) | (low.to(torch.int64) & 0xFFFFFFFF)
        return whole.view(torch.float64) if like.dtype == torch.float64 else whole
    if like.dtype in (torch.float16, torch.bfloat16):
        return words.to(torch.int16).view(like.dtype)
    return words.view(torch.float32) if like.dtype == torch.float32 else words.to(like.dtype)
