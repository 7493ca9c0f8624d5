"""Recorded functions: graphs of aten operators, with loops as nodes."""

from __future__ import annotations

from typing import Any, Iterable, NamedTuple

import torch
from torch import Tensor

__all__ = ["Body", "check_carry", "described", "results_of", "scan_loop", "while_loop"]


class Body(NamedTuple):
    """A recorded function.

    Attributes:
        graph: placeholders of the inputs, then of what it captures; operators; the flat tuple of outputs.
        num_inputs: how many placeholders are inputs.
        captured: what it reads from outside, one tensor for each further placeholder.
    """

    graph: torch.fx.Graph
    num_inputs: int
    captured: list[Tensor]


def scan_loop(bodies: Any, init: Any, xs: Any, captured: Any) -> Any:
    """The target of the node of a scan."""
    raise RuntimeError("a node of a graph is not called")


def while_loop(bodies: Any, init: Any, xs: Any, captured: Any) -> Any:
    """The target of the node of a while loop."""
    raise RuntimeError("a node of a graph is not called")


def check_carry(before: list[Any], after: list[Tensor]) -> None:
    """A carry must keep its shapes and dtypes."""
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.shape != new.shape or old.dtype != new.dtype:
            raise ValueError(
                "the carry of a loop must keep its shapes and dtypes. "
                f"Got leaf {index}: {tuple(new.shape)} {new.dtype} in place of {tuple(old.shape)} {old.dtype}. "
                "Give the first carry the shape and dtype that the body returns."
            )


def results_of(graph: torch.fx.Graph) -> list[torch.fx.Node]:
    """The nodes of a graph that are its outputs."""
    outputs: Any = graph.output_node().args[0]
    return list(outputs)


def described(nodes: Iterable[torch.fx.Node], names: dict[torch.fx.Node, str]) -> list[str]:
    """What nodes do, a line each, in the same words in every process.

    Args:
        nodes: in order.
        names: of those that are read and not among them; the others are added.
    """

    def show(value: Any) -> str:
        if isinstance(value, torch.fx.Node):
            return names[value]
        if isinstance(value, (tuple, list)):
            return "(" + ",".join(map(show, value)) + ")"
        if isinstance(value, dict):
            return "{" + ",".join(f"{name}:{show(part)}" for name, part in value.items()) + "}"
        return repr(value)

    text = []
    for index, node in enumerate(nodes):
        names[node] = f"%{index}"
        value = node.meta.get("val")
        kind = f"{tuple(value.shape)}{value.dtype}{value.device}" if isinstance(value, Tensor) else ""
        text.append(f"%{index} {_name_of(node)} {show(node.args)} {show(node.kwargs)} {kind}")
        if "bodies" in node.meta:
            text.append(f"length {node.meta['length']}")
            for inner in node.meta["bodies"]:
                text += ["[", *described(inner.nodes, {}), "]"]
    return text


def _name_of(node: torch.fx.Node) -> str:
    if node.op != "call_function":
        return node.op
    is_operator = isinstance(node.target, torch._ops.OpOverload)
    return str(node.target) if is_operator else str(getattr(node.target, "__name__", ""))
