"""The old place of :mod:`funcebm.bijections`."""

from __future__ import annotations

import warnings
from typing import Any

from .. import bijections

__all__: list[str] = []

_NAMES = {"affine": "affine", "to_interval": "interval", "to_positive": "positive", "with_log_det": "with_log_det"}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = f"funcebm.bijections.{_NAMES[name]}"
    warnings.warn(f"funcebm.energies.bijections.{name} is now {new}", DeprecationWarning, stacklevel=2)
    return getattr(bijections, _NAMES[name])
