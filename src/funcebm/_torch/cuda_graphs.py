"""Compiled functions on CUDA that are called again are replayed as CUDA graphs, without the host.

A compiled loop launches its kernels from Python, each for several microseconds of the host's time, and small kernels take
less than that. The kernels of a scan do not depend on the data, so that one call can be recorded and replayed.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

__all__ = ["replayed", "use_cuda_graphs"]

_KEPT = 4  # recordings of a function, each of which holds the memory that a call needs
_LARGE = 2**25  # bytes; what is larger, such as a set of data, is read where it lies and not copied
_is_on = True


def use_cuda_graphs(is_on: bool = True) -> None:
    """Whether compiled functions on CUDA are recorded and replayed; they are by default.

    A recording holds the memory that a call needs for as long as the compiled function lives. Results are the same either
    way. Without CUDA it has no effect.

    >>> use_cuda_graphs(False)  # from here on, kernels are launched one by one
    >>> use_cuda_graphs()
    """
    global _is_on
    _is_on = is_on


class _Place:
    """What the recordings of one device share: the memory that they use in between, and the order in which they do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.lock = threading.Lock()
        self.last = torch.cuda.Event()
        self.keeper: Any = None  # the memory would go with the last of its recordings: an empty one stays

    def record(self, function: Callable[..., Any], arguments: list[Any]) -> tuple[Any, Any]:
        """The recording of a call, and its results."""
        if self.keeper is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is empty
                self.keeper = self._capture(lambda: None)[0]
        return self._capture(lambda: function(*arguments))

    def _capture(self, call: Callable[[], Any]) -> tuple[Any, Any]:
        graph = torch.cuda.CUDAGraph()
        # the outer stream is set back also where a capture fails
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                results = call()
        return graph, results


class _Recording(NamedTuple):
    """A recorded call: the copies of inputs that it reads, and what it writes."""

    place: _Place
    graph: Any
    copies: list[Tensor]
    outputs: list[Tensor]

    def replay(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        """The results for other numbers. One replay at a time, on whatever threads and streams: they share memory."""
        with self.place.lock:
            stream = torch.cuda.current_stream(self.place.device)
            stream.wait_event(self.place.last)
            torch._foreach_copy_(self.copies, _small_tensors(inputs))
            self.graph.replay()
            results = [output.clone() for output in self.outputs]
            self.place.last.record(stream)
        return results


def _is_large(value: Tensor) -> bool:
    return value.numel() * value.element_size() > _LARGE


def _small_tensors(inputs: tuple[Any, ...]) -> list[Tensor]:
    return [value for value in inputs if isinstance(value, Tensor) and not _is_large(value)]


def _key(inputs: tuple[Any, ...]) -> Any:
    """What a recording depends on besides the numbers, or None where it would depend on those, or cannot be made."""
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    devices = {value.device for value in tensors}
    if len(devices) != 1 or not tensors[0].is_cuda or tensors[0].device.index != torch.cuda.current_device():
        return None
    parts: list[Any] = []
    for value in inputs:
        if not isinstance(value, Tensor):
            parts.append(value)
            continue
        if any(step == 0 and size > 1 for size, step in zip(value.shape, value.stride(), strict=True)):
            return None
        parts.append((value.shape, value.stride(), value.dtype, value.data_ptr() if _is_large(value) else 0))
    return (tensors[0].device, *parts) if _small_tensors(inputs) else None


_places: dict[torch.device, _Place] = {}


def _record(function: Callable[..., Any], inputs: tuple[Any, ...]) -> _Recording | None:
    """The recording of a call, or None where its results are not all tensors of the device, or it has changed its inputs."""
    small = _small_tensors(inputs)
    copies = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device).copy_(t) for t in small]
    versions = [copy._version for copy in copies]
    left = iter(copies)
    is_copied = [isinstance(value, Tensor) and not _is_large(value) for value in inputs]
    arguments = [next(left) if copied else value for value, copied in zip(inputs, is_copied, strict=True)]
    device = small[0].device
    place = _places[device] if device in _places else _places.setdefault(device, _Place(device))
    with place.lock:
        graph, outputs = place.record(function, arguments)
    if not all(isinstance(output, Tensor) and output.device == place.device for output in outputs):
        return None
    if versions != [copy._version for copy in copies]:
        return None
    return _Recording(place, graph, copies, list(outputs))


def replayed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of CUDA tensors and numbers, to a list of tensors, whose later calls of the same shapes are replays.

    The first call of a shape is plain: it loads the kernels. The second one is recorded. Where that fails, as it does where the
    function waits for the host, nothing more is recorded in this process.
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
                kept.pop(next(iter(kept)), None)
            kept[key] = None
            return function(*inputs)
        recording = kept.get(key)
        if recording is None:
            try:
                recording = _record(function, inputs)
            except RuntimeError as error:
                why = (str(error).splitlines() or [type(error).__name__])[0]
                use_cuda_graphs(False)
                text = f"funcebm goes on without CUDA graphs, which is slower: {why}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            if recording is None:
                is_given_up = True
                return function(*inputs)
            kept[key] = recording
        return recording.replay(inputs)

    return call
