"""``python -m funcebm``: train an energy on real data, draw from it with compiled chains, say how good it is."""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import sys
import tempfile
from typing import NoReturn, Sequence

import torch

from . import demo, distributed

__all__ = ["main"]

_DESCRIPTION = """\
Trains a neural energy, draws new examples from it with compiled Markov chains, and says how good they are: training
progress, acceptance rate, divergences, R-hat, effective sample size, seconds, and how well the energy tells held-out
data from corrupted data (AUROC). Draws data, samples and a histogram of energies in one PNG picture.
"""

_EPILOG = """\
examples:
  python -m funcebm                                  digits: 1,797 pictures of 8 x 8 pixels, from scikit-learn
  python -m funcebm --data two_moons --out moons.png
  python -m funcebm --no-jit --steps 500             without a compiler; slower, same numbers to rounding
  python -m funcebm --ranks 2                        two processes share the batches and the chains

The same seed gives the same numbers. With the defaults it takes about two minutes on 2 cores, compilation included.
"""

_LONG = 1e6  # seconds
_NEEDS = {"matplotlib": "matplotlib", "sklearn": "scikit-learn"}


class _Parser(argparse.ArgumentParser):
    """One line for an error, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _positive(text: str) -> int:
    return _integer(text, 1)


def _seed(text: str) -> int:
    return _integer(text, 0)


def _integer(text: str, minimum: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < minimum:
        raise argparse.ArgumentTypeError(f"must be {minimum} or more, got {number}")
    return number


def _device(text: str) -> torch.device:
    """A device on which a tensor can be made."""
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).item()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise argparse.ArgumentTypeError(f"cannot use {text!r}: {reason}") from None
    return device


def _picture(text: str) -> pathlib.Path:
    """A path that can be written; checked now, so that no training is lost."""
    path = pathlib.Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png")
    try:
        if path.exists():
            with path.open("r+b"):
                pass
        else:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: {error.strerror or error}") from None
    return path


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m funcebm",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", choices=sorted(demo.TASKS), default="digits", help="what to learn (default: digits)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of all random numbers (default: 0)")
    parser.add_argument(
        "--out", type=_picture, metavar="PNG", help="where the picture goes (default: funcebm_DATA.png, here)"
    )
    parser.add_argument("--steps", type=_positive, default=3000, metavar="N", help="of training (default: 3000)")
    parser.add_argument(
        "--draws",
        type=_positive,
        default=250,
        metavar="N",
        help="kept of each of the 64 chains, 4 or more (default: 250)",
    )
    parser.add_argument("--no-jit", action="store_true", help="run eagerly, without compiling")
    parser.add_argument(
        "--device", type=_device, default="cpu", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: cpu)"
    )
    parser.add_argument(
        "--ranks",
        type=_positive,
        default=1,
        metavar="N",
        help="processes of this machine, on CPUs, that share the work (default: 1)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: those of the command line, by default those of the process.

    Returns:
        The exit code: 0, or 130 after Ctrl-C. Bad arguments raise ``SystemExit(2)`` after one line on stderr.

    >>> main(["--data", "cats"])
    Traceback (most recent call last):
    SystemExit: 2
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.draws < 4:
        parser.error(f"argument --draws: must be 4 or more, got {options.draws}")
    if options.ranks > 1 and torch.device(options.device).type != "cpu":
        parser.error("argument --ranks: its processes are on CPUs; for others write torchrun -m funcebm")
    for module in ("matplotlib", "sklearn") if options.data == "digits" else ("matplotlib",):
        if importlib.util.find_spec(module) is None:
            parser.error(f"{_NEEDS[module]} is not installed. Run: pip install {_NEEDS[module]}")
    if options.out is None:
        try:
            options.out = _picture(f"funcebm_{options.data}.png")
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument --out: {error}")
    try:
        given = {"seed": options.seed, "out": options.out, "num_steps": options.steps, "num_draws": options.draws}
        given |= {"jit": not options.no_jit, "device": options.device}
        if options.ranks > 1:
            with distributed.Workers(options.ranks, timeout=_LONG, is_heard=True) as workers:
                workers.run(demo.run_on, options.data, given)
        else:  # of torchrun, where that has started this
            demo.run_on(distributed.mesh(), options.data, given)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted, no picture was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the report went away, as "head" does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
