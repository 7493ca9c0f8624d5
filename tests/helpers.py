"""How often something is compiled, and how to try a trace without a compiler."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Any, Callable, Iterator
from unittest import mock

import pytest
from torch import Tensor

from funcebm._torch import executor, jitting, programs

__all__ = ["Counts", "compiles_nothing", "counted", "op_by_op"]


class Counts:
    """What happened in this process: functions that were traced, and programs that were made or read from disk."""

    def __init__(self, trace: Any, program: Any) -> None:
        self._trace, self._program = trace, program

    @property
    def traces(self) -> int:
        return self._trace.call_count

    @property
    def programs(self) -> int:
        return self._program.call_count

    @property
    def sources(self) -> list[str]:
        """The C++ of the programs."""
        return [call.args[0].source for call in self._program.call_args_list]


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Counts traces and programs inside."""
    with (
        mock.patch.object(jitting, "_record", wraps=jitting._record) as trace,
        mock.patch.object(programs, "Program", wraps=programs.Program) as program,
    ):
        yield Counts(trace, program)


@contextlib.contextmanager
def compiles_nothing() -> Iterator[None]:
    """Inside, nothing is traced, and so nothing compiled: all that is called is known."""
    with counted() as counts:
        yield
    assert counts.traces == 0, f"{counts.traces} functions were traced again"


@contextlib.contextmanager
def op_by_op() -> Iterator[None]:
    """Functions are traced as ever, and known by what they mean, but the operators of a graph run one by one.

    For statements about traces, which are many and would each take seconds of a C++ compiler.
    """

    def interpreted(parts: list[Any], times: Any = None) -> Callable[..., list[Tensor]]:
        runs = [executor.executor_of(part.body, part.fake_mode, is_dynamic=part.is_dynamic) for part in parts]
        return lambda index, *arguments: runs[index](*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jitting, "_cache", OrderedDict())
        patch.setattr(programs, "program_of", interpreted)
        yield
