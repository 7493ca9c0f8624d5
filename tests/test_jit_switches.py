"""Switches of compiled functions, and what they share: threads, forked children, folders."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import textwrap

import pytest
import torch

import funcebm as ebm
from funcebm import loops, transforms
from funcebm._torch import jitting, native, programs

from .helpers import compiles_nothing, counted

pytestmark = pytest.mark.compiled

X = torch.tensor([0.5, -1.0, 2.0])


def _is_traced(x):
    return x * 2 if loops.is_compiling() else x * 3


@pytest.fixture
def switched_back():
    yield
    transforms.use_jit()
    transforms.log_compiles(False)


def _python(text, **environment):
    """What a new process prints."""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(text)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout, run.stderr


# -- on and off ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("op_by_op", "switched_back")
def test_use_jit_false_makes_everything_eager_until_it_is_taken_back():
    jitted = ebm.jit(_is_traced)
    assert torch.equal(jitted(X), 2 * X)
    sampler = ebm.samplers.langevin(lambda params, x: (x**2).sum(), step_size=0.1)
    transforms.use_jit(False)
    with compiles_nothing():
        assert torch.equal(jitted(X), 3 * X)
        run = ebm.sample(ebm.random.key(0), sampler, (), X[:, None], num_samples=3, jit=True)
    eager = ebm.sample(ebm.random.key(0), sampler, (), X[:, None], num_samples=3, jit=False)
    torch.testing.assert_close(run.draws, eager.draws)
    transforms.use_jit()
    assert torch.equal(jitted(X), 2 * X)


@pytest.mark.parametrize(("value", "expected"), [("0", "eager"), ("off", "eager"), ("False", "eager"), ("1", "traced")])
def test_the_environment_switches_it_off_from_the_start(value, expected):
    text = """
        import torch, funcebm as ebm
        from funcebm import loops
        from funcebm._torch import programs
        if {value!r} == "1":  # what is compiled is of no interest here
            programs.program_of = lambda parts, times=None: lambda index, inputs: [inputs[0] + 2]
        print(*ebm.jit(lambda x: x + (2 if loops.is_compiling() else 3))(torch.zeros(1)).tolist())
    """
    out, _ = _python(text.replace("{value!r}", repr(value)), FUNCEBM_JIT=value)
    assert out == {"eager": "3.0\n", "traced": "2.0\n"}[expected]


# -- what is told -------------------------------------------------------------------------------------------------

LINE = r"funcebm: compiled named of \(3,\) in [\d.]+ s \(.*\)\n"


@pytest.mark.usefixtures("switched_back")
def test_log_compiles_prints_one_line_a_compilation(capsys):
    def named(x):
        return x * 1.25 + 7

    transforms.log_compiles()
    ebm.jit(named)(X)
    ebm.jit(named)(X + 1)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(LINE, err), err
    transforms.log_compiles(False)
    ebm.jit(named)(torch.ones(2))
    assert "compiled" not in capsys.readouterr().err


def test_the_environment_asks_for_the_log_too():
    text = """
        import torch, funcebm as ebm
        def named(x):
            return x * 1.25 + 7
        for _ in range(2):
            print(ebm.jit(named)(torch.zeros(3)).tolist())
    """
    out, err = _python(text, FUNCEBM_LOG_COMPILES="1")
    assert out == 2 * "[7.0, 7.0, 7.0]\n"
    assert re.fullmatch(LINE, err), err


@pytest.mark.usefixtures("op_by_op")
def test_a_compilation_that_takes_long_is_told_once(capsys, monkeypatch):
    monkeypatch.setattr(jitting, "_SECONDS", 0.01)

    def slow(x):
        torch.zeros(1).numel()
        import time

        time.sleep(0.2)
        return x + 1

    ebm.jit(slow)(X)
    assert capsys.readouterr().err == "funcebm: compiling slow of (3,); the first call ...\n"


# -- what is kept -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_on", [True, False])
def test_compiling_collects_no_garbage_and_leaves_the_collector_as_it_was(is_on):
    seen = []

    def function(x):
        seen.append(gc.isenabled())
        if x.shape[0] == 3:
            raise KeyError("mine")
        return x + 1

    transforms.clear_cache()
    before = gc.isenabled()
    (gc.enable if is_on else gc.disable)()
    try:
        ebm.jit(function)(torch.zeros(2))
        assert gc.isenabled() == is_on
        with pytest.raises(KeyError, match="mine"):
            ebm.jit(function)(torch.zeros(3))
        assert gc.isenabled() == is_on
    finally:
        (gc.enable if before else gc.disable)()
    assert seen == [False, False]


def test_clear_cache_forgets_all_of_this_process_and_the_next_call_is_right():
    jitted = ebm.jit(lambda x: x * 1.5 - 2)
    expected = jitted(X)
    transforms.clear_cache()
    assert not jitting._cache
    assert not programs._programs
    with counted() as counts:
        assert torch.equal(jitted(X), expected)
    assert (counts.traces, counts.programs) == (1, 1)


def test_another_process_takes_machine_code_from_disk(tmp_path):
    text = """
        import os, torch, funcebm as ebm
        ebm.transforms.log_compiles()
        print(ebm.jit(lambda x: x.cos() * 3)(torch.zeros(3)).tolist())
    """
    runs = [_python(text, FUNCEBM_CACHE_DIR=str(tmp_path), FUNCEBM_PRECOMPILE="0") for _ in range(2)]
    assert [out for out, _ in runs] == 2 * ["[3.0, 3.0, 3.0]\n"]
    assert ["scratch" in err for _, err in runs] == [True, False]
    assert ["disk" in err for _, err in runs] == [False, True]


@pytest.mark.parametrize("damage", [b"", b"not a plan", pickle.dumps(("another", "thing")), pickle.dumps(X)[:-20]])
def test_a_damaged_plan_on_disk_is_made_again(damage, monkeypatch):
    """What becomes of damaged libraries is told by the tests of ``native``."""
    jitted = ebm.jit(lambda x: x * 1.75 - 2)
    expected = jitted(X)
    transforms.clear_cache()
    asked, read = [], native.read

    def damaged(name):
        asked.append(name)
        return damage if name.startswith("plan-") else read(name)

    monkeypatch.setattr(native, "read", damaged)
    with counted() as counts:
        assert torch.equal(jitted(X), expected)
    assert any(name.startswith("plan-") for name in asked)
    assert counts.programs == 1


# -- threads and processes ----------------------------------------------------------------------------------------


def _chain(factor, num_chains=3):
    sampler = ebm.samplers.mala(lambda params, x: (factor * x**4).sum() + x.sum(), step_size=0.05)
    starts = torch.ones(num_chains, 2)
    return lambda jit: ebm.sample(ebm.random.key(0), sampler, (), starts, num_samples=5, jit=jit).draws


def test_threads_that_compile_at_once_give_the_right_numbers():
    """The same function in all, and one of its own in each."""
    factors = [0.25, 0.75]
    runs = [(number, _chain(factor)) for _ in range(3) for number, factor in enumerate(factors)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda run: (run[0], run[1](True)), runs))
    expected = [_chain(factor)(False) for factor in factors]
    for number, draws in results:
        torch.testing.assert_close(draws, expected[number], rtol=1e-4, atol=1e-5)


def test_threads_that_call_one_function_do_not_mix_their_numbers():
    def function(x):
        return loops.repeat(lambda y: (y + x).sin(), x, 5).flip(0)  # memory of its own for each call

    jitted = ebm.jit(function)
    jitted(torch.zeros(1000))
    inputs = [torch.full((1000,), 0.01 * number) for number in range(40)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = [list(pool.map(jitted, inputs)) for _ in range(5)]
    expected = [function(x) for x in inputs]
    for result in results:
        for got, right in zip(result, expected, strict=True):
            torch.testing.assert_close(got, right)


@pytest.mark.usefixtures("op_by_op")
def test_while_one_thread_traces_others_run_eagerly_undisturbed():
    is_wrong, stop = [], []

    def work():
        while not stop:
            y = torch.ones(3)
            y += 1
            is_wrong.extend([1] * (float(y.sum()) != 6 or loops.is_compiling()))

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        for number in range(20):
            ebm.jit(lambda x, number=number: x + number)(X)
        stop.append(True)
        future.result()
    assert not is_wrong


def _in_a_child(queue, factor):
    try:
        torch.ones(1, requires_grad=True).sum().backward()
    except RuntimeError as error:  # torch for CUDA gives no gradients in a child, in eager mode either
        queue.put(str(error))
        return
    queue.put(_chain(factor)(True).tolist())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_is_forked_after_compiling_runs_and_compiles():
    torch.set_num_threads(1)  # the threads of torch itself do not outlive a fork
    try:
        context = multiprocessing.get_context("fork")
        for factor in (0.25, 0.35):  # known to the parent, and new
            expected = _chain(0.25)(True)
            queue = context.Queue()
            child = context.Process(target=_in_a_child, args=(queue, factor))
            child.start()
            draws = queue.get(timeout=120)
            child.join()
            if isinstance(draws, str):
                pytest.skip(draws)
            draws = torch.tensor(draws)
            torch.testing.assert_close(draws, _chain(factor)(False), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(_chain(0.25)(True), expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(NUM_THREADS)


NUM_THREADS = torch.get_num_threads()


def test_the_number_of_threads_changes_no_bit():
    expected = _chain(0.25, 300)(True)
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        try:
            assert torch.equal(_chain(0.25, 300)(True), expected)
        finally:
            torch.set_num_threads(NUM_THREADS)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_code_that_was_written_for_other_threads_is_right(before, after):
    """Sums over much data have a place for each thread, and so the code that makes them knows how many there are."""

    def function(x, y):
        many = (x * y + before).sin()  # a constant of its own for each case
        return many.sum(), many.sum(0), many.mean(1), many.amax(), many.argmin(1), (many @ y.T).sum(1), many.cumsum(1)

    x, y = (ebm.random.normal(ebm.random.key(seed), (700, 900), dtype=torch.float64) for seed in (0, 1))
    expected = function(x, y)
    try:
        for num_threads in (before, after, before):
            torch.set_num_threads(num_threads)
            for got, right in zip(ebm.jit(function)(x, y), expected, strict=True):
                torch.testing.assert_close(got, right)
    finally:
        torch.set_num_threads(NUM_THREADS)
