"""The one operator through which ranks hear of each other, and the processes behind it.

``funcebm::exchange`` gathers a tensor of all ranks, or adds it up. It knows ``vmap`` (torch's functional collectives under
``vmap`` return local or uninitialised numbers, without an error, in 2.13), and compiled programs call it back like any operator
that has no kernel. Derivatives do not go through it: they are an error on every rank, before anything is sent.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import time
from functools import partial
from typing import Any, Callable

import torch
from torch import Tensor

from .joining import RankError, agreed_name, has_keys, name_groups, own_store, within
from .tracing import is_mapped

__all__ = [
    "HAS_OPERATOR",
    "Peers",
    "RankError",
    "abort",
    "close",
    "connect",
    "exchange",
    "has_ranks",
    "num_bytes_sent",
    "peers_of",
    "subgroups",
    "tell_alone",
]


class Peers:
    """The processes of a mesh, by the name that the operator is given.

    Attributes:
        group: of ``torch.distributed``.
        rank: of this process in it.
        size: how many there are.
    """

    def __init__(self, group: Any, timeout: float, place: str) -> None:
        import torch.distributed as dist

        self.group, self.timeout, self.place = group, timeout, place
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.backend = str(dist.get_backend(group))
        self.num_bytes, self.num_calls, self.num_runs = 0, 0, 0
        self.is_open = True
        self.store = _store()

    # -- what needs no collective: a rank that stops or fails says so, others look now and then ------------------------

    def post(self, name: str, text: str = "") -> None:
        """Leaves a note for the other ranks, until the end of this run; that a mesh has failed stays."""
        if self.store is not None:
            with contextlib.suppress(Exception):
                self.store.set(self._place(name), text or "1")

    def post_alone(self) -> None:
        """Leaves a note for the next run, for which the others may wait: this rank runs something without them."""
        if self.store is not None and self.is_open and self.size > 1:
            with contextlib.suppress(Exception):
                self.store.set(f"funcebm/{self.place}/{self.num_runs + 1}/alone", str(self.rank))

    def note(self, name: str) -> str:
        """The note of another rank, or the empty string; it does not wait."""
        if self.store is None:
            return ""
        try:
            place = self._place(name)
            return self.store.get(place).decode(errors="replace") if has_keys(self.store, [place]) else ""
        except Exception:  # the rank that holds the notes is gone
            return ""

    def _place(self, name: str) -> str:
        run = "" if name == "failed" else f"{self.num_runs}/"  # a mesh that has failed is closed for good
        return f"funcebm/{self.place}/{run}{name}"


_peers: dict[str, Peers] = {}
_is_ours = False  # whether the default group was opened here


def _store() -> Any:
    from torch.distributed import distributed_c10d

    get = getattr(distributed_c10d, "_get_default_store", None)
    try:
        return get() if get is not None else None
    except (RuntimeError, ValueError):
        return None


def has_ranks() -> bool:
    """Whether there is a group of processes, or the environment of torchrun names one."""
    import torch.distributed as dist

    if not dist.is_available():
        return False
    return dist.is_initialized() or all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))


def connect(timeout: float, backend: str | None, words: str = "") -> str:
    """Joins the group there is, or the one of torchrun; the name of its peers.

    All that waits for other ranks ends: with an error after ``timeout`` where one does not come, or a few seconds later.

    Args:
        timeout: seconds.
        backend: of a group that is made here.
        words: what all ranks must say alike.
    """
    global _is_ours
    import torch.distributed as dist

    seconds = datetime.timedelta(seconds=timeout)
    if dist.is_initialized():
        store, name = _store(), ""
        if store is not None:
            name = agreed_name(store, dist.get_rank(), dist.get_world_size(), timeout, words)
            name_groups(name)
    else:
        is_cuda = torch.cuda.is_available() and dist.is_nccl_available()
        if is_cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        store, rank, size = own_store(timeout)
        name = agreed_name(store, rank, size, timeout, words)
        options: Any = {"store": dist.PrefixStore(name, store), "rank": rank, "world_size": size, "timeout": seconds}
        backend = backend or ("cpu:gloo,cuda:nccl" if is_cuda else "gloo")
        within(timeout, lambda: dist.init_process_group(backend, **options), "opening the group of processes")
        _is_ours = True
        atexit.register(close)
    # a group of our own: its timeout is ours, and it may be closed without harm to the user's
    group = within(timeout, lambda: dist.new_group(timeout=seconds), "opening a group for the mesh")
    return _known(Peers(group, timeout, name), f"mesh{len(_peers)}")


def _known(peers: Peers, name: str) -> str:
    _peers[name] = peers
    return name


def subgroups(name: str, axis: str, members: list[list[int]]) -> str:
    """The peers of this rank in a division of all ranks into groups; every rank calls it with the same lists."""
    import torch.distributed as dist

    whole, own = _peers[name], ""
    seconds = datetime.timedelta(seconds=whole.timeout)
    for ranks in members:  # every rank opens every group
        of_all = [dist.get_global_rank(whole.group, rank) for rank in ranks]
        make = partial(dist.new_group, of_all, timeout=seconds)
        group = within(whole.timeout, make, f"opening the axis {axis}")
        if whole.rank in ranks:
            own = _known(Peers(group, whole.timeout, f"{whole.place}/{axis}/{ranks[0]}"), f"{name}.{axis}")
    return own


def abort(name: str, why: str) -> None:
    """Leaves a mesh after an error: ranks that wait for this one see why within a second."""
    peers = _peers.get(name)
    if peers is not None and peers.is_open:
        peers.is_open = False
        peers.post("failed", why)


def tell_alone() -> None:
    """Notes on all meshes of this process that it runs chains by itself: by purpose, or because ``mesh=`` was forgotten."""
    for peers in _peers.values():
        peers.post_alone()


def close() -> None:
    """Leaves all groups that were opened here."""
    global _is_ours
    import torch.distributed as dist

    for peers in _peers.values():
        peers.is_open = False
    if _is_ours and dist.is_initialized():
        _is_ours = False
        with contextlib.suppress(Exception):
            dist.destroy_process_group()


def peers_of(name: str) -> Peers:
    """The processes of a mesh."""
    if name not in _peers:
        raise RankError(
            f"the mesh {name!r} is not one of this process. Make it here: mesh = funcebm.distributed.mesh()."
        )
    return _peers[name]


def num_bytes_sent() -> int:
    """How many bytes this process has sent to others since it began, all meshes together."""
    return sum(peers.num_bytes for peers in _peers.values())


# -- the operator -------------------------------------------------------------------------------------------------


def _exchange(x: Tensor, name: str, size: int, is_sum: bool) -> Tensor:
    import torch.distributed as dist

    flat = x.new_empty(x.numel()).copy_(x.detach().reshape(-1))  # strides of 1, also of one number
    out = flat.clone() if is_sum else flat.new_empty(size * flat.numel())
    if size == 1:
        return out.copy_(flat).reshape(x.shape if is_sum else (size, *x.shape))
    peers = peers_of(name)
    if not peers.is_open:
        raise RankError("this mesh was closed after an error. Start the processes again.")
    if flat.numel() == 0:
        return out.reshape(x.shape if is_sum else (size, *x.shape))
    peers.num_bytes += flat.numel() * flat.element_size()
    peers.num_calls += 1
    start = time.monotonic()
    try:
        if is_sum:
            work = dist.all_reduce(out, group=peers.group, async_op=True)
        else:  # as bytes: any dtype, and no arithmetic
            work = _gather(out.view(torch.uint8), flat.view(torch.uint8), peers)
        _wait(work, peers, start)
    except RuntimeError as error:
        peers.is_open = False
        waited = time.monotonic() - start
        what = f"no answer after {waited:.0f} s" if waited > peers.timeout else "another rank has ended"
        why = peers.note("failed") or f"{what} ({(str(error).splitlines() or ['?'])[0][:200]})"
        alone = peers.note("alone")
        why += f"; rank {alone} runs chains without mesh=mesh, which all ranks must give" if alone else ""
        raise RankError(
            f"rank {peers.rank} of {peers.size} cannot go on: {why}. This mesh is closed; where all ranks are still there, "
            "funcebm.distributed.mesh() on all of them makes a new one."
        ) from error
    return out.reshape(x.shape if is_sum else (size, *x.shape))


def _gather(out: Tensor, own: Tensor, peers: Peers) -> Any:
    import torch.distributed as dist

    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    try:
        return gather(out, own, group=peers.group, async_op=True)
    except RuntimeError as error:
        if "no support" not in str(error):
            raise
    return dist.all_gather(list(out.chunk(peers.size)), own, group=peers.group, async_op=True)  # gloo of torch 2.1


def _wait(work: Any, peers: Peers, start: float) -> None:
    """Waits for a message, a second at a time, in between looking for the note of a rank that has failed."""
    if peers.backend == "nccl":
        work.wait()
        return
    while True:
        try:
            work.wait(datetime.timedelta(seconds=1))
            return
        except RuntimeError as error:
            is_late = "timed out" in str(error).lower()
            if not is_late or peers.note("failed") or time.monotonic() - start > peers.timeout:
                raise


def _no_derivative(x: Tensor) -> None:
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "derivatives do not go through a mesh. Got sum, gather or agree of a tensor that is being differentiated. "
            "Differentiate what is local and add the gradients up; funcebm.fields.sharded does that for an energy."
        )


HAS_OPERATOR = hasattr(torch.library, "custom_op") and hasattr(torch.library, "register_vmap")

if HAS_OPERATOR:
    _library = torch.library.Library("funcebm", "FRAGMENT")
    _library.define("exchange(Tensor x, str name, int size, bool is_sum) -> Tensor")
    _library.impl("exchange", _exchange, "CompositeExplicitAutograd")
    _operator: Callable[..., Tensor] = torch.ops.funcebm.exchange.default

    @torch.library.register_fake("funcebm::exchange", lib=_library)
    def _(x: Tensor, name: str, size: int, is_sum: bool) -> Tensor:
        return x.new_empty(x.shape if is_sum else (size, *x.shape))

    def _batched(info: Any, in_dims: tuple[Any, ...], x: Tensor, name: str, size: int, is_sum: bool) -> Any:
        out = _operator(x.movedim(in_dims[0], 0), name, size, is_sum)
        return out, 0 if is_sum else 1

    torch.library.register_vmap("funcebm::exchange", _batched, lib=_library)
else:  # an older torch: eager, outside of transforms

    def _operator(x: Tensor, name: str, size: int, is_sum: bool) -> Tensor:
        if is_mapped(x):
            raise RuntimeError("a mesh under vmap needs torch 2.5 or later")
        return _exchange(x, name, size, is_sum)


def exchange(x: Tensor, name: str, size: int, is_sum: bool) -> Tensor:
    """What all ranks hold, ``(size, *shape)`` in the order of ranks; or its sum."""
    _no_derivative(x)
    return _operator(x, name, size, is_sum)
