"""Compiled functions on CUDA that are called again are replayed as CUDA graphs, without the host.

A compiled loop launches its kernels from Python, each for several microseconds of the host's time, and small kernels take
less than that. The kernels of a scan do not depend on the data, so that one call can be recorded and replayed.
"""

from __future__ import annotations

import warnings
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

__all__ = ["is_replayable", "replayed", "use_cuda_graphs"]

_KEPT = 4  # recordings of a function, each of which holds the memory that a call needs
_LARGE = 2**25  # bytes; what is larger, such as a set of data, is read where it lies and not copied
_is_on = True


def use_cuda_graphs(is_on: bool = True) -> None:
    """Whether compiled functions on CUDA are recorded and replayed; they are, unless told otherwise here.

    A recording holds the memory that a call needs for as long as the compiled function lives. Results are the same either
    way. Without CUDA it has no effect.

    >>> use_cuda_graphs(False)  # from here on, kernels are launched one by one
    >>> use_cuda_graphs()
    """
    global _is_on
    _is_on = is_on


def is_replayable(graph: torch.fx.GraphModule) -> bool:
    """Whether the kernels of a graph, as dynamo makes it, are the same whatever the numbers: no loop asks them when to end."""
    modules = [module for module in graph.modules() if isinstance(module, torch.fx.GraphModule)]
    targets = [node.target for module in modules for node in module.graph.nodes if node.op == "call_function"]
    return not any(getattr(target, "_name", "") in ("while_loop", "cond") for target in targets)


class _Recording(NamedTuple):
    """A recorded call: the copies of inputs that it reads, and what it writes."""

    graph: Any
    copies: list[Tensor]
    outputs: list[Tensor]

    def replay(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        torch._foreach_copy_(self.copies, _small_tensors(inputs))
        self.graph.replay()
        return [output.clone() for output in self.outputs]


def _is_large(value: Tensor) -> bool:
    return value.numel() * value.element_size() > _LARGE


def _small_tensors(inputs: tuple[Any, ...]) -> list[Tensor]:
    return [value for value in inputs if isinstance(value, Tensor) and not _is_large(value)]


def _key(inputs: tuple[Any, ...]) -> Any:
    """What a recording depends on besides the numbers, or None where it would depend on those, or cannot be made."""
    parts: list[Any] = [torch.cuda.current_stream().cuda_stream]
    for value in inputs:
        if not isinstance(value, Tensor):
            parts.append(value)
            continue
        is_expanded = any(step == 0 and size > 1 for size, step in zip(value.shape, value.stride(), strict=True))
        if not value.is_cuda or is_expanded:
            return None
        place = value.data_ptr() if _is_large(value) else 0
        parts.append((value.shape, value.stride(), value.dtype, value.device, place))
    return tuple(parts) if _small_tensors(inputs) else None


_pools: dict[torch.device, Any] = {}


def _record(function: Callable[..., Any], inputs: tuple[Any, ...]) -> _Recording | None:
    """The recording of a call, or None where its results are not all tensors of the device."""
    small = _small_tensors(inputs)
    copies = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device).copy_(t) for t in small]
    left = iter(copies)
    is_copied = [isinstance(value, Tensor) and not _is_large(value) for value in inputs]
    arguments = [next(left) if copied else value for value, copied in zip(inputs, is_copied, strict=True)]
    device = copies[0].device
    # recordings are replayed one at a time, and what they return is copied out: they may use the same memory in between
    pool = _pools.setdefault(device, torch.cuda.graph_pool_handle())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        outputs = function(*arguments)
    if not all(isinstance(output, Tensor) and output.is_cuda for output in outputs):
        return None
    return _Recording(graph, copies, list(outputs))


def replayed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of CUDA tensors and numbers, to a list of tensors, whose later calls of the same shapes are replays.

    The first call of a shape is plain: it loads the kernels. The second one is recorded.
    """
    kept: dict[Any, _Recording | None] = {}
    is_given_up = False

    def call(*inputs: Any) -> Any:
        nonlocal is_given_up
        if not _is_on or is_given_up or torch.cuda.is_current_stream_capturing():
            return function(*inputs)
        key = _key(inputs)
        if key is None:
            return function(*inputs)
        if key not in kept:
            if len(kept) == _KEPT:
                del kept[next(iter(kept))]
            kept[key] = None
            return function(*inputs)
        recording = kept[key]
        if recording is None:
            try:
                recording = _record(function, inputs)
            except RuntimeError as error:
                why = (str(error).splitlines() or [type(error).__name__])[0]
                text = f"funcebm goes on without a CUDA graph, which is slower: {why}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            if recording is None:
                is_given_up = True
                return function(*inputs)
            kept[key] = recording
        return recording.replay(inputs)

    return call
