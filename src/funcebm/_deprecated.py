"""Modules that have moved: their old names import the new ones, with a warning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from types import ModuleType
from typing import Any, Sequence

__all__ = ["MOVED", "register"]

MOVED = {
    "funcebm.annealing": "funcebm.normalizers._path",
    "funcebm.chain_checks": "funcebm.chains._checks",
    "funcebm.chain_loop": "funcebm.chains._loop",
    "funcebm.progress": "funcebm._progress",
    "funcebm.reducers": "funcebm.chains.reducers",
    "funcebm.stein": "funcebm.pairwise",
    "funcebm.threefry": "funcebm._threefry",
    "funcebm.samplers.trajectory": "funcebm.samplers._nuts_trajectory",
}
"""Old names of version 0.1 to new ones. They go with version 0.3."""


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what no other finder does, where its name is an old one of ours."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: Any) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} has moved to {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it has run under its new name, which stays its name."""
        module.__spec__ = module.__spec__.loader_state  # type: ignore[union-attr]


def register() -> None:
    """Once a process."""
    if not any(type(finder).__name__ == "_Moved" for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
