"""What ranks compile."""

from __future__ import annotations

from tests.helpers import counted
from tests.ranks.work.chains_work import draws
from tests.ranks.work.fit_work import fit
from tests.ranks.work.warm_up_work import warm_up


def compiled_twice(mesh):
    """How many functions the second calls of a run, a warm-up and a training trace on this rank."""
    found = -1
    for _ in range(2):
        with counted() as counts:
            draws(mesh, 64, True)
            warm_up(mesh, "mala", 64, 40, True)
            fit(mesh, "score", True, 12, True)
            found = counts.traces
    return found
