"""Where the batches of a run come from: tensors in memory, or anything that gives batches."""

from __future__ import annotations

import itertools
import warnings
from typing import Any, Iterable, Iterator, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, tree
from ..types import Batch, Key, Tree

__all__ = ["Rows", "Stream", "check_tensors", "extreme_rows", "open_source"]

_END: Any = object()
_MANY_ROWS = 2**12


def check_tensors(name: str, data: Batch) -> int:
    """How many rows the data have; they must be finite tensors with one leading axis."""
    leaves, names = tree.leaves(data), tree.paths(data)
    fix = "Stack the examples on a leading axis of every leaf; torch.as_tensor takes arrays."
    right = bool(leaves) and all(isinstance(leaf, Tensor) and leaf.ndim > 0 for leaf in leaves)
    got = type(data).__name__ if not leaves or leaves[0] is data else f"{[type(leaf).__name__ for leaf in leaves]}"
    checks.require(right, f"{name} must be tensors with a leading axis of examples", got, fix)
    lengths = {path: leaf.shape[0] for path, leaf in zip(names, leaves, strict=True)}
    must = f"all leaves of {name} must share one leading axis"
    got = f"lengths {', '.join(f'{length} of {path!r}' for path, length in lengths.items())}"
    checks.require(len(set(lengths.values())) == 1, must, got, "Give one label, or whatever it is, for each example.")
    checks.require(leaves[0].shape[0] > 0, f"{name} must hold an example", "none", "Give at least one row.")
    for path, leaf in zip(names, leaves, strict=True):
        if leaf.is_floating_point() and checks.is_concrete(leaf) and not bool(torch.isfinite(leaf).all()):
            bad = (~_finite_rows(leaf)).nonzero().flatten()
            where = f" in {path!r}" if path else ""
            got = f"{len(bad)} rows with NaN or infinity{where}, first {bad[0].item()}"
            raise ValueError(checks.message(f"{name} must be finite", got, "Drop or fill these rows."))
    return leaves[0].shape[0]


def extreme_rows(data: Batch) -> list[Batch]:
    """The rows, as batches of one, where a vector of integers in the data, such as labels, is smallest and largest."""
    rows = []
    for leaf in tree.leaves(data):
        is_other = leaf.is_floating_point() or leaf.is_complex() or leaf.dtype == torch.bool
        if leaf.ndim == 1 and not is_other and checks.is_concrete(leaf):
            rows += [int(leaf.argmin()), int(leaf.argmax())]
    return [tree.map(lambda leaf: leaf[row : row + 1], data) for row in rows]  # noqa: B023


def _finite_rows(leaf: Tensor) -> Tensor:
    """Which entries along the leading axis are finite throughout. ``(N,)``."""
    return torch.isfinite(leaf).flatten(1).all(1) if leaf.ndim > 1 else torch.isfinite(leaf)


class Taken(NamedTuple):
    """What a source gave for the next steps: their rows or batches, stacked; the epoch and how many steps into it one is
    after each; and what went wrong.
    """

    rows: Tree
    places: list[tuple[int, int]]
    problem: Exception | None

    @property
    def num(self) -> int:
        """How many steps."""
        return len(self.places)


# -- tensors in memory ----------------------------------------------------------------------------------------------


class Rows:
    """Batches of rows of tensors, in a new random order each epoch; the order is a function of the key and the epoch."""

    def __init__(self, key_epochs: Key, data: Batch, num_rows: int, batch_size: int) -> None:
        self.key, self.shared, self.num_rows, self.batch_size = key_epochs, data, num_rows, batch_size
        self.epoch_steps = num_rows // batch_size
        self.example = tree.map(lambda leaf: leaf[:batch_size], data)
        self.known: tuple[int, Tensor] | None = None  # the last epoch that was asked for, and its order

    def take(self, first: int, num: int) -> Taken:
        """The rows ``(num, B)`` of the steps ``first .. first + num - 1``."""
        epoch, offset = divmod(first, self.epoch_steps)
        orders = self._orders(epoch, (first + num - 1) // self.epoch_steps)
        batches = orders[:, : self.epoch_steps * self.batch_size].reshape(-1, self.batch_size)
        places = [divmod(step, self.epoch_steps) for step in range(first + 1, first + num + 1)]
        return Taken(batches[offset : offset + num], places, None)

    def _orders(self, first: int, last: int) -> Tensor:
        """The orders of the rows in the epochs ``first .. last``; the first of them is often the last one known. ``(E, N)``."""
        start, rows = first, []
        if self.known is not None and self.known[0] == first:
            start, rows = first + 1, [self.known[1][None]]
        if start <= last:
            epochs = torch.arange(start, last + 1, device=self.key.device)
            order = lambda epoch: random.permutation(random.fold_in(self.key, epoch), self.num_rows)  # noqa: E731
            # of many rows one at a time: epochs are few, and together they would want a kernel compiled for several keys
            is_large = self.num_rows > _MANY_ROWS
            rows.append(torch.stack([order(epoch) for epoch in epochs]) if is_large else vmap(order)(epochs))
        orders = torch.cat(rows)
        self.known = (last, orders[-1])
        return orders


# -- anything that gives batches --------------------------------------------------------------------------------------


class Stream:
    """Batches from an iterable, epoch after epoch, moved to a device; one that can be read only once is one epoch."""

    shared: Tree = ()
    example: Batch

    def __init__(self, data: Any, batch_size: int | None, device: torch.device, place: tuple[int, int]) -> None:
        self.data, self.batch_size, self.device = data, batch_size, device
        self.epoch, self.num_seen = place
        self.num_given, self.example = 0, None
        self.is_once = not callable(data) and isinstance(data, Iterator)
        _warn_of_global_order(data)
        self.iterator = self._begin()
        first = self._next()
        self.iterator = itertools.chain([first], self.iterator)
        if self.is_once:
            self.num_seen = 0  # of an iterator that goes on where it is
        for index in range(self.num_seen):
            if self._next(is_last_epoch=True) is _END:
                must = f"an epoch of data must have the {self.num_seen} batches that the run has seen of it already"
                fix = "Resume with the data that the run began with."
                raise ValueError(checks.message(must, f"{index} batches", fix))
        self.num_given = 0

    def take(self, first: int, num: int) -> Taken:
        """The next ``num`` batches, stacked; fewer where something goes wrong."""
        batches: list[Batch] = []
        places: list[tuple[int, int]] = []
        problem: Exception | None = None
        while len(batches) < num and problem is None:
            try:
                batch = self._next()
                batches.append(batch)
                self.num_seen += 1
                places.append((self.epoch, self.num_seen))
            except Exception as error:  # raised again when the batches before it are used
                problem = error
        if not batches:
            return Taken((), [], problem)
        rows = tree.map(lambda leaf: leaf.to(self.device), tree.stack(batches))
        flags = [_finite_rows(leaf) for leaf in tree.leaves(rows) if leaf.is_floating_point()]
        is_finite = torch.stack(flags).all(0) if flags else torch.ones(len(batches), dtype=torch.bool)
        num = len(batches)
        if not bool(is_finite.all()):
            num = int((~is_finite).nonzero()[0])
            got = f"NaN or infinity in batch {self.num_given - len(batches) + num} of this call"
            problem = ValueError(checks.message("data must be finite", got, "Drop or fill such rows in the loader."))
            rows = tree.map(lambda leaf: leaf[:num], rows)
        return Taken(rows, places[:num], problem)

    def _begin(self) -> Iterator[Any]:
        if callable(self.data):
            return iter(self.data(self.epoch))
        for part in (self.data, getattr(self.data, "sampler", None), getattr(self.data, "batch_sampler", None)):
            set_epoch = getattr(part, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(self.epoch)
        return iter(self.data)

    def _next(self, is_last_epoch: bool = False) -> Batch:
        """The next whole batch; of the next epoch where this one has no more, which must have one."""
        is_new = False
        while True:
            batch = next(self.iterator, _END)
            if batch is not _END:
                batch = self._whole(_plain(batch))
            if batch is not _END:
                self.num_given += 1
                return batch
            if is_last_epoch:
                return _END
            if self.is_once or is_new or (self.num_seen == 0 and self.num_given == 0):
                self._refuse_to_end()
            is_new = True
            self.epoch, self.num_seen = self.epoch + 1, 0
            self.iterator = self._begin()

    def _refuse_to_end(self) -> None:
        size = "" if self.batch_size is None else f" of {self.batch_size}"
        must = f"data must give a whole batch{size} for each step"
        fix = "Give one batch or more; a loader with drop_last has none where its batches are larger than the data."
        if self.num_given > 0:
            fix = (
                "Give something that can be gone through again for each epoch, such as a DataLoader or a function "
                f"epoch -> batches, or num_steps={self.num_given}."
            )
        raise ValueError(checks.message(must, f"{self.num_given} batches, and then no more", fix))

    def _whole(self, batch: Batch) -> Batch:
        """The batch, or the end of an epoch where it is a smaller one at the end."""
        num = check_shapes(batch)
        if self.batch_size is None:
            self.batch_size = num
        if num == self.batch_size:
            return self._like_first(batch)
        if num < self.batch_size and next(self.iterator, _END) is _END:
            return _END
        must = (
            f"every batch must have {self.batch_size} rows, but for a smaller last one of an epoch, which is left out"
        )
        fix = "Make batches of one size, and leave batch_size out or give it the same."
        raise ValueError(checks.message(must, f"{num} rows in batch {self.num_given} of this call", fix))

    def _like_first(self, batch: Batch) -> Batch:
        if self.example is None:
            self.example = tree.map(lambda leaf: leaf.to(self.device), batch)
        found = "another structure"
        if tree.structure(batch) == tree.structure(self.example):
            found = checks.differences(
                *(dict(zip(tree.paths(t), tree.leaves(t), strict=True)) for t in (batch, self.example))
            )
        must, got = "every batch must be like the first", f"{found} in batch {self.num_given} of this call"
        checks.require(not found, must, got, "Make batches of one structure, shape and dtype.")
        return batch


def _warn_of_global_order(data: Any) -> None:
    """A loader of torch that shuffles by its own generator: the key of the run does not fix the order of its batches."""
    sampler = getattr(data, "sampler", None)
    kinds = torch.utils.data
    is_random = isinstance(sampler, (kinds.RandomSampler, kinds.SubsetRandomSampler, kinds.WeightedRandomSampler))
    if not is_random or getattr(sampler, "generator", None) is not None or _warned:
        return
    _warned.append(True)
    text = (
        "this DataLoader shuffles by torch's global generator: the key does not fix the order of its batches, and neither does "
        "resume. Pass tensors, a function epoch -> batches, or DataLoader(..., generator=...) with one that you seed."
    )
    warnings.warn(text, UserWarning, stacklevel=2)


_warned: list[bool] = []


def check_shapes(batch: Batch) -> int:
    """How many rows a batch has; it must be tensors with one leading axis."""
    leaves = tree.leaves(batch)
    right = bool(leaves) and all(isinstance(leaf, Tensor) and leaf.ndim > 0 for leaf in leaves)
    got = f"{[type(leaf).__name__ for leaf in leaves]}"
    checks.require(right, "batches must be tensors with a leading axis of examples", got, "Use torch.as_tensor.")
    lengths = [leaf.shape[0] for leaf in leaves]
    must = "all leaves of a batch must share one leading axis"
    checks.require(len(set(lengths)) == 1, must, f"lengths {lengths}", "Give one label for each example.")
    return lengths[0]


def _plain(batch: Any) -> Batch:
    """A DataLoader makes lists of tuples, and a list of one of a lone tensor."""
    if isinstance(batch, list) or type(batch) is tuple:
        return batch[0] if len(batch) == 1 else tuple(batch)
    return batch


# -- which of the two -----------------------------------------------------------------------------------------------


def open_source(
    data: Any, batch_size: int | None, key_epochs: Key, device: torch.device, place: tuple[int, int]
) -> Rows | Stream:
    """The source of the batches, after the checks at the door."""
    if batch_size is not None:
        checks.positive_int("batch_size", batch_size)
    if _gives_batches(data):
        return Stream(data, batch_size, device, place)
    num_rows = check_tensors("data", data)
    must = "data must be a tensor, a tuple or dict of tensors, or something that gives batches"
    fix = "Write tuple(data) if its entries are parts of each example, or lambda epoch: data if they are batches."
    checks.require(not isinstance(data, list), must, "a list, which could be either", fix)
    must = "batch_size must be given where data are tensors"
    checks.require(batch_size is not None, must, "None", f"Try 128, or {num_rows} for all rows in every step.")
    assert batch_size is not None
    must, got = "batch_size must be at most the number of rows", f"{batch_size} of {num_rows}"
    checks.require(batch_size <= num_rows, must, got, f"Set batch_size to {num_rows} or less.")
    return Rows(key_epochs, tree.map(torch.Tensor.detach, data), num_rows, batch_size)


def _gives_batches(data: Any) -> bool:
    """Whether data are a loader, an iterator or a function of the epoch: an object of their own that is no tensor."""
    if isinstance(data, (Tensor, tuple, list, dict, str)):
        return False
    return callable(data) or (isinstance(data, Iterable) and not hasattr(data, "__array__"))
