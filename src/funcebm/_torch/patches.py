"""Changes of torch's compiler, as data: what each repairs, and on which torch. They are in force while we compile.

Most of what had to be repaired in torch is no longer used: loops, memory between kernels and tracing are funcebm's own. What
is left concerns the kernels that inductor writes.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from typing import Any, Callable, Iterator, NamedTuple

import torch

__all__ = ["PATCHES", "Patch", "applied", "is_needed", "switched_on"]

_lock = threading.RLock()


class Patch(NamedTuple):
    """One change of torch.

    Attributes:
        name: in ``FUNCEBM_TORCH_PATCHES``.
        kind: ``"bug"`` or ``"speed"``.
        repairs: what goes wrong without it.
        upstream: the issue of torch that it is about, or what to report.
        seen_on: the torches on which that was seen.
        mended_in: the first torch that does it right by itself, on which the patch is not used; ``()`` where none does yet.
        find: the object and the name of its attribute that is replaced, or None where this torch has no such thing.
        wrap: the new attribute, from the old one.
    """

    name: str
    kind: str
    repairs: str
    upstream: str
    seen_on: str
    mended_in: tuple[int, ...]
    find: Callable[[], tuple[Any, str] | None]
    wrap: Callable[[Any], Any]


def _loop_nest() -> tuple[Any, str] | None:
    try:
        from torch._inductor.codegen.cpp import LoopNest
    except ImportError:
        return None
    return (LoopNest, "max_parallel_depth") if hasattr(LoopNest, "max_parallel_depth") else None


def _threads_outside(choose: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Threads go inside only where the outer loops, counted right, have few steps for each of the inner one."""
    from torch._inductor.codegen.cpp import ParallelDepth

    @functools.wraps(choose)
    def choose_outside(self: Any) -> Any:
        depth = choose(self)
        start = getattr(depth, "start_depth", 0)
        if start == 0:
            return depth
        steps = [-(-loop.size // loop.steps) for loop in self.loops[: start + 1]]
        are_known = all(getattr(count, "is_number", True) for count in steps)
        if are_known and 300 * math.prod(steps[:-1]) < steps[-1]:
            return depth
        return ParallelDepth(parallel_depth=start, start_depth=0)

    return choose_outside


def _dtype_handler() -> tuple[Any, str] | None:
    try:
        from torch._inductor.dtype_propagation import DtypePropagationOpsHandler
    except ImportError:
        return None
    return DtypePropagationOpsHandler, "__init__"


def _once(initialise: Callable[[Any], None]) -> Callable[[Any], None]:
    """The rules do not change: an object that has them keeps them."""

    @functools.wraps(initialise)
    def initialise_once(self: Any) -> None:
        if not vars(self):
            initialise(self)

    return initialise_once


def _isa_trial() -> tuple[Any, str] | None:
    try:
        from torch._inductor.cpu_vec_isa import VecISA
    except ImportError:
        return None
    return (VecISA, "check_build") if hasattr(VecISA, "check_build") else None


def _believed(check: Callable[..., bool]) -> Callable[..., bool]:
    """What the processor says it has is believed."""
    return functools.wraps(check)(lambda self, code: True)


def _vector_index() -> tuple[Any, str] | None:
    try:
        from torch._inductor import sizevars
        from torch._inductor.codegen import cpp  # where it is before torch 2.13
    except ImportError:
        return None
    name = "simplify_index_in_vec_range"
    return next(((module, name) for module in (sizevars, cpp) if hasattr(module, name)), None)


def _unless_polynomial(simplify: Callable[..., Any]) -> Callable[..., Any]:
    """An index of sums and products has no division that a vector could do without."""
    from sympy import preorder_traversal

    @functools.wraps(simplify)
    def unless(index: Any, var: Any, vec_length: int) -> Any:
        is_polynomial = not any(part.is_Function or part.is_Relational for part in preorder_traversal(index))
        return index if is_polynomial else simplify(index, var, vec_length)

    return unless


PATCHES = (
    Patch(
        name="no_isa_trials",
        kind="speed",
        repairs="Inductor compiles a trial program for each set of vector instructions, AMX included: 3 s on an empty cache, "
        "also with the option cpp.vec_isa_ok.",
        upstream="none yet: the subclasses of VecISA call check_build whatever the option says",
        seen_on="2.13, 2.14, 2.15",
        mended_in=(),
        find=_isa_trial,
        wrap=_believed,
    ),
    Patch(
        name="one_dtype_handler",
        kind="speed",
        repairs="Inductor sets the 300 rules of a singleton again for each operator that it writes: a seventh of its time.",
        upstream="none yet: DtypePropagationOpsHandler.__new__ gives one object, whose __init__ runs at each call",
        seen_on="2.11, 2.13, 2.14",
        mended_in=(2, 15),
        find=_dtype_handler,
        wrap=_once,
    ),
    Patch(
        name="plain_indices",
        kind="speed",
        repairs="Inductor asks sympy for a simpler form of each index, also of sums such as 64 x0 + x1, which have none: a third "
        "of its time for a U-Net.",
        upstream="none yet: simplify_index_in_vec_range calls sympy.simplify whether or not it has divided",
        seen_on="2.11, 2.13, 2.14, 2.15",
        mended_in=(),
        find=_vector_index,
        wrap=_unless_polynomial,
    ),
    Patch(
        name="threads_outside",
        kind="speed",
        repairs="For a loop shorter than a vector inductor counts no iterations, and opens the parallel region inside of the "
        "outer loops: 32 regions for the sums over a batch of the gradients of 32 networks of 8 units.",
        upstream="none yet: LoopNest.max_parallel_depth divides the size by the vector length and rounds down",
        seen_on="2.11, 2.13, 2.14",
        mended_in=(2, 15),
        find=_loop_nest,
        wrap=_threads_outside,
    ),
)


def is_needed(patch: Patch) -> bool:
    """Whether this torch does not yet do by itself what a patch makes it do."""
    return not patch.mended_in or tuple(map(int, torch.__version__.split(".")[:2])) < patch.mended_in


def switched_on() -> tuple[Patch, ...]:
    """The patches this torch needs, of those that ``FUNCEBM_TORCH_PATCHES`` names, with commas; by default all, or ``none``."""
    needed = tuple(filter(is_needed, PATCHES))
    names = os.environ.get("FUNCEBM_TORCH_PATCHES", "all")
    if names == "all":
        return needed
    wanted = {name.strip() for name in names.split(",")}
    return tuple(patch for patch in needed if patch.name in wanted)


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Inside, torch's compiler is as the patches make it; afterwards as it was. One thread at a time."""
    with _lock, contextlib.ExitStack() as stack:
        for patch in switched_on():
            found = patch.find()
            if found is None:
                continue
            owner, name = found
            before = getattr(owner, name)
            setattr(owner, name, patch.wrap(before))
            stack.callback(setattr, owner, name, before)
        yield
