"""Recorded functions: graphs of aten operators, with loops as nodes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Body", "results_of", "scan_loop", "while_loop"]


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


def results_of(graph: torch.fx.Graph) -> list[torch.fx.Node]:
    """The nodes of a graph that are its outputs."""
    outputs: Any = graph.output_node().args[0]
    return list(outputs)
