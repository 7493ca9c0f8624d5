"""Parts of graphs that were lowered before in this process: a warm-up and a run share the step of their sampler."""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from . import lowering, patches
from .graphs import described
from .layout import Buffer, Call

__all__ = ["clear", "lower"]

Lowered = tuple[list[Call], list[Buffer], list[tuple[int, Tensor]]]

_KEPT = 256
_kept: OrderedDict[str, tuple[list[int], Lowered]] = OrderedDict()


def lower(
    nodes: list[torch.fx.Node],
    inputs: list[tuple[torch.fx.Node, Buffer]],
    outputs: list[torch.fx.Node],
    numbers: itertools.count[int],
    fake_mode: Any,
) -> Lowered:
    """As :func:`lowering.lower`, once for equal arguments."""
    name = _digest(nodes, inputs, outputs)
    blocks = [buffer.block for _, buffer in inputs]
    if (found := _kept.get(name)) is not None:
        _kept.move_to_end(name)
        return _renamed(*found, blocks, numbers)
    lowered = lowering.lower(nodes, inputs, outputs, numbers, fake_mode)
    _kept[name] = (blocks, lowered)
    while len(_kept) > _KEPT:
        _kept.popitem(last=False)
    return lowered


def clear() -> None:
    """Forgets all."""
    _kept.clear()


def _digest(
    nodes: list[torch.fx.Node], inputs: list[tuple[torch.fx.Node, Buffer]], outputs: list[torch.fx.Node]
) -> str:
    """What machine code depends on: operators, where their inputs are, which are wanted, threads, and patches."""
    places: dict[int, int] = {}  # inputs may share memory
    text = [f"{torch.get_num_threads()} {[patch.name for patch in patches.switched_on()]}"]
    names = {}
    for index, (node, buffer) in enumerate(inputs):
        names[node] = f"input{index}"
        place = places.setdefault(buffer.block, index)
        text.append(f"{place} {buffer.shape} {buffer.strides} {buffer.offset} {buffer.dtype} {node.meta['val'].device}")
    text += described(nodes, names)
    text.append(" ".join(names[node] for node in outputs))
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def _renamed(before: list[int], lowered: Lowered, now: list[int], numbers: itertools.count[int]) -> Lowered:
    """The same steps in other blocks of memory."""
    names = dict(zip(before, now, strict=True))

    def block(number: int) -> int:
        if number not in names:
            names[number] = next(numbers)
        return names[number]

    def rename(value: Any) -> Any:
        if isinstance(value, Buffer):
            return value._replace(block=block(value.block))
        if isinstance(value, (tuple, list)):
            return type(value)([rename(part) for part in value])
        if isinstance(value, dict):
            return {name: rename(part) for name, part in value.items()}
        return value

    steps, buffers, constants = lowered
    renamed = [
        step._replace(args=(block(step.args[0]),))
        if step.kind == "free"
        else step._replace(args=rename(step.args), outs=rename(step.outs))
        for step in steps
    ]
    return renamed, rename(buffers), [(block(number), value) for number, value in constants]
