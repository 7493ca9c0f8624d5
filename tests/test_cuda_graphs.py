"""What may be replayed, and the bookkeeping of replays, without a GPU: a stand-in for the device calls the function anew."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import loops
from funcebm._torch import cuda_graphs, executor, recorder

from .cases import SAMPLERS, quartic, quartic_params


def _set(x):
    x = x.clone()
    x[0] = 1
    x += 1
    return x.relu_()


def _sample(name):
    positions = torch.ones(4, 3)
    sampler = SAMPLERS[name](quartic, positions[0])

    def run(x):
        return ebm.sample(ebm.random.key(0), sampler, quartic_params(), x, num_samples=2, jit=False).draws

    return run, positions


FUNCTIONS = {
    "plain": (lambda x: 2 * x, torch.ones(3), False),
    "scan": (lambda x: loops.repeat(lambda x: x * x.sin(), x, 3), torch.ones(3), False),
    "mapped gradients": (vmap(torch.func.grad(lambda x: x.sin().sum())), torch.ones(3, 2), False),
    "in place, on its own copy": (_set, torch.ones(3), False),
    "hmc": (*_sample("hmc"), False),
    "nuts": (*_sample("nuts"), True),
    "while": (lambda x: loops.while_loop(lambda x: x.sum() < 9, lambda x: 2 * x, x), torch.ones(()), True),
    "while in scan": (
        lambda x: loops.repeat(lambda x: loops.while_loop(lambda x: x.sum() < 9, lambda x: 2 * x, x) / 2, x, 3),
        torch.ones(()),
        True,
    ),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_what_asks_the_numbers_is_not_replayed(name):
    function, x, expected = FUNCTIONS[name]
    body, _ = recorder.record(lambda x: [function(x)], [x])
    assert executor._asks(body.graph) == expected


class _StandIn:
    """Records by keeping the function, and replays by calling it on what is in the copies."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.lock, self.num_recorded, self.num_replayed = threading.Lock(), 0, 0
        self.last = self

    def record(self, *ignored: Any) -> Any:
        if not ignored or not callable(ignored[0]):
            return None
        function, arguments = ignored
        outputs = list(function(*arguments))
        self.num_recorded += 1

        class Graph:
            def replay(graph) -> None:
                self.num_replayed += 1
                for kept, new in zip(outputs, function(*arguments), strict=True):
                    kept.copy_(new)

        return Graph(), outputs

    def wait_event(self, event: Any) -> None:
        pass


@pytest.fixture
def stand_in(monkeypatch):
    place = _StandIn()
    monkeypatch.setattr(cuda_graphs, "_places", {torch.device("cpu"): place})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *device: place)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    key = lambda inputs: tuple(x if isinstance(x, int) else (x.shape, x.dtype) for x in inputs)  # noqa: E731
    monkeypatch.setattr(cuda_graphs, "_key", key)
    yield place
    cuda_graphs.use_cuda_graphs()


def test_the_first_call_is_plain_the_second_recorded_and_results_stay(stand_in):
    function = cuda_graphs.replayed(lambda num, x: [num * x, x.sum()])
    results = [function(2, torch.full((3,), float(i))) for i in range(5)]
    for i, (double, total) in enumerate(results):
        assert torch.equal(double, torch.full((3,), 2.0 * i)) and float(total) == 3 * i
    assert (stand_in.num_recorded, stand_in.num_replayed) == (1, 4)
    assert float(function(3, torch.ones(3))[0][0]) == 3  # another number is another recording
    assert (stand_in.num_recorded, stand_in.num_replayed) == (1, 4)


def test_threads_do_not_mix_their_numbers(stand_in):
    function, wrong = cuda_graphs.replayed(lambda x: [2 * x]), []

    def work(value: float) -> None:
        for i in range(300):
            wrong.extend([1] * (float(function(torch.full((2,), value + i))[0][0]) != 2 * (value + i)))

    threads = [threading.Thread(target=work, args=(1000.0 * k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and stand_in.num_replayed > 800


def test_what_changes_its_inputs_is_given_up(stand_in):
    count = torch.zeros(2)
    function = cuda_graphs.replayed(lambda count: [count.add_(1).clone()])
    for i in range(4):
        assert float(function(count)[0][0]) == i + 1
    assert float(count[0]) == 4


def test_where_recording_fails_all_goes_on_with_one_warning(stand_in, monkeypatch):
    def fail(*ignored: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(_StandIn, "record", fail)
    functions = [cuda_graphs.replayed(lambda x: [x + 1]) for _ in range(2)]
    with pytest.warns(RuntimeWarning, match="without CUDA graphs, which is slower: operation not permitted") as caught:
        results = [float(function(torch.tensor(1.0))[0]) for function in functions for _ in range(3)]
    assert results == [2.0] * 6
    assert len(caught) == 1


# -- numbers of the host --------------------------------------------------------------------------------------------


def test_numbers_of_the_host_go_to_the_device_by_one_copy_for_each_dtype(monkeypatch):
    copies = []
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda tensors: copies.append(len(tensors)) or stack(tensors))
    numbers = [torch.tensor(0.5), torch.tensor(3), torch.tensor(0.25), torch.tensor(True)]
    given = (numbers[0], torch.ones(3, device="meta"), *numbers[1:], torch.ones(2))
    moved = executor._moved_numbers(given, torch.device("meta"))
    assert [value.device.type for value in moved] == ["meta"] * 5 + ["cpu"]
    assert [value.dtype for value in moved] == [value.dtype for value in given]
    assert copies == [2, 1, 1]
    here = executor._moved_numbers(given, torch.device("cpu"))
    torch.testing.assert_close([here[0], *here[2:5]], numbers)


def test_results_are_where_the_function_put_them():
    """A number of the host that a loop hands on is one afterwards."""
    body, _ = recorder.record(lambda rate, x: [rate / 2, rate * x], [torch.tensor(1.0), torch.ones(3, device="meta")])
    assert executor._common_device(body.graph) == torch.device("meta")
    seen = []

    def run(*inputs):
        seen.extend(value.device.type for value in inputs)
        return [torch.ones(()), torch.ones(3, device="meta")]

    results = [node for node in body.graph.output_node().args[0]]
    call = executor._with_numbers_on(torch.device("meta"), run, results)
    half, product = call(torch.tensor(1.0), torch.ones(3, device="meta"))
    assert seen == ["meta", "meta"]
    assert (half.device.type, product.device.type) == ("cpu", "meta")


def test_numbers_stay_where_an_axis_of_the_host_needs_them():
    body, _ = recorder.record(lambda x, y: [x.sum() * 2, y * 2], [torch.ones(3), torch.ones(3, device="meta")])
    assert executor._common_device(body.graph) is None
    body, _ = recorder.record(lambda x: [x * 2], [torch.ones(3)])
    assert executor._common_device(body.graph) is None
