"""Records what a function does to tensors as a graph of aten operators, loops included: the tracer behind ``jit``.

The function runs once, on fake tensors, below ``vmap`` and ``grad``: what is recorded is their result. A loop is one node
that holds the graphs of its bodies. What a body reads from outside is found while it is recorded, and becomes one more input.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from typing import Any, Callable, Iterator, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .changes import RESHAPED, Storage, change, mark_failures, read_by_strides, view_of
from .generators import refuse_generators
from .graphs import Body, check_carry, scan_loop, while_loop
from .reads import Reads, value_from_outside

__all__ = ["Recorder", "ValueAsked", "current", "real_arange", "record"]

aten = torch.ops.aten


class ValueAsked(RuntimeError):
    """A traced tensor was asked for its value."""


class _State(threading.local):
    def __init__(self) -> None:
        self.stack: list[Recorder | None] = []


_state = _State()


def current() -> Recorder | None:
    """The recorder at work in this thread, or None."""
    return _state.stack[-1] if _state.stack else None


class Recorder(TorchDispatchMode):
    """Notes each operator that runs while it is active.

    Args:
        fake_mode: the mode of the fake tensors, entered outside.
        parent: the recorder of the graph that this one is a part of.
        decompositions: operators that are recorded as what these functions do.
    """

    def __init__(
        self, fake_mode: Any, parent: Recorder | None = None, decompositions: dict[Any, Any] | None = None
    ) -> None:
        super().__init__()
        self.decompositions = decompositions or {}
        self.fake_mode, self.parent = fake_mode, parent
        self.graph = torch.fx.Graph()
        self.captured: list[Tensor] = []
        self.outside: dict[torch.fx.Node, Tensor] = {}  # what is captured, by its placeholder
        self.values_read: list[Tensor] = []
        self.places: dict[int, torch.fx.Node] = {}  # of tensors, by id
        self.fakes: dict[int, Tensor] = {}  # of real tensors, by id
        self.own: set[int] = set()  # of placeholders that are made again each time, by id: they may be changed
        self.kept: list[Any] = []  # whatever is known by its id
        self.storages: dict[int, Storage] = {}
        self.versions: dict[int, int] = {}  # of tensors, by id: the version of their storage that their node has
        self.last_input: torch.fx.Node | None = None
        self.num_inputs = 0

    # -- places of tensors ---------------------------------------------------------------------------------------

    def __enter__(self) -> Recorder:
        _state.stack.append(self)
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        _state.stack.pop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, operators on fake tensors are not recorded."""
        _state.stack.append(None)
        try:
            with self.fake_mode:
                yield
        finally:
            _state.stack.pop()

    def add_input(self, value: Tensor | _Like, strides: tuple[int, ...] | None = None) -> Tensor:
        """A new input of the graph, with the shape of ``value``: a fake tensor."""
        with self.paused():
            like: Any = {"dtype": value.dtype, "device": value.device}
            ordered = torch.empty(value.shape, **like)
            fake = ordered if strides is None else torch.empty_strided(value.shape, strides, **like)
        self._add_placeholder(fake, fake)
        self.num_inputs += 1
        return fake

    def _add_placeholder(self, key: Tensor, fake: Tensor) -> torch.fx.Node:
        # after the last placeholder; a body may find what it captures late
        first = next(iter(self.graph.nodes), None) if self.last_input is None else self.last_input.next
        inserting = contextlib.nullcontext() if first is None else self.graph.inserting_before(first)
        with inserting:
            node = self.graph.placeholder(f"p{len(self.places)}_{self.num_inputs}_{len(self.captured)}")
        node.meta["val"] = fake
        self.last_input = node
        self.set_place(key, node)
        return node

    def set_place(self, tensor: Tensor, node: torch.fx.Node) -> None:
        """The node of a tensor is this one from now on."""
        self.places[id(tensor)] = node
        self.kept.append(tensor)
        self.versions[id(tensor)] = self.storage_of(tensor).version

    def storage_of(self, tensor: Tensor) -> Storage:
        return self.storages.setdefault(tensor.untyped_storage()._cdata, Storage(tensor))

    def fake(self, tensor: Tensor) -> Tensor:
        """The fake tensor that stands for a tensor of any kind."""
        from torch._subclasses import FakeTensor

        if isinstance(tensor, FakeTensor):
            return tensor
        if self.parent is not None:
            return self.parent.fake(tensor)
        if id(tensor) not in self.fakes:
            with self.paused():
                self.fakes[id(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            self.kept.append(tensor)
        return self.fakes[id(tensor)]

    def place(self, tensor: Tensor) -> torch.fx.Node:
        """The node of a tensor; one that was not met before is captured from outside."""
        node = self.places.get(id(tensor))
        if node is None:
            fake = self.fake(tensor)
            if fake is not tensor and id(fake) in self.places:
                return self.places[id(fake)]
            captured = self.parent.resolve(tensor) if self.parent is not None else tensor
            node = self._add_placeholder(fake, fake)
            self.places[id(tensor)] = node
            self.captured.append(captured)
            self.outside[node] = captured
            self.kept.append(tensor)
            return node
        storage = self.storage_of(tensor) if not _is_real(tensor) else None
        if storage is not None and self.versions.get(id(tensor), 0) != storage.version:
            node = view_of(self, storage, tensor)
            self.places[id(tensor)] = node
            self.versions[id(tensor)] = storage.version
        return node

    def resolve(self, tensor: Tensor) -> Tensor:
        """Makes sure that a tensor that a body captures has a place here too."""
        self.place(tensor)
        return tensor

    # -- operators -----------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator on fake tensors and notes it."""
        kwargs = kwargs or {}
        if current() is not self:
            return func(*args, **kwargs)
        if func in (aten.lift_fresh.default, aten.lift_fresh_copy.default) and _is_real(args[0]):
            return self.constant(args[0])
        if func is aten._local_scalar_dense.default:
            return self._value_of(args[0])
        refuse_generators(func)
        if func is aten._linalg_check_errors.default:
            return mark_failures(self, args[0])
        if func in self.decompositions:
            with self:
                out = self.decompositions[func](*args, **kwargs)
            if out is not NotImplemented:
                return out
        elif (
            func.namespace == "aten" and func is not aten.reshape.default
        ):  # below autograd, what is made of other operators comes whole
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        schema = func._schema
        fake_args, fake_kwargs = _map((args, kwargs), self.fake)
        nodes_args, nodes_kwargs = _map((args, kwargs), self.place)
        if schema.is_mutable and func.overloadpacket.__name__ in RESHAPED:
            self.places[id(args[0])].meta["val"] = self._as_it_is(fake_args[0])
        _state.stack.append(None)
        try:
            out = func(*fake_args, **fake_kwargs)
        finally:
            _state.stack.pop()
        if schema.is_mutable:
            return change(self, func, fake_args, fake_kwargs, nodes_args, nodes_kwargs, out)
        if func is aten._to_copy.default and not isinstance(args[0], Tensor):
            # one of Python's numbers, which the dispatcher wraps
            self._note(aten.full.default, ([], args[0]), {"dtype": out.dtype, "device": out.device}, out)
        elif func is aten.as_strided.default and not self.decompositions:
            read_by_strides(self, args[0], out)
        elif isinstance(out, Tensor):
            self._note(func, nodes_args, nodes_kwargs, out)
        elif isinstance(out, (tuple, list)) and any(isinstance(part, Tensor) for part in out):
            self._note_many(func, nodes_args, nodes_kwargs, out)
        return out

    def _as_it_is(self, fake: Tensor) -> Tensor:
        with self.paused():
            return torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype, device=fake.device)

    def _note(self, func: Any, args: Any, kwargs: Any, out: Tensor) -> torch.fx.Node:
        node = self.graph.call_function(func, args, kwargs)
        node.meta["val"] = out
        self.set_place(out, node)
        return node

    def _note_many(self, func: Any, args: Any, kwargs: Any, outs: Any) -> torch.fx.Node:
        node = self.graph.call_function(func, args, kwargs)
        node.meta["val"] = tuple(outs)
        for index, out in enumerate(outs):
            if isinstance(out, Tensor):
                part = self.graph.call_function(operator.getitem, (node, index))
                part.meta["val"] = out
                self.set_place(out, part)
        return node

    def constant(self, value: Tensor) -> Tensor:
        """A tensor that the function makes from Python's numbers: a number in the graph, or one more thing read."""
        with self.paused():
            fake = torch.empty(value.shape, dtype=value.dtype, device=value.device)
        if value.ndim == 0:
            options = {"dtype": value.dtype, "device": value.device}
            node = self._note(aten.full.default, ([], _item(value)), options, fake)
            node.meta["constant"] = value
            return fake
        top = self
        while top.parent is not None:
            top = top.parent
        top.fakes[id(value)] = fake
        top.kept.append(value)
        top._capture_real(value, fake)
        self.own.add(id(fake))
        return fake

    def _capture_real(self, value: Tensor, fake: Tensor) -> None:
        self.outside[self._add_placeholder(fake, fake)] = value
        self.captured.append(value)

    def _value_of(self, tensor: Tensor) -> Any:
        """The value of a tensor that does not depend on the arguments; others have none yet."""
        read: list[Tensor] = [tensor] if _is_real(tensor) else []
        if not read and id(tensor) not in self.places:
            raise ValueAsked("a number that is traced has no value yet")
        value = tensor if read else value_from_outside(self, self.place(tensor), read, ValueAsked)
        top = self
        while top.parent is not None:
            top = top.parent
        top.values_read += read
        return _item(value)

    # -- loops ---------------------------------------------------------------------------------------------------

    def scan(self, body: Callable[..., list[Tensor]], init: list[Tensor], xs: list[Tensor]) -> list[Tensor]:
        """Notes a scan: ``body(*carry, *x) -> [*carry, *y]``; the last carry, and the ``y`` stacked."""
        length = xs[0].shape[0]
        examples = [*init, *(_Like(x.shape[1:], x.dtype, x.device) for x in xs)]
        inner, outs = self._record_body(body, examples)
        check_carry(init, outs[: len(init)])
        inputs = [self._contiguous_place(tensor) for tensor in (*init, *xs)]
        results = [*self._like(init), *self._like(outs[len(init) :], length)]
        self._note_loop(scan_loop, [inner], inputs, len(init), results, length)
        return results

    def call(self, function: Callable[..., list[Tensor]], inputs: list[Tensor], least: int) -> list[Tensor]:
        """Notes a loop of one iteration, if ``function`` has so many operators at ``least``; else the operators."""
        if inputs[0].device.type != "cpu":
            return function(*inputs)
        inner, outs = self._record_body(function, inputs)
        if len(inner.graph.nodes) < least:
            return function(*inputs)
        check_carry(inputs, outs)
        results = self._like(inputs)
        self._note_loop(scan_loop, [inner], [self._contiguous_place(leaf) for leaf in inputs], len(inputs), results, 1)
        return results

    def while_(
        self, condition: Callable[..., Tensor], body: Callable[..., list[Tensor]], init: list[Tensor]
    ) -> list[Tensor]:
        """Notes a while loop; ``condition`` gives a 0-d bool."""
        asked, _ = self._record_body(lambda *leaves: [condition(*leaves)], init)
        inner, outs = self._record_body(body, init)
        check_carry(init, outs)
        inputs = [self._contiguous_place(tensor) for tensor in init]
        results = self._like(init)
        self._note_loop(while_loop, [asked, inner], inputs, len(init), results, None)
        return results

    def _like(self, leaves: list[Tensor], *leading: int) -> list[Tensor]:
        with self.paused():
            return [torch.empty((*leading, *leaf.shape), dtype=leaf.dtype, device=leaf.device) for leaf in leaves]

    def _record_body(self, body: Callable[..., list[Tensor]], examples: list[Any]) -> tuple[Body, list[Tensor]]:
        inner = Recorder(self.fake_mode, self)
        inputs = [inner.add_input(example) for example in examples]
        with inner:
            outs = list(body(*inputs))
        for index, out in enumerate(outs):
            if not isinstance(out, Tensor):
                raise TypeError(
                    f"the body of a loop must return tensors. Got {out!r} in place of leaf {index}. Write torch.tensor({out!r})."
                )
        return inner.finish(outs), outs

    def _contiguous_place(self, tensor: Tensor) -> torch.fx.Node:
        node = self.place(tensor)
        value = node.meta["val"]
        if not value.is_contiguous():
            with self.paused():
                copy = value.clone(memory_format=torch.contiguous_format)
            node = self._note(aten.clone.default, (node,), {"memory_format": torch.contiguous_format}, copy)
        return node

    def _note_loop(
        self, target: Any, bodies: list[Body], inputs: list[Any], count: int, results: list[Tensor], length: int | None
    ) -> None:
        captured = [tuple(self._contiguous_place(tensor) for tensor in body.captured) for body in bodies]
        arguments = (len(bodies), tuple(inputs[:count]), tuple(inputs[count:]), tuple(captured))
        node = self.graph.call_function(target, arguments)
        node.meta.update(val=tuple(results), bodies=[body.graph for body in bodies], length=length)
        for index, result in enumerate(results):
            part = self.graph.call_function(operator.getitem, (node, index))
            part.meta["val"] = result
            self.set_place(result, part)

    def finish(self, outs: list[Tensor]) -> Body:
        """The graph with its outputs."""
        self.graph.output(tuple(self.place(out) for out in outs))
        return Body(self.graph, self.num_inputs, self.captured)


class _Like(NamedTuple):
    shape: Any
    dtype: torch.dtype
    device: torch.device


def record(function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> tuple[Body, Recorder]:
    """Records a function of flat tensors.

    Args:
        function: ``(*tensors) -> list of tensors``.
        inputs: examples; only their shapes, dtypes and devices are looked at.

    Returns:
        The :class:`Body`, whose ``captured`` are real tensors, and the recorder.
    """
    from torch._subclasses import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    recorder = Recorder(mode)
    fakes = [recorder.add_input(value) for value in inputs]
    with mode, recorder, Reads(recorder.values_read, ValueAsked):
        outs = function(*fakes)
    return recorder.finish(outs), recorder


def _item(value: Tensor) -> Any:
    """The number of a real tensor, whatever modes are active."""
    with torch.utils._python_dispatch._disable_current_modes():
        return value.item()


def real_arange(num: int, device: torch.device) -> Tensor:
    """``0 .. num - 1`` as int32 numbers that exist, also in a trace, where they are read from outside."""
    if current() is None:  # torch.compile's trace
        return torch.arange(num, dtype=torch.int32, device=device)
    with torch.utils._python_dispatch._disable_current_modes():
        return torch.arange(num, dtype=torch.int32, device=device)


def _is_real(value: Any) -> bool:
    from torch._subclasses import FakeTensor

    return isinstance(value, Tensor) and not isinstance(value, FakeTensor)


def _map(value: Any, function: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)([_map(part, function) for part in value])
    if isinstance(value, dict):
        return {name: _map(part, function) for name, part in value.items()}
    return value
