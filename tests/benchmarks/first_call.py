"""What the first call costs, and the next ones: ``python -m tests.benchmarks.first_call`` prints the table, in Markdown.

Each row is a small piece of work as a user writes it, in funcebm and in JAX (BlackJAX, optax). Each library has a process
of its own, only one of them is busy at a time, and they take turns, call by call. A cell is ``CPU / wall``, in seconds: CPU
counts all threads, compilers and other children of the process; other work on the machine changes it less than wall. A call
contains all from the text of the energy to numbers that are there; Python's start is in no cell.

- import: of torch and funcebm, or of JAX and BlackJAX; it is in no other cell.
- compiler: the import of torch's compiler, which funcebm uses where something is compiled that no cache holds; it is not in
  cold either. JAX imports its compiler with the rest.
- cold: the first call of a process whose cache folders are empty. JAX keeps no cache on disk.
- warm cache: the first call of a second process with the folders of the first.
- All others follow the cold call in its process, in this order. again: the same call, the median of five. changed energy:
  one constant in the text of the energy is another. changed comment: the text has a line of comment more at its top, so
  that all after it moves (for JAX, functions built anew). chains: another number of chains (of rows in a batch). draws:
  another number of draws (of training steps). thin 2: every second step is kept. jit=False: eagerly.

Energies are text that is executed, all in one namespace, as the cells of a notebook are. ``PYTHONPATH`` says which funcebm is
measured; without it, that of this checkout.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple

from .clock import Clock
from .compare import PAUSE, ROOT, Contender, Worker, _line, _names, _positive, _processor

__all__ = ["ROWS", "Program", "Row", "Setting", "main", "serve"]

COLLECT = "\n\ncollect = lambda state, info: state.position\n"

BANANA = """
def energy(params, x):
    bent = x[1] - CONSTANT * (x[0] ** 2 - params["variance"])
    return 0.5 * (x[0] ** 2 / params["variance"] + bent**2)
"""

SCHOOLS = """
def energy(params, x):
    scale = xp.exp(x["log_scale"])
    prior = (x["mean"] / 5.0) ** 2 / 2 + xp.log1p((scale / CONSTANT) ** 2) - x["log_scale"] + (x["z"] ** 2).sum() / 2
    return prior + (((params["effects"] - x["mean"] - scale * x["z"]) / params["errors"]) ** 2).sum() / 2
"""

NETWORK = """
def energy(params, x):
    return network(params, x) + CONSTANT * (x**2).sum()
"""

WELL = """
def energy(params, x):
    return params * ((x**2 - CONSTANT) ** 2).sum()
"""

EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)  # of the eight schools (Rubin 1981)
ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
VARIANCE = 4.0  # of the banana's first coordinate
STEP_SIZE = 0.2  # of MALA and HMC
NUM_LEAPFROG = 10
NUM_BURN_IN = 100  # of MALA and HMC
NUM_WARM_UP = 300  # of NUTS
TARGET = 0.8  # the acceptance rate that its warm-up goes for
WIDTHS = (2, 64, 64, 1)  # of the network
NOISE_SCALE = 0.5  # of denoising score matching
LEARNING_RATE = 1e-3
NUM_DATA = 4_096
NUM_WELLS = 64  # parameterisations, of barriers in this range
BARRIERS = (0.5, 4.0)
WELL_STEP_SIZE = 0.01


class Row(NamedTuple):
    """One piece of work.

    Attributes:
        name: how the command line calls it.
        title: how the table calls it.
        text: the energy, for both libraries: ``xp`` is ``torch`` or ``jax.numpy``, and ``CONSTANT`` a number.
        constants: that number, and the changed one.
        chains: how many, and the changed number; in training the rows of a batch.
        draws: how many of each chain, and the changed number; in training the steps.
        has_thin: whether the call is made with ``thin=2`` too.
        same_law: whether the mean square of the draws must agree between the libraries.
    """

    name: str
    title: str
    text: str
    constants: tuple[str, str]
    chains: tuple[int, int]
    draws: tuple[int, int]
    has_thin: bool = False
    same_law: bool = True


ROWS = (
    Row("mala", "MALA, banana", BANANA + COLLECT, ("0.25", "0.3"), (64, 100), (200, 300), has_thin=True),
    Row("hmc", "HMC L=10, banana", BANANA + COLLECT, ("0.25", "0.3"), (64, 100), (200, 300), has_thin=True),
    Row("nuts", "NUTS with warm-up, eight schools", SCHOOLS + COLLECT, ("5.0", "6.0"), (4, 8), (300, 450)),
    Row("dsm", "DSM, MLP 2 x 64, 200 Adam steps", NETWORK, ("0.1", "0.2"), (256, 200), (200, 300), same_law=False),
    Row("vmap", "jit(vmap(sample)), 64 double wells", WELL + COLLECT, ("1.0", "1.1"), (16, 25), (100, 150)),
)

COLUMNS = {
    "import": "import",
    "compiler": "compiler",
    "cold": "cold",
    "warm": "warm cache",
    "energy": "changed energy",
    "comment": "changed comment",
    "chains": "chains",
    "draws": "draws",
    "thin": "thin 2",
    "again": "again",
    "eager": "jit=False",
}
_FIRST_PROCESS = ("import", "compiler", "cold", "again", "energy", "comment", "chains", "draws", "thin", "eager")
_SECOND_PROCESS = ("warm",)
_NUM_AGAIN = 5

CONTENDERS = {
    # with a peer's option compare.Worker leaves PYTHONPATH to us
    "funcebm": Contender("funcebm", ("first_call_funcebm",), "python"),
    "jax": Contender("JAX", ("first_call_jax",), "jax_python"),
}
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "FUNCEBM_CACHE_DIR", "XDG_CACHE_HOME", "TMPDIR")
_ENDED = (SystemExit, OSError, ValueError)  # what tells that a worker ended, or said something that is no answer


class Setting(NamedTuple):
    """What a call may change without another energy."""

    chains: int
    draws: int
    thin: int
    jit: bool


Program = Callable[[Setting], float]
"""Makes one call and waits for its numbers; the result is the mean square of the draws, or the last loss."""


def _setting(row: Row, column: str) -> Setting:
    """What the call of a column is made with."""
    chains, draws = row.chains[column == "chains"], row.draws[column == "draws"]
    return Setting(chains, draws, 2 if column == "thin" else 1, column != "eager")


def _text(row: Row, column: str) -> str:
    """The text that a column executes."""
    text = row.text.replace("CONSTANT", row.constants[column == "energy"])
    return f"\n# one line of comment more{text}" if column == "comment" else text


# -- the worker's side --------------------------------------------------------------------------------------------


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _define(text: str, path: Path, namespace: dict[str, Any]) -> dict[str, Any]:
    """Executes a text as a cell of a notebook: a file that tracebacks find, and one namespace for all."""
    path.write_text(text)
    exec(compile(text, str(path), "exec"), namespace)
    return {name: namespace.get(name) for name in ("energy", "collect")}


def serve(load: Callable[[], tuple[str, dict[str, Any], Callable[..., Program]]]) -> None:
    """Runs a worker: imports its library, says which, and answers ``ROW COLUMN`` until the input ends.

    Args:
        load: gives a description, what the texts find in their namespace, and ``build(row, energy, collect)``, which makes
            the program of a row. A text that differs from all before it gets a program of its own.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    num_threads, left = int(os.environ["OMP_NUM_THREADS"]), float(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):  # the one way to bound the threads of every library alike
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_threads])

    def answer(**content: object) -> None:
        print(json.dumps(content), file=answers, flush=True)

    signal.alarm(math.ceil(left))  # ends the process, whatever it does; its time while others have their turn is free
    clock = Clock()
    try:
        description, namespace, build = load()
    except ImportError as error:
        answer(absent=str(error))
        return
    imports = clock.read()
    left -= imports["wall"]
    signal.alarm(0)
    answer(ready=description)
    programs: dict[str, Program] = {}
    for line in sys.stdin:
        name, column = line.split()
        if column == "import":
            answer(**imports)
            continue
        if column == "compiler":
            clock = Clock()
            namespace["import_compiler"]()
            answer(**clock.read())
            continue
        row = next(row for row in ROWS if row.name == name)
        text, content, readings = _text(row, column), {}, []
        signal.alarm(max(1, math.ceil(left)))
        try:
            for _ in range(_NUM_AGAIN if column == "again" else 1):
                clock = Clock()
                if text not in programs:
                    cell = _define(text, Path(tempfile.gettempdir(), f"cell_{len(programs)}.py"), namespace)
                    programs[text] = build(row, **cell)
                content["check"] = programs[text](_setting(row, column))
                readings.append(clock.read())
            content.update({kind: statistics.median(reading[kind] for reading in readings) for kind in imports})
        except Exception as error:
            content["error"] = _first_line(error)
            readings.append(clock.read())
        signal.alarm(0)
        left -= sum(reading["wall"] for reading in readings)
        answer(**content)


# -- the table ----------------------------------------------------------------------------------------------------


def _start(name: str, options: argparse.Namespace, folder: Path) -> Worker:
    """A worker with the cache folders in this folder; they are made where they are not."""
    environment = {variable: str(folder / variable.lower()) for variable in _CACHES}
    for path in environment.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    contender = CONTENDERS[name]
    contender = contender._replace(command=(*contender.command, str(options.limit)))
    if name == "funcebm":
        inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([*inherited, str(ROOT / "src")])
    return Worker(contender, getattr(options, contender.peer or ""), options.threads, **environment)


def _ask(worker: Worker, row: Row, column: str, limit: int) -> dict[str, Any]:
    """The answer of a worker, or what happened to it."""
    if worker.process.poll() is not None:
        return {"error": "the process had ended"}
    try:
        return worker.send(row.name, column)
    except _ENDED as error:
        too_long = worker.process.poll() == -signal.SIGALRM
        return {"error": f"over {limit} s" if too_long else _first_line(error)}


def _has(row: Row, name: str, column: str) -> bool:
    """Whether a library has a column in a row."""
    return row.has_thin if column == "thin" else column not in ("compiler", "eager") or name == "funcebm"


def _measure(row: Row, names: list[str], options: argparse.Namespace) -> dict[str, dict[str, dict[str, Any]]]:
    """The cells of each library in one row."""
    cells: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for columns in (_FIRST_PROCESS, _SECOND_PROCESS):
            workers: dict[str, Worker] = {}
            try:
                for name in names:
                    try:
                        workers[name] = _start(name, options, Path(folder, name))
                    except _ENDED as error:
                        cells[name][columns[0]] = {"error": _first_line(error)}
                for column in columns:
                    for name, worker in workers.items():
                        if _has(row, name, column):
                            time.sleep(PAUSE)
                            cells[name][column] = _ask(worker, row, column, options.limit)
            finally:
                for worker in workers.values():
                    worker.close()
    return cells


def _hello(names: list[str], options: argparse.Namespace) -> dict[str, str]:
    """What each library says of itself; those that are not installed are left out."""
    found = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in names:
            try:
                worker = _start(name, options, Path(folder, name))
                worker.close()
                absent, found[name] = worker.absent, worker.description
            except _ENDED as error:
                absent = _first_line(error)
            if absent is not None:
                found.pop(name, None)
                where = f"--{CONTENDERS[name].peer or ''}".replace("_", "-")
                print(f"{CONTENDERS[name].title} is left out: {absent} (see {where}).", file=sys.stderr)
    if not found:
        raise SystemExit("No library is left.")
    return found


def _commit(description: str) -> str:
    """The commit of the folder that a description ends with, or nothing."""
    folder = description.rpartition(" of ")[2]
    command = ["git", "-C", folder or "/", "describe", "--always", "--dirty", "--abbrev=7"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""


def _cell(answer: dict[str, Any]) -> str:
    if not answer:
        return "-"
    if "error" in answer:
        return answer["error"].replace("|", "/")[:60]
    return f"{answer['cpu']:.3g} / {answer['wall']:.3g}"


def _ratio(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    if not ours or not peer or "error" in ours or "error" in peer:
        return "-"
    return " / ".join(f"{ours[kind] / peer[kind]:.2g}x" for kind in ("cpu", "wall"))


def _warn_of_disagreement(row: Row, cells: dict[str, dict[str, dict[str, Any]]]) -> None:
    checks = {name: answers["cold"]["check"] for name, answers in cells.items() if "check" in answers.get("cold", {})}
    if row.same_law and checks and not max(checks.values()) < 1.5 * min(checks.values()):
        print(f"{row.name}: the libraries disagree about the mean square: {checks}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks.first_call", description=__doc__, formatter_class=style
    )
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", type=_names("row", names), default=names, help=f"comma-separated: {','.join(names)}")
    names = list(CONTENDERS)
    text = f"comma-separated: {','.join(names)}"
    parser.add_argument("--libraries", type=_names("library", names), default=names, help=text)
    parser.add_argument("--python", default=sys.executable, help="interpreter with torch (this one)")
    parser.add_argument("--jax-python", default=sys.executable, help="interpreter with jax, blackjax, optax (this one)")
    parser.add_argument("--threads", type=_positive, default=2, help="threads, and cores, of each library (2)")
    parser.add_argument("--limit", type=_positive, default=600, help="seconds that a process may be busy (600)")
    parser.add_argument("--json", type=Path, help="a file for all numbers")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    found = _hello(options.libraries, options)
    commit = _commit(found.get("funcebm", ""))
    print(_line(["CPU / wall, seconds", "", *COLUMNS.values()]))
    print("|---|---|" + "---:|" * len(COLUMNS), flush=True)
    record: dict[str, Any] = {"libraries": found, "commit": commit, "load": load, "rows": {}}
    for row in (row for row in ROWS if row.name in options.rows):
        cells = record["rows"][row.name] = _measure(row, list(found), options)
        for name in found:
            print(_line([row.title, CONTENDERS[name].title, *(_cell(cells[name].get(key, {})) for key in COLUMNS)]))
        if len(found) == len(CONTENDERS):
            pairs = ((cells["funcebm"].get(key, {}), cells["jax"].get(key, {})) for key in COLUMNS)
            print(_line([row.title, "funcebm / JAX", *(_ratio(*pair) for pair in pairs)]), flush=True)
        _warn_of_disagreement(row, cells)
        if options.json:
            options.json.write_text(json.dumps(record, indent=1))
    print(f"\n{_processor()}, {options.threads} threads; {'; '.join(found.values())}; commit {commit or 'unknown'}.")
    print(f"Other work at the start: a load of {load:.1f}.")


if __name__ == "__main__":
    main()
