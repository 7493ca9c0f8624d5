"""CPU and wall time of a process and its children."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

__all__ = ["Clock"]


def _cpu_seconds() -> float:
    """CPU time of this process and its children: those that ended, and (on Linux) those that still live."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    family = [os.getpid()]
    for parent in family:
        family += [pid for pid in parents if parents[pid] == parent]
    return seconds + sum(ticks[pid] for pid in family[1:]) / os.sysconf("SC_CLK_TCK")


class Clock:
    """CPU and wall seconds since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), _cpu_seconds()

    def read(self) -> dict[str, float]:
        wall = time.perf_counter() - self.wall
        return {"cpu": _cpu_seconds() - self.cpu, "wall": wall}
