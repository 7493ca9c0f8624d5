"""Recorded functions on devices other than a CPU: inductor compiles what is between loops, Python drives the loops.

On CUDA a whole call is recorded as a CUDA graph and replayed (:mod:`cuda_graphs`), so that what Python costs is paid once. On a
device that inductor does not know, operators run one by one.
"""

from __future__ import annotations

import warnings
from typing import Any, Callable

import torch
from torch import Tensor

from . import cuda_graphs
from .graphs import Body, results_of, scan_loop, while_loop
from .recorder import Recorder
from .stages import stages_of

__all__ = ["executor_of"]

_COMPILED = ("cuda", "xpu")


def executor_of(body: Body, fake_mode: Any, *, is_dynamic: bool) -> Callable[..., list[Tensor]]:
    """A function with the interface of :class:`~funcebm._torch.programs.Program`."""
    graph = _Graph(body.graph, fake_mode)
    run = cuda_graphs.replayed(graph.run) if _is_replayable(body.graph) else graph.run
    if (device := _common_device(body.graph)) is not None:
        run = _with_numbers_on(device, run, results_of(body.graph))
    if not is_dynamic:
        return lambda inputs: list(run(*inputs))
    loop = next(node for node in body.graph.nodes if node.target is scan_loop)
    count = len(loop.args[1])

    def run_scan(inputs: list[Tensor], length: int, every: int, is_kept: bool) -> list[Tensor]:
        outs = list(run(*inputs))
        last, stacked = outs[:count], outs[count:]
        return [*last, *(leaf[every - 1 :: every] if is_kept else leaf[-1:] for leaf in stacked)]

    return run_scan


def _common_device(graph: torch.fx.Graph) -> torch.device | None:
    """The one device on which all that is more than a number is; None where that is a CPU, or not one."""
    values = [node.meta.get("val") for node in graph.nodes]
    devices = {value.device for value in values if isinstance(value, Tensor) and value.dim()}
    return next(iter(devices)) if len(devices) == 1 and "cpu" not in {device.type for device in devices} else None


def _with_numbers_on(
    device: torch.device, run: Callable[..., Any], results: list[torch.fx.Node]
) -> Callable[..., list[Tensor]]:
    """``run``, whose inputs that are numbers of the host (a learning rate, a step size) go to the device together.

    A kernel that reads them there can be recorded, and read others when it is replayed.
    """
    places = [node.meta["val"].device for node in results]

    def call(*inputs: Tensor) -> list[Tensor]:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():  # nothing may come from the host
            return list(run(*inputs))
        outs = run(*_moved_numbers(inputs, device))
        return [out if out.device == place else out.to(place) for out, place in zip(outs, places, strict=True)]

    return call


def _moved_numbers(inputs: tuple[Tensor, ...], device: torch.device) -> list[Tensor]:
    """The inputs; those of a CPU without an axis on the device, by one copy for each dtype."""
    moved = list(inputs)
    of_dtype: dict[torch.dtype, list[int]] = {}
    for index, value in enumerate(inputs):
        if value.dim() == 0 and value.device.type == "cpu":
            of_dtype.setdefault(value.dtype, []).append(index)
    for indices in of_dtype.values():
        together = torch.stack([inputs[index] for index in indices]).to(device, non_blocking=True)
        for index, value in zip(indices, together.unbind(), strict=True):
            moved[index] = value
    return moved


def _is_replayable(graph: torch.fx.Graph) -> bool:
    """Whether the kernels are the same whatever the numbers: no loop asks them when to end."""
    on_cuda = any(
        isinstance(node.meta.get("val"), Tensor) and node.meta["val"].is_cuda
        for node in graph.nodes
        if node.op == "placeholder"
    )
    return on_cuda and not _asks(graph)


def _asks(graph: torch.fx.Graph) -> bool:
    return any(
        node.target is while_loop or any(_asks(inner) for inner in node.meta.get("bodies", ())) for node in graph.nodes
    )


class _Graph:
    """A graph as compiled parts and Python loops."""

    def __init__(self, graph: torch.fx.Graph, fake_mode: Any) -> None:
        self.inputs = [node for node in graph.nodes if node.op == "placeholder"]
        self.outputs = results_of(graph)
        stages, self.loops, _ = stages_of(graph)
        self.parts = [_Part(nodes, set(self.outputs), fake_mode) for nodes in stages]
        self.bodies = [[_Graph(inner, fake_mode) for inner in loop.meta["bodies"]] for loop in self.loops]

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(self.inputs, inputs, strict=True))
        for stage, part in enumerate(self.parts):
            part.run(values)
            if stage < len(self.loops):
                self._loop(stage, values)
        seen = set(self.inputs)  # an input that is handed on, or a result that comes twice, is a copy
        results = []
        for node in self.outputs:
            results.append(values[node].clone() if node in seen else values[node])
            seen.add(node)
        return tuple(results)

    def _loop(self, stage: int, values: dict[torch.fx.Node, Tensor]) -> None:
        node: Any = self.loops[stage]
        bodies = self.bodies[stage]
        _, init, xs, captured = node.args
        carry = tuple(values[n] for n in init)
        outside = [tuple(values[n] for n in nodes) for nodes in captured]
        results: list[Tensor]
        if node.target is scan_loop:
            stacked: list[list[Tensor]] = []
            slices = zip(*(values[n].unbind(0) for n in xs), strict=True)
            for x in slices:
                outs = bodies[0].run(*carry, *x, *outside[0])
                carry = outs[: len(carry)]
                stacked.append(list(outs[len(carry) :]))
            results = [*carry, *(torch.stack(leaves) for leaves in zip(*stacked, strict=True))]
        else:
            while bool(bodies[0].run(*carry, *outside[0])[0]):
                carry = bodies[1].run(*carry, *outside[1])
            results = list(carry)
        for user in node.users:
            values[user] = results[user.args[1]]


class _Part:
    """Operators without loops, as one compiled function."""

    def __init__(self, nodes: list[torch.fx.Node], outputs: set[torch.fx.Node], fake_mode: Any) -> None:
        inside = set(nodes)
        self.nodes, self.fake_mode = nodes, fake_mode
        self.results = [
            node
            for node in nodes
            if isinstance(node.meta.get("val"), Tensor)
            and (node in outputs or any(user not in inside for user in node.users))
        ]
        read = [argument for node in nodes for argument in node.all_input_nodes if argument not in inside]
        self.reads = list(dict.fromkeys(read))
        self.function: Callable[..., Any] | None = None

    def run(self, values: dict[torch.fx.Node, Tensor]) -> None:
        if not self.results:
            return
        given = [values[node] for node in self.reads]
        if self.function is None:
            is_known = all(tensor.device.type in _COMPILED for tensor in given) and bool(given)
            self.function = self._compiled(given) if is_known else self._plain
        values.update(zip(self.results, self.function(*given), strict=True))

    def _plain(self, *given: Tensor) -> list[Tensor]:
        places: dict[torch.fx.Node, Any] = dict(zip(self.reads, given, strict=True))
        for node in self.nodes:
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda argument: places[argument])
            places[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return [places[node] for node in self.results]

    def _compiled(self, given: list[Tensor]) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        from .._threefry import plain_blocks

        recorder = Recorder(self.fake_mode, None, {torch.ops.funcebm.draw_blocks.default: plain_blocks})
        examples = [recorder.add_input(tensor, tensor.stride()) for tensor in given]
        with self.fake_mode, recorder:
            outs = self._plain(*examples)
        graph = recorder.finish(outs).graph
        graph.eliminate_dead_code()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compile_fx(torch.fx.GraphModule({}, graph), given)  # type: ignore[return-value]
