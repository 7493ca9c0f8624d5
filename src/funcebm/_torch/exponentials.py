"""Exponentials in kernels: ours in place of torch's, which are calls of a library, and inductor's ``exp(x) - 1`` of small x."""

from __future__ import annotations

import functools
import pathlib
import re

__all__ = ["functions", "inlined"]

_VECTOR_EXPM1 = re.compile(r"\b(tmp\d+)\.exp\(\) - decltype\(\1\)\(1\)")
_VECTOR = re.compile(r"\b(tmp\d+(?:\.neg\(\))?)\.(exp|expm1|tanh)\(\)")
_NUMBER = re.compile(r"\bstd::(exp|expm1|tanh)\(")


def inlined(source: str) -> str:
    """A kernel that inductor wrote, with calls of :func:`functions`."""
    source = _VECTOR_EXPM1.sub(r"funcebm::expm1(\1)", source)
    source = _VECTOR.sub(r"funcebm::\2(\1)", source)
    return _NUMBER.sub(r"funcebm::\1(", source)


@functools.cache
def functions() -> str:
    """The C++ of the functions."""
    return pathlib.Path(__file__).with_name("exponentials.hpp").read_text(encoding="utf-8")
