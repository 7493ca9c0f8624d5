"""Ranks on this machine without torchrun: for notebooks and tests."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any, Callable

from .. import checks
from .agreement import RankError
from .mesh import Mesh, mesh

__all__ = ["Workers", "run_local"]

_POLL = 0.005  # seconds
_GRACE = 10.0  # seconds that a rank has, once another has failed


def run_local(function: Callable[..., Any], num_ranks: int, *arguments: Any, timeout: float = 600.0) -> Any:
    """Runs a function on some ranks, each a new process of this machine, joined by gloo on the CPU.

    Args:
        function: ``(mesh, *arguments) -> value``; a module's function, or any where cloudpickle is installed (a notebook's).
        num_ranks: how many processes.
        arguments: for the function; they, and the value, are pickled.
        timeout: seconds until all of them are ended.

    Returns:
        The value of rank 0.

    Raises:
        RankError: a rank that failed, with its traceback, or that took too long.

    >>> from funcebm.distributed import run_local
    >>> print(run_local(str, 2))  # doctest: +SKIP
    rank 0 of 2
    """
    with Workers(num_ranks, timeout=timeout) as workers:
        return workers.run(function, *arguments)[0]


class Workers:
    """Processes of this machine that wait for functions to run, as the ranks of one mesh.

    Args:
        num_ranks: how many.
        timeout: seconds that a call may take.
        is_heard: whether what the first rank prints goes where this process prints; else it is kept for messages.

    Attributes:
        processes: in the order of ranks.
    """

    def __init__(self, num_ranks: int, *, timeout: float = 600.0, is_heard: bool = False) -> None:
        checks.positive_int("num_ranks", num_ranks)
        checks.positive("timeout", timeout)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="funcebm-ranks-"))
        self.timeout, self.num_calls = timeout, 0
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_ranks)))
        call = [sys.executable, "-c", "from funcebm.distributed import local; local._work()", str(self.folder)]
        self.logs = [open(self.folder / f"log{rank}", "wb") for rank in range(num_ranks)]  # noqa: SIM115
        self.processes = [
            subprocess.Popen(
                [*call, str(rank), str(num_ranks), str(os.getpid())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=None if is_heard and rank == 0 else self.logs[rank],
                stderr=subprocess.STDOUT,
            )
            for rank in range(num_ranks)
        ]

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """The values ``function(mesh, *arguments)`` of all ranks.

        Raises:
            RankError: a rank failed or took too long; what it printed, and its traceback, are in the message.
        """
        self.num_calls += 1
        _put(self.folder / f"call{self.num_calls}", _pickled((function, arguments)))
        end = time.monotonic() + self.timeout
        found: dict[int, Any] = {}
        while len(found) < len(self.processes):
            for rank, process in enumerate(self.processes):
                place = self.folder / f"result{self.num_calls}.{rank}"
                if rank not in found and place.exists():
                    found[rank] = pickle.loads(place.read_bytes())
                    if not found[rank][0]:
                        end = min(end, time.monotonic() + _GRACE)
                elif rank not in found and process.poll() is not None:
                    found[rank] = (False, f"it ended with exit code {process.returncode}")
                    end = min(end, time.monotonic() + _GRACE)
            if time.monotonic() > end:
                break
            time.sleep(_POLL)
        failed = {rank: text for rank, (right, text) in sorted(found.items()) if not right}
        late = [rank for rank in range(len(self.processes)) if rank not in found]
        if failed or late:
            words = [f"rank {rank}: {text}" for rank, text in failed.items()]
            words += [f"rank {rank}: no answer. Its output:\n{self.output(rank)}" for rank in late]
            if late:
                self.close()
            raise RankError("\n".join(words))
        return [found[rank][1] for rank in range(len(self.processes))]

    def output(self, rank: int) -> str:
        """The end of what a rank has printed."""
        return (self.folder / f"log{rank}").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """Ends the processes."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process, log in zip(self.processes, self.logs, strict=True):
            process.wait()
            log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _pickled(value: Any) -> bytes:
    """By cloudpickle where it is installed, which knows functions of notebooks."""
    if importlib.util.find_spec("cloudpickle") is not None:
        import cloudpickle  # type: ignore[import-not-found, import-untyped, unused-ignore]

        return bytes(cloudpickle.dumps(value))
    return pickle.dumps(value)


def _put(path: pathlib.Path, data: bytes) -> None:
    """A file that is there whole, or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _work() -> None:
    """The process of a rank: waits for calls until its parent is gone."""
    import datetime

    import torch
    import torch.distributed as dist

    folder, rank, size, parent = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    ours: Mesh = mesh()
    number = 0
    while os.getppid() == parent:
        path = folder / f"call{number + 1}"
        if not path.exists():
            time.sleep(_POLL)
            continue
        number += 1
        try:
            function, arguments = pickle.loads(path.read_bytes())
            result = (True, function(ours, *arguments))
            data = _pickled(result)
        except BaseException:
            data = pickle.dumps((False, traceback.format_exc()))
        _put(folder / f"result{number}.{rank}", data)
    os._exit(0)
