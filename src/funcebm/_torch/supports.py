"""The argument checks of ``torch.distributions`` as flags of a particle: what they refuse is outside of the support."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any, Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = ["Checks", "noted"]

_lock = threading.RLock()
_plain_init = Distribution.__init__


class Checks:
    """The 0-d flags of one evaluation: whether the arguments of its distributions are what they must be."""

    def __init__(self) -> None:
        self.flags: list[Tensor] = []

    def note(self, constraint: Any, value: Any) -> None:
        """Whether the value obeys the constraint; constraints that cannot be asked are none."""
        if constraints.is_dependent(constraint) or not isinstance(value, Tensor):
            return
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            if isinstance(constraint, type(constraints.symmetric)):  # whose own check cannot be mapped
                is_good = torch.linalg.cholesky_ex(value).info == 0
            else:
                is_good = constraint.check(value)
            self.flags.append(is_good.all())


class _Local(threading.local):
    def __init__(self) -> None:
        self.active: list[Checks] = []


_local = _Local()
_num_active = 0


def _init(
    self: Distribution,
    batch_shape: Any = torch.Size(),
    event_shape: Any = torch.Size(),
    validate_args: bool | None = None,
) -> None:
    if not _local.active:
        return _plain_init(self, batch_shape, event_shape, validate_args)
    is_checked = self._validate_args if validate_args is None else validate_args
    _plain_init(self, batch_shape, event_shape, False)
    if is_checked:
        _note_arguments(_local.active[-1], self)
        self.log_prob = functools.partial(_log_prob, self)  # type: ignore[method-assign]


def _note_arguments(checks: Checks, distribution: Distribution) -> None:
    with contextlib.suppress(NotImplementedError):
        for name, constraint in distribution.arg_constraints.items():
            is_given = name in distribution.__dict__ or not isinstance(
                getattr(type(distribution), name, None), torch.distributions.utils.lazy_property
            )
            if is_given and hasattr(distribution, name):
                checks.note(constraint, getattr(distribution, name))


def _log_prob(self: Distribution, value: Tensor) -> Tensor:
    if _local.active:
        with contextlib.suppress(NotImplementedError):
            support = self.support
            if support is not None:
                _local.active[-1].note(support, value)
    return type(self).log_prob(self, value)


@contextlib.contextmanager
def noted() -> Iterator[Checks]:
    """Inside, and in this thread, distributions note what they would refuse; afterwards all is as it was."""
    global _num_active
    checks = Checks()
    with _lock:
        _num_active += 1
        Distribution.__init__ = _init  # type: ignore[method-assign]
    _local.active.append(checks)
    try:
        yield checks
    finally:
        _local.active.pop()
        with _lock:
            _num_active -= 1
            if _num_active == 0:
                Distribution.__init__ = _plain_init  # type: ignore[method-assign]
