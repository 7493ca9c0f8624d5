"""How fast funcebm is beside its peers: ``python -m tests.benchmarks.compare`` prints the table, in Markdown.

Each contender is a process of its own, and only one of them is busy at a time; they take turns, round by round, and
the table gives medians over the rounds. All have the same threads (pinned to as many cores), float32, chains, steps and
gradients; all draw their noise inside the time; all keep only the final state. Eager funcebm makes a tenth of the
steps, since its time is the same for each.

"First call" is the one that compiles, in a new process with that row alone: seconds of the first ``sample`` (``fit``)
call with the compiler's own imports in it, and, in brackets, with the imports of the libraries before it as well.
"Cold" starts with an empty inductor cache, "warm" is a second process with the cache of the first; JAX keeps no cache
on disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, NamedTuple

from .rows import ROWS, TRAINING, Row

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
PAUSE = 0.1  # seconds between two turns, in which the threads of the last contender fall asleep


class Contender(NamedTuple):
    title: str
    command: tuple[str, ...]
    peer: str | None = None  # the option with its interpreter
    algorithms: tuple[str, ...] = ("langevin", "hmc", *TRAINING)
    share: int = 1  # it makes one step of so many


CONTENDERS = {
    "jit": Contender("funcebm", ("worker_funcebm",)),
    "eager": Contender("funcebm eager", ("worker_funcebm", "eager"), share=10),
    "torchebm": Contender("TorchEBM", ("worker_torchebm",), "torchebm_python"),
    "blackjax": Contender("BlackJAX / JAX", ("worker_blackjax",), "jax_python"),
    "blackjax-energy": Contender(
        "BlackJAX, energies too", ("worker_blackjax", "energy"), "jax_python", algorithms=("langevin",)
    ),
}


class Worker:
    """One contender's process, and its line protocol."""

    def __init__(
        self, contender: Contender, python: str, num_threads: int, device: str = "cpu", **environment: str
    ) -> None:
        self.contender = contender
        module, *arguments = contender.command
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(num_threads))
        environment = {**os.environ, **threads, **environment}
        if contender.peer is None:  # always the checkout that holds this file
            inherited = [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *inherited])
        if device == "cpu":
            environment["JAX_PLATFORMS"] = "cpu"
        command = [python, "-W", "ignore", "-m", f"tests.benchmarks.{module}", *arguments, device]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
        hello = self._answer()
        self.absent: str | None = hello.get("absent")
        self.description: str = hello.get("ready", "")

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contender.title}: the worker ended with code {self.process.wait()}; see above")
        return json.loads(line)

    def send(self, *words: str) -> dict[str, float]:
        """Says one line, and waits for the answer."""
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)
        return self._answer()

    def ask(self, command: str, row: Row, num_steps: int) -> dict[str, float]:
        return self.send(command, row.name, str(max(1, num_steps // self.contender.share)))

    def close(self) -> None:
        self.process.communicate()


@contextlib.contextmanager
def _workers(options: argparse.Namespace) -> Iterator[dict[str, Worker]]:
    found: dict[str, Worker] = {}
    try:
        for name in options.contenders:
            worker = Worker(CONTENDERS[name], _python(CONTENDERS[name], options), options.threads, options.device)
            if worker.absent is None:
                found[name] = worker
            else:
                where = f"--{CONTENDERS[name].peer or ''}".replace("_", "-")
                print(f"{CONTENDERS[name].title} is left out: {worker.absent} (see {where}).", file=sys.stderr)
                worker.close()
        if not found:
            raise SystemExit("No contender is left.")
        yield found
    finally:
        for worker in found.values():
            worker.close()


def _python(contender: Contender, options: argparse.Namespace) -> str:
    return sys.executable if contender.peer is None else getattr(options, contender.peer)


def _time_row(
    row: Row, workers: dict[str, Worker], num_steps: int, num_rounds: int, device: str
) -> dict[str, list[float]]:
    """Microseconds a step of each contender, in rounds of turns."""
    names = [name for name, worker in workers.items() if row.algorithm in worker.contender.algorithms]
    if not names:
        return {}
    for name in names:
        for _ in range(1 if device == "cpu" else 3):  # on a GPU funcebm records the second call, and replays the third
            workers[name].ask("first", row, num_steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    checks = {}
    for turn in range(num_rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            time.sleep(PAUSE)
            reply = workers[name].ask("time", row, num_steps)
            times[name].append(reply["microseconds"])
            checks[name] = reply["check"]
    low, high = min(checks.values()), max(checks.values())
    if row.same_law and num_steps == row.num_steps and not high < 1.3 * low:
        print(f"{row.name}: the contenders disagree about the mean square: {checks}", file=sys.stderr)
    return times


def _first_calls(row: Row, workers: dict[str, Worker], num_steps: int, options: argparse.Namespace) -> dict[str, str]:
    """Seconds of the first call in new processes, as ``call (call and imports)``."""
    result = {}
    for name, ages in (("jit", ("cold", "warm")), ("blackjax", ("cold",))):
        with tempfile.TemporaryDirectory() as cache:
            for age in ages if name in workers else ():
                contender = CONTENDERS[name]
                python = _python(contender, options)
                worker = Worker(contender, python, options.threads, options.device, TORCHINDUCTOR_CACHE_DIR=cache)
                reply = worker.ask("first", row, num_steps)
                worker.close()
                result[f"{name} {age}"] = f"{reply['call']:.1f} ({reply['call'] + reply['import']:.1f})"
    return result


def _ratio(times: dict[str, float], peer: str, target: float) -> str:
    if "jit" not in times or peer not in times:
        return "-"
    ratio = times[peer] / times["jit"]
    return f"{ratio:.2f}x ({target:g}x)" if ratio >= target else f"**{ratio:.2f}x** ({target:g}x)"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def compare(options: argparse.Namespace) -> None:
    """Runs the comparison and prints the table as it grows."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"This machine is busy (load {load:.1f}): other work spoils the times, of threads most.", file=sys.stderr)
    with _workers(options) as workers:
        titles = [worker.contender.title for worker in workers.values()]
        ratios = ["TorchEBM / funcebm", "BlackJAX / funcebm"]
        firsts = [] if options.no_first_call else ["first call, cold", "first call, warm", "first call, JAX"]
        print(_line(["microseconds a step", *titles, *ratios, *firsts]))
        print("|---|" + "---:|" * len(titles + ratios + firsts), flush=True)
        for row in (row for row in ROWS if row.name in options.rows):
            num_steps = max(10, row.num_steps // 50) if options.quick else row.num_steps
            rounds = _time_row(row, workers, num_steps, options.rounds, options.device)
            times = {name: (min if options.best else statistics.median)(values) for name, values in rounds.items()}
            cells = [f"{times[name]:,.1f}" if name in times else "-" for name in workers]
            cells += [_ratio(times, "torchebm", row.torchebm), _ratio(times, "blackjax", row.blackjax)]
            if firsts:
                seconds = _first_calls(row, workers, num_steps, options)
                cells += [seconds.get(age, "-") for age in ("jit cold", "jit warm", "blackjax cold")]
            print(_line([row.title, *cells]), flush=True)
        versions = "; ".join(dict.fromkeys(worker.description for worker in workers.values()))
    kind = "best" if options.best else "median"
    where = _processor() if options.device == "cpu" else f"CUDA, host {_processor()}"
    print(f"\n{where}, {options.threads} threads; {versions}.")
    print(f"Times: {kind} of {options.rounds}; other work at the start: a load of {load:.1f}.")
    print("Ratios: in brackets the one to reach, bold where it is not. First call: seconds, in brackets with imports.")


def _names(kind: str, allowed: list[str]) -> Any:
    def parse(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {kind} {unknown[0]!r}, choose from {','.join(allowed)}")
        return text.split(",")

    return parse


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tests.benchmarks.compare", description=__doc__, formatter_class=style)
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", type=_names("row", names), default=names, help=f"comma-separated: {','.join(names)}")
    names = list(CONTENDERS)
    text = f"comma-separated: {','.join(names)}"
    parser.add_argument("--contenders", type=_names("contender", names), default=names, help=text)
    parser.add_argument("--rounds", type=_positive, default=None, help="turns of each contender (7; with --quick 1)")
    parser.add_argument("--threads", type=_positive, default=2, help="threads, and cores, of each contender (2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all of them compute (cpu)")
    parser.add_argument("--torchebm-python", default=sys.executable, help="interpreter with torchebm (this one)")
    parser.add_argument("--jax-python", default=sys.executable, help="interpreter with jax, blackjax, optax (this one)")
    parser.add_argument("--best", action="store_true", help="the best round, not the median (for a busy machine)")
    parser.add_argument("--no-first-call", action="store_true", help="do not measure the first call")
    parser.add_argument("--quick", action="store_true", help="few steps, one round, no first call")
    options = parser.parse_args(arguments)
    options.no_first_call = options.no_first_call or options.quick
    options.rounds = options.rounds or (1 if options.quick else 7)
    compare(options)


if __name__ == "__main__":
    main()
