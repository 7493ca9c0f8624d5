"""Loops while a function is recorded: one node each, also below ``vmap``, where the mapped loops become one in lock step."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from .recorder import Recorder, current

__all__ = ["call", "is_active", "scan", "while_loop"]

Leaves = list[Tensor]

_LARGE = 100  # operators of a function from which on equal calls share one graph


def is_active() -> bool:
    """Whether a function is being recorded in this thread."""
    return current() is not None


def _recorder() -> Recorder:
    recorder = current()
    if recorder is None:
        raise RuntimeError("a traced loop is called outside of a trace")
    return recorder


def _mapping() -> Any:
    """The innermost ``vmap`` around the code that asks, or None."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return None
    from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

    return retrieve_current_functorch_interpreter()


def _leading(leaf: Tensor, dim: int | None, size: int) -> Tensor:
    """The leaf with the mapped axis first, repeated where there is none."""
    return leaf.expand(size, *leaf.shape) if dim is None else leaf.movedim(dim, 0)


def _over(interpreter: Any, function: Callable[..., Leaves], in_dims: tuple[Any, ...]) -> Callable[..., Leaves]:
    """``vmap(function)`` at the level of the interpreter; all results lead with the mapped axis."""
    from torch._functorch.vmap import restore_vmap

    size = interpreter.batch_size()

    def mapped(*leaves: Tensor) -> Leaves:
        outs, dims = restore_vmap(lambda *given: tuple(function(*given)), in_dims, size, interpreter.randomness())(
            *leaves
        )
        return [_leading(out, dim, size) for out, dim in zip(outs, dims, strict=True)]

    return mapped


def _unwrap(interpreter: Any, leaves: Leaves) -> tuple[Leaves, tuple[Any, ...]]:
    from torch._functorch.vmap import unwrap_batched

    unwrapped, dims = unwrap_batched(tuple(leaves), interpreter.level())
    return list(unwrapped), tuple(dims)


def _wrap(interpreter: Any, leaves: Leaves, dims: tuple[int, ...]) -> Leaves:
    from torch._functorch.vmap import wrap_batched

    return list(wrap_batched(tuple(leaves), dims, interpreter.level()))


def scan(body: Callable[..., Leaves], init: Leaves, xs: Leaves) -> Leaves:
    """``body(*carry, *x) -> [*carry, *y]`` along the leading axis of ``xs``: ``[*last carry, *stacked y]``."""
    interpreter = _mapping()
    if interpreter is None:
        return _recorder().scan(body, init, xs)
    size, count = interpreter.batch_size(), len(init)
    init, init_dims = _unwrap(interpreter, init)
    xs, x_dims = _unwrap(interpreter, xs)
    with interpreter.lower():
        init = [_leading(leaf, dim, size) for leaf, dim in zip(init, init_dims, strict=True)]
        xs = [leaf if dim is None else leaf.movedim(dim, 1) for leaf, dim in zip(xs, x_dims, strict=True)]
        in_dims = (0,) * count + tuple(None if dim is None else 0 for dim in x_dims)
        results = scan(_over(interpreter, body, in_dims), init, xs)
    return _wrap(interpreter, results, (0,) * count + (1,) * (len(results) - count))


def call(function: Callable[..., Leaves], inputs: Leaves) -> Leaves:
    """``function(*inputs)``, whose results are like the inputs: a loop of one iteration where the function is large, on a CPU.

    A body is compiled by itself, and equal ones once: a solver that evaluates a network in seven places has one network.
    """
    interpreter = _mapping()
    if interpreter is None:
        return _recorder().call(function, inputs, _LARGE)
    size = interpreter.batch_size()
    inputs, dims = _unwrap(interpreter, inputs)
    with interpreter.lower():
        inputs = [_leading(leaf, dim, size) for leaf, dim in zip(inputs, dims, strict=True)]
        results = call(_over(interpreter, function, (0,) * len(inputs)), inputs)
    return _wrap(interpreter, results, (0,) * len(results))


def while_loop(condition: Callable[..., Tensor], body: Callable[..., Leaves], init: Leaves) -> Leaves:
    """``body(*carry) -> carry`` while ``condition(*carry)`` holds."""
    interpreter = _mapping()
    if interpreter is None:
        return _recorder().while_(condition, body, init)
    size = interpreter.batch_size()
    init, dims = _unwrap(interpreter, init)
    with interpreter.lower():
        init = [_leading(leaf, dim, size) for leaf, dim in zip(init, dims, strict=True)]
        in_dims = (0,) * len(init)
        goes_on = _over(interpreter, lambda *leaves: [condition(*leaves)], in_dims)
        mapped = _over(interpreter, body, in_dims)

        def any_goes_on(*leaves: Tensor) -> Tensor:
            return goes_on(*leaves)[0].any()

        def lock_step(*leaves: Tensor) -> Leaves:
            flags = goes_on(*leaves)[0]
            pairs = zip(mapped(*leaves), leaves, strict=True)
            return [torch.where(flags.reshape(-1, *[1] * (old.ndim - 1)), new, old) for new, old in pairs]

        results = while_loop(any_goes_on, lock_step, init)
    return _wrap(interpreter, results, (0,) * len(results))
