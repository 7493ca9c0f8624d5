"""Copies of samples: functions stay where they are, and no pickle holds them."""

from __future__ import annotations

import copy
from typing import Any

from .. import tree
from . import _ranks
from ._loop import kernel_of

__all__ = ["deep_copy", "with_place", "without_functions"]

_TREES = ("chain_keys", "params", "tuning", "accumulator")


def without_functions(samples: Any) -> tuple[Any, ...]:
    """The fields of samples for a pickle.

    Of the run all that :func:`funcebm.resume` needs is kept but the sampler, which is to be given there; or nothing, where
    the run has other functions of its user, or is shared by ranks.
    """
    run = samples.run
    if run:
        is_own = run.collect.__module__.startswith("funcebm.chains")
        is_plain = is_own and run.reducer is None and not callable(run.tuning) and run.place.mesh.size == 1
        run = run._replace(sampler=kernel_of(run.sampler), place=()) if is_plain else ()
    return tuple(samples._replace(run=run))


def with_place(samples: Any) -> Any:
    """Samples of a pickle, in this process."""
    if not samples.run:
        return samples
    place = _ranks.alone(tree.batch_size(samples.state))
    return samples._replace(run=samples.run._replace(place=place))


def deep_copy(samples: Any, memo: dict[int, Any]) -> Any:
    """Samples with tensors of their own, and the same functions."""
    names = ("draws", "info", "state", "reduced")
    copied = samples._replace(**{name: copy.deepcopy(getattr(samples, name), memo) for name in names})
    run = samples.run
    if not run:
        return copied
    kept = {name: getattr(run, name) for name in _TREES if not callable(getattr(run, name))}
    return copied._replace(run=run._replace(**{name: copy.deepcopy(value, memo) for name, value in kept.items()}))
