"""A trial program, for torches that funcebm was not tested on: compiled once a machine, and compared with the eager result."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import torch
from torch import Tensor

from . import loops, random, tree
from ._torch import jitting, native, patches

__all__ = ["TESTED", "is_tested", "why_not"]

TESTED = ((2, 11), (2, 15))  # the oldest and the newest
_SIZE = 37


def is_tested(version: str) -> bool:
    """Whether a version lies between those that the whole compiled suite ran on.

    >>> is_tested("2.13.0+cpu"), is_tested("2.16.0a0"), is_tested("3.0")
    (True, False, False)
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and TESTED[0] <= (int(numbers[1]), int(numbers[2])) <= TESTED[1]


def why_not() -> str | None:
    """What went wrong in the trial program on this torch, or None; it runs once a machine, and its result is kept."""
    identity = (torch.__version__, torch.__file__, native.processor())
    name = f"trial-{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}"
    kept = native.read(name)
    what = _failure() if kept is None else kept.decode()
    if kept is None:
        native.write(name, what.encode())
        missing = [patch.name for patch in patches.switched_on() if patch.find() is None]
        off = f" Without effect on it: {', '.join(missing)} (funcebm._torch.patches)." if missing else ""
        good = "A trial program compiled and gave the right numbers." if not what else ""
        tested = " to ".join(".".join(map(str, version)) for version in TESTED)
        jitting.warn_once(
            f"funcebm was tested on torch {tested}, and this is {torch.__version__}. {good}{off}".rstrip()
        )
    return what or None


def _failure() -> str:
    key, x = random.key(0), torch.linspace(-1, 2, _SIZE).reshape(1, _SIZE)
    weights = torch.linspace(-1, 1, _SIZE**2).reshape(_SIZE, _SIZE)
    leaves, structure = tree.flatten((key, x, weights))
    try:
        got = jitting.call(_trial, leaves, structure)
    except Exception as error:
        return f"a trial program does not compile on torch {torch.__version__}: {type(error).__name__}: {error}"[:1000]
    right = tree.leaves(_trial(key, x, weights))
    for one, other in zip(tree.leaves(got), right, strict=True):
        if one.shape != other.shape or not torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-4):
            return f"a trial program gives other numbers compiled than eager on torch {torch.__version__}"
    return ""


def _trial(key: Tensor, x: Tensor, weights: Tensor) -> Any:
    """A bit of all that programs are made of: draws, both loops, products, sums, a derivative below ``vmap``, linear algebra."""

    def energy(row: Tensor) -> Tensor:
        return torch.nn.functional.silu(weights @ row / _SIZE).square().sum() + row.square().logsumexp(0)

    def step(carry: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        noise = random.normal(random.fold_in(key, index), tuple(carry.shape))
        after = carry - 0.1 * torch.func.vmap(torch.func.grad(energy))(carry) + 0.01 * noise
        return after, after.amax()

    last, largest = loops.scan(step, x.expand(3, -1).contiguous(), torch.arange(5))
    halved = loops.while_loop(lambda value: value.abs().sum() > 1.0, lambda value: 0.5 * value, last)
    matrix = weights.T @ weights / _SIZE + torch.eye(_SIZE, dtype=weights.dtype, device=weights.device)
    solved = torch.linalg.solve(matrix, last[0])
    return last, largest, halved, solved, last.argmax(1), last.sort(1)[0]
