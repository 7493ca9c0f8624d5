"""Rules of ``vmap`` for the operators of compiled loops: the mapped loops become one loop, over a leading axis, in lock step.

``while_loop`` has none in torch. That of ``scan`` puts the mapped axis last and hands views on, which makes slow code and
crashes inductor's C++ wrapper; this one hands on contiguous copies, as a loop that is not mapped does.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

__all__ = ["own", "register"]


def own(leaf: Tensor) -> Tensor:
    """A copy with the plain strides of its shape: the operators refuse aliases and compare strides."""
    return leaf.clone(memory_format=torch.contiguous_format)


def _leading(leaf: Tensor, dim: int | None, size: int) -> Tensor:
    """A copy that leads with the mapped axis, repeated where there is none."""
    return own(leaf.expand(size, *leaf.shape) if dim is None else leaf.movedim(dim, 0))


def _over(
    interpreter: Any, function: Callable[..., Any], in_dims: tuple[Any, ...]
) -> Callable[..., tuple[Tensor, ...]]:
    """``vmap(function)`` at the level of the interpreter, with flat results that all lead with the mapped axis."""
    from torch._functorch.vmap import restore_vmap

    size = interpreter.batch_size()

    def mapped(*leaves: Tensor) -> tuple[Tensor, ...]:
        outs, dims = restore_vmap(function, in_dims, size, interpreter.randomness())(*leaves)
        if isinstance(outs, Tensor):
            outs, dims = (outs,), (dims,)
        return tuple(_leading(out, dim, size) for out, dim in zip(outs, dims, strict=True))

    return mapped


def _pack(leaves: Any) -> list[Tensor]:
    """Copies without axes of length 1, which have no one stride: the operators compare those of a carry from turn to turn."""
    return [own(leaf.squeeze()) for leaf in leaves]


def _unpack(leaves: Any, like: Any) -> list[Tensor]:
    return [leaf.reshape(other.shape) for leaf, other in zip(leaves, like, strict=True)]


def register(scan: Any, while_loop: Any) -> None:
    """Gives the two operators their rules."""
    from torch._functorch.vmap import unwrap_batched, wrap_batched

    def map_scan(interpreter: Any, body: Any, init: Any, xs: Any, additional: Any, **_: Any) -> Any:
        size, level = interpreter.batch_size(), interpreter.level()
        (init, xs, additional), dims = unwrap_batched((tuple(init), tuple(xs), tuple(additional)), level)
        init_dims, xs_dims, additional_dims = dims
        init = [_leading(leaf, dim, size) for leaf, dim in zip(init, init_dims, strict=True)]
        xs = [leaf if dim is None else leaf.movedim(dim, 1).contiguous() for leaf, dim in zip(xs, xs_dims, strict=True)]
        x_dims = tuple(None if dim is None else 0 for dim in xs_dims)
        mapped = _over(interpreter, body, (0,) * len(init) + x_dims + tuple(additional_dims))
        count = len(init)

        def packed(*leaves: Tensor) -> list[Tensor]:
            outs = mapped(*_unpack(leaves[:count], init), *leaves[count:])
            return [*_pack(outs[:count]), *outs[count:]]

        with interpreter.lower():
            results = scan(packed, _pack(init), xs, additional)
            results = [*_unpack(results[:count], init), *results[count:]]
        return wrap_batched(tuple(results), (0,) * count + (1,) * (len(results) - count), level)

    def map_while_loop(interpreter: Any, condition: Any, body: Any, carried: Any, additional: Any, **_: Any) -> Any:
        size, level, count = interpreter.batch_size(), interpreter.level(), len(carried)
        (carried, additional), dims = unwrap_batched((tuple(carried), tuple(additional)), level)
        carried = tuple(_leading(leaf, dim, size) for leaf, dim in zip(carried, dims[0], strict=True))
        in_dims = (0,) * count + tuple(dims[1])
        mapped_condition, mapped_body = _over(interpreter, condition, in_dims), _over(interpreter, body, in_dims)

        def full(leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (*_unpack(leaves[:count], carried), *leaves[count:])

        def any_goes_on(*leaves: Tensor) -> Tensor:
            return mapped_condition(*full(leaves))[0].any()

        def lock_step(*leaves: Tensor) -> tuple[Tensor, ...]:
            leaves = full(leaves)
            goes_on = mapped_condition(*leaves)[0]
            pairs = zip(mapped_body(*leaves), leaves[:count], strict=True)
            return tuple(_pack(torch.where(goes_on.reshape(-1, *[1] * (old.ndim - 1)), new, old) for new, old in pairs))

        with interpreter.lower():
            last = while_loop(any_goes_on, lock_step, tuple(_pack(carried)), tuple(additional))
            last = _unpack(last, carried)
        return wrap_batched(tuple(last), (0,) * count, level)

    vmap = torch._C._functorch.TransformType.Vmap
    scan.functorch_table[vmap] = map_scan
    while_loop.functorch_table[vmap] = map_while_loop
