"""``jit``: traces a function once, as JAX does, compiles the graph whole, and keeps both."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any, Callable, Sequence, TypeVar, cast

import torch

from . import _trial, tree
from ._torch import jitting, native, programs, workers
from ._torch.cuda_graphs import use_cuda_graphs
from ._torch.jitting import TracedValueError
from ._torch.meaning import Meaning, meaning

__all__ = [
    "TracedValueError",
    "can_compile",
    "clear_cache",
    "explained",
    "is_worth_it",
    "jit",
    "jit_begin",
    "jit_once",
    "jit_scan",
    "log_compiles",
    "run_all",
    "use_cuda_graphs",
    "use_jit",
]

Function = TypeVar("Function", bound=Callable[..., Any])

_is_on = os.environ.get("FUNCEBM_JIT", "1").strip().lower() not in ("0", "false", "no", "off")


def use_jit(is_on: bool = True) -> None:
    """Whether anything is compiled in this process; ``use_jit(False)`` makes every ``jit=True`` run eagerly.

    The environment variable ``FUNCEBM_JIT=0`` does the same from the start. Results are the same to floating-point rounding.

    >>> use_jit(False)
    >>> jit(lambda x: 2 * x)(torch.ones(2))
    tensor([2., 2.])
    >>> use_jit()
    """
    global _is_on
    _is_on = is_on


def log_compiles(is_on: bool = True) -> None:
    """Whether each compilation is reported on standard error: what, why, and how long. ``FUNCEBM_LOG_COMPILES=1`` does the same.

    >>> log_compiles()
    >>> log_compiles(False)
    """
    jitting.log_compiles(is_on)


def clear_cache() -> None:
    """Forgets all compiled functions of this process, and what they hold; those on disk stay.

    >>> clear_cache()
    """
    jitting.clear()
    programs.clear()


def can_compile() -> bool:
    """Whether :func:`jit` compiles here; if not, it warns once and runs eagerly.

    >>> can_compile() in (True, False)
    True
    """
    return _why_eager() is None


@functools.cache
def _why_eager() -> str | None:
    """What this installation lacks for compiled functions, or None."""
    lacking = programs.why_not() or native.why_not()
    if lacking is not None or _trial.is_tested(torch.__version__):
        return lacking
    return _trial.why_not()


def _is_eager() -> bool:
    if not _is_on:
        return True
    why = _why_eager()
    if why is not None:
        jitting.warn_once(f"funcebm runs eagerly: {why}. Results are the same, chains are slower.")
    return why is not None


def explained(jit: bool) -> contextlib.AbstractContextManager[None]:
    """Around what a compiled run calls eagerly first: an energy that asks a number for its value is told what to write instead.

    >>> with explained(True):
    ...     pass
    """
    return jitting.explained() if jit else contextlib.nullcontext()


_COMPILE_FROM = 2000  # steps, by their weight


def is_worth_it(jit: bool | None, num_steps: int, weight: int = 1) -> bool:
    """Whether a run is compiled: what its ``jit`` says, and where it says nothing, the amount of work.

    Compiling takes as long as some thousand eager steps. The steps that are asked for are counted, nothing is timed, so that
    equal calls give equal bits.

    Args:
        jit: True, False, or None.
        num_steps: of the run.
        weight: of a step: 10 for one with a loop in it, 3 for a step of training.

    >>> is_worth_it(None, 300), is_worth_it(None, 300, 10), is_worth_it(True, 2)
    (False, True, True)
    """
    return num_steps * weight >= _COMPILE_FROM if jit is None else jit


def jit(function: Function) -> Function:
    """Compiles a function of trees of tensors, loops included.

    The function is traced once for each structure, shape, dtype and device of its arguments: it runs on stand-ins for tensors,
    and what it does to them is recorded. Tensors among the arguments are traced; everything else is a constant, and a new
    value of it traces again. So does a change of what the function reads from outside: closures, globals, defaults, attributes,
    helpers. Tensors that it reads from outside are further inputs. Functions that mean the same are compiled once, whatever
    their line numbers; equal graphs share machine code, in later processes too.

    Use it last, outermost, once: ``jit(vmap(grad(f)))``; inside of ``vmap``, ``grad`` or another ``jit`` it does nothing. The
    function runs without autograd (``torch.func.grad`` inside it works). Where ``torch.linalg`` would raise an error, at a matrix
    that is singular or not positive definite, its result is NaN, in that one of many.

    Args:
        function: pure, with positional arguments.

    Returns:
        A function with the same results.

    Raises:
        TracedValueError: (on calls) the function asks a traced number for its value, in an ``if`` or by ``.item()``.
        ValueError: (on calls) it changes an argument in place, or the carry of a loop changes its shape.

    >>> double = jit(lambda x: 2 * x)
    >>> double(torch.ones(2))
    tensor([2., 2.])
    """

    @functools.wraps(function)
    def jitted(*args: Any) -> Any:
        leaves, structure = tree.flatten(args)
        if jitting.is_inside(leaves):
            return function(*args)
        with torch.no_grad():
            if _is_eager():
                return function(*args)
            return jitting.call(function, leaves, structure)

    return cast(Function, jitted)


def jit_once(make: Callable[..., Callable[..., Any]], *arguments: Any) -> Callable[..., Any]:
    """``jit(make(*arguments))``.

    >>> double = jit_once(lambda factor: lambda x: factor * x, 2)
    >>> double(torch.ones(2))
    tensor([2., 2.])
    """
    return jit(make(*arguments))


class CompiledLoop:
    """What :func:`jit_scan` returns; what its body means is found out once, since one run is of one meaning."""

    def __init__(self, body: Callable[[Any, Any, Any], tuple[Any, Any]], name: str) -> None:
        self.body, self.name = body, name
        self._meaning: Meaning | None = None

    def __call__(self, shared: Any, carry: Any, xs: Any, every: int = 1, is_kept: bool = True) -> tuple[Any, Any]:
        """See :func:`jit_scan`."""
        with torch.no_grad():
            if _is_eager():
                return _eager_scan(self.body, shared, carry, xs, every, is_kept)
            known = self.meaning()
            return jitting.call_scan(self.body, known, shared, carry, xs, every, is_kept, self.name)

    def meaning(self) -> Meaning:
        """What the body means."""
        if self._meaning is None:
            self._meaning = meaning(self.body)
        return self._meaning


def jit_scan(body: Callable[[Any, Any, Any], tuple[Any, Any]], *, name: str = "a loop") -> CompiledLoop:
    """A compiled :func:`funcebm.loops.scan` whose length is no part of the program: other lengths compile nothing.

    Args:
        body: ``(shared, carry, x) -> (carry, y)``.
        name: what messages call it.

    Returns:
        ``(shared, carry, xs, every=1, is_kept=True) -> (carry, ys)``. Of ``every`` iterations in a row only the ``y`` of the
        last one is stacked; where ``is_kept`` is False none is, and ``ys`` is the last one, on an axis of length 1. The number
        of iterations is a multiple of ``every``.

    >>> running = jit_scan(lambda step, carry, x: (carry + step * x, carry))
    >>> running(torch.tensor(2), torch.tensor(0), torch.arange(4))
    (tensor(12), tensor([0, 0, 2, 6]))
    """
    return CompiledLoop(body, name)


def jit_begin(
    begin: Callable[..., tuple[Any, Any]], body: Callable[..., Any], *, name: str = "a loop"
) -> Callable[..., tuple[Any, Any]]:
    """A compiled ``begin``, whose result is ``(carry, other)``, together with the loop of ``body`` that goes on from the carry.

    Args:
        begin: ``(*given) -> (carry, other)``.
        body: as for :func:`jit_scan`, which later finds it compiled; or the loop that :func:`jit_scan` made of it.
        name: what messages call it.

    Returns:
        ``(given, shared, xs) -> (carry, other)``, with ``shared`` and ``xs`` as the loop will have them; the length of ``xs``
        does not matter.

    >>> begin = lambda x: (x + 1, x)
    >>> body = lambda shared, carry, x: (carry + shared * x, carry)
    >>> jit_begin(begin, body)((torch.tensor(1),), torch.tensor(2), torch.arange(3))
    (tensor(2), tensor(1))
    """
    loop = body if isinstance(body, CompiledLoop) else CompiledLoop(body, name)
    known: list[Meaning] = []

    def run(given: Any, shared: Any, xs: Any) -> tuple[Any, Any]:
        with torch.no_grad():
            if _is_eager():
                return begin(*given)
            if not known:
                known.append(meaning(begin))
            return jitting.call_begin(begin, loop.body, (known[0], loop.meaning()), given, shared, xs, loop.name)

    return run


def run_all(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of some calls of compiled functions; several threads make them where torch may use several.

    Each call then uses one thread, and none waits for another: on a busy machine that costs no more than its share.

    >>> run_all([lambda: 1, lambda: 2])
    [1, 2]
    """
    return workers.run_all(calls)


def _eager_scan(body: Any, shared: Any, carry: Any, xs: Any, every: int, is_kept: bool) -> tuple[Any, Any]:
    ys: list[Any] = []
    for index in range(tree.batch_size(xs)):
        carry, y = body(shared, carry, tree.map(lambda leaf: leaf[index], xs))  # noqa: B023
        if (index + 1) % every == 0:
            ys = [*ys, y] if is_kept else [y]
    return carry, tree.stack(ys)
