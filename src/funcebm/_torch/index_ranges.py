"""How large the integers become that inductor computes as formulas of the index, not as numbers that wrap around."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["formulas_overflow"]

aten, prims = torch.ops.aten, torch.ops.prims

_LARGEST = 2**62  # of 2.13: beyond, code is wrong and may write outside of its memory


def formulas_overflow(graph: torch.fx.Graph) -> bool:
    """Whether an integer that is made of indices and constants alone, such as ``torch.arange(n) * c``, leaves 63 bits.

    Inductor follows those as formulas without an end, which 64 bits then do not hold; as numbers they wrap around, as torch's do.
    """
    bounds: dict[torch.fx.Node, int] = {}
    for node in graph.nodes:
        value = node.meta.get("val")
        is_integer = isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex())
        if node.op != "call_function" or not is_integer:
            continue
        bound = _bound(node, [argument for argument in node.args if not isinstance(argument, bool)], bounds)
        if bound is not None:
            bounds[node] = bound
            if bound >= _LARGEST:
                return True
    return False


def _bound(node: torch.fx.Node, arguments: list[Any], bounds: dict[torch.fx.Node, int]) -> int | None:
    """The largest size of a formula; None of what is read from memory."""
    target: Any = node.target
    packet = getattr(target, "overloadpacket", target)
    if packet is prims.iota:
        given: dict[str, Any] = {"start": 0, "step": 1, **node.kwargs}
        is_known = all(isinstance(number, int) for number in (arguments[0], given["start"], given["step"]))
        return abs(given["start"]) + abs(given["step"]) * arguments[0] if is_known else None
    if packet in (aten.arange, aten.full, aten.scalar_tensor):
        return max((abs(number) for number in arguments if isinstance(number, int)), default=0)
    found = [bounds.get(argument) if isinstance(argument, torch.fx.Node) else _size(argument) for argument in arguments]
    if not any(isinstance(argument, torch.fx.Node) for argument in arguments) or None in found:
        return None
    sizes = [size for size in found if size is not None]
    if packet in (aten.mul, aten.pow):
        return _power(*sizes) if packet is aten.pow else math.prod(sizes)
    return sum(sizes) if packet in (aten.add, aten.sub, aten.rsub) else max(sizes)


def _power(base: int, exponent: int) -> int:
    return base**exponent if exponent * max(base, 2).bit_length() < 200 else _LARGEST


def _size(argument: Any) -> int:
    """Of a constant; shapes and dtypes are none."""
    return abs(argument) if isinstance(argument, int) else 0
