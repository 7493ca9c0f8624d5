"""The operators of a graph between its loops."""

from __future__ import annotations

import operator

import torch

from .graphs import scan_loop, while_loop

__all__ = ["last_uses", "stages_of"]


def stages_of(graph: torch.fx.Graph) -> tuple[list[list[torch.fx.Node]], list[torch.fx.Node], dict[torch.fx.Node, int]]:
    """Operators before the first loop, between the loops, after the last: each as late as those who read it allow."""
    loops = [node for node in graph.nodes if node.target in (scan_loop, while_loop)]
    index = {node: place for place, node in enumerate(loops)}
    earliest: dict[torch.fx.Node, int] = {}
    for node in graph.nodes:
        if node in index:
            earliest[node] = index[node]
        elif node.all_input_nodes and node.all_input_nodes[0] in index:  # a part of a loop's results
            earliest[node] = index[node.all_input_nodes[0]] + 1
        else:
            earliest[node] = max((earliest[n] for n in node.all_input_nodes), default=0)
    stage_of: dict[torch.fx.Node, int] = {}
    for node in reversed(graph.nodes):
        if node.op in ("placeholder", "output") or node in index:
            stage_of[node] = len(loops) if node.op == "output" else earliest[node]
        elif node.all_input_nodes and node.all_input_nodes[0] in index:
            stage_of[node] = earliest[node]
        else:
            users = [len(loops) if user.op == "output" else stage_of[user] for user in node.users]
            stage_of[node] = max(min(users, default=earliest[node]), earliest[node])
    for node in graph.nodes:  # a part of several results is where they are
        if node.target is operator.getitem and node.args[0] not in index:
            stage_of[node] = stage_of[node.args[0]]
    stages: list[list[torch.fx.Node]] = [[] for _ in range(len(loops) + 1)]
    for node in graph.nodes:
        is_part = bool(node.all_input_nodes) and node.all_input_nodes[0] in index
        if node.op == "call_function" and node not in index and not is_part:
            stages[stage_of[node]].append(node)
    return stages, loops, stage_of


def last_uses(
    graph: torch.fx.Graph, stage_of: dict[torch.fx.Node, int], loops: list[torch.fx.Node]
) -> dict[torch.fx.Node, int]:
    """The stage after which nobody reads a value; inputs are not ours to give back."""
    last: dict[torch.fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            last[node] = max([stage_of[node], *(stage_of[user] for user in node.users)])
    return last
