"""Buffers of compiled loops, allocated once and not in each turn: a pass over the C++ that inductor writes for CPU.

Inductor's wrapper takes memory for each intermediate result of a loop's body anew in each turn, and gives it back. In a loop
of small kernels that is most of the time. Here such a buffer moves to before the loop, if nothing but kernels and matrix
products of the body touches it: one that is handed on (to the next turn, to a loop inside, out of the loop) stays where it
is. The pass knows few forms of lines, and leaves alone what it does not know.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any, Iterable

__all__ = ["move_out"]

# bytes; the time to take larger ones is small beside the time to fill them, and they are needed elsewhere
_LARGEST = 2**17
_SIZES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "float32": 4,
    "int64": 8,
    "float64": 8,
}

_WORD = re.compile(r"[A-Za-z_]\w*")
_HANDLE = re.compile(r"AtenTensorHandle (\w+)_handle;")
_EMPTY = re.compile(
    r"AOTI_TORCH_ERROR_CODE_CHECK\(aoti_torch_empty_strided\(\d+, (\w+), (\w+), cached_torch_dtype_(\w+), "
    r"cached_torch_device_type_cpu, 0, &(\w+)_handle\)\);"
)
_ASSIGN = re.compile(r"AOTI_TORCH_ERROR_CODE_CHECK\(aoti_torch_assign_tensors_out\(.*, &(\w+)_handle\)\);")
_OWNER = re.compile(r"RAIIAtenTensorHandle (\w+)\((\w+)_handle\);")
_ARRAY = re.compile(r"static constexpr int64_t (?:(\w+)\[\] = \{([\dL, ]*)\}|\*(\w+) ?= ?nullptr);")
_ALIAS = re.compile(
    r"auto (\w+) = wrap_with_raii_handle_if_needed\(reinterpret_tensor_wrapper\((\w+), \d+, \w+, \w+, \d+L\)\);  // alias"
)
_REUSE = re.compile(r"auto (\w+) = std::move\((\w+)\);  // reuse")
_RESET = re.compile(r"(\w+)\.reset\(\);")
_COPY = re.compile(r"AOTI_TORCH_ERROR_CODE_CHECK\(aoti_torch_new_tensor_handle\((\w+), &(\w+)\)\);")
_PRODUCT = re.compile(r"AOTI_TORCH_ERROR_CODE_CHECK\(aoti_torch_cpu_(mm|bmm|addmm|baddbmm)_out\(")


def move_out(lines: list[Any]) -> list[Any]:
    """The lines of a function's body, with the buffers of each outermost loop before it.

    Args:
        lines: strings, and objects of inductor that stand for comments.

    >>> lines = [
    ...     "while (1) {",
    ...     "    static constexpr int64_t int_array_0[] = {4L, };",
    ...     "    AtenTensorHandle buf0_handle;",
    ...     "    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, int_array_0, int_array_0, "
    ...     "cached_torch_dtype_float32, cached_torch_device_type_cpu, 0, &buf0_handle));",
    ...     "    RAIIAtenTensorHandle buf0(buf0_handle);",
    ...     "    kernel((float*)(buf0.data_ptr()));",
    ...     "    buf0.reset();",
    ...     "}",
    ... ]
    >>> [line.strip() for line in move_out(lines)[-4:]]
    ['while (1) {', 'kernel((float*)(buf0.data_ptr()));', '}', '}']
    """
    result, index = [], 0
    while index < len(lines):
        end = _end(lines, index)
        result.extend([lines[index]] if end is None else _Loop(lines[index : end + 1]).rewritten())
        index = index + 1 if end is None else end + 1
    return result


def _end(lines: list[Any], start: int) -> int | None:
    """Where the loop ends that begins at ``start``, or None: there begins none, or its text is not of single lines."""
    if not isinstance(lines[start], str) or lines[start].strip() != "while (1) {":
        return None
    closing = lines[start].replace("while (1) {", "}")
    for index in range(start + 1, len(lines)):
        if isinstance(lines[index], str):
            if "\n" in lines[index]:
                return None
            if lines[index].rstrip() == closing:
                return index
    return None


class _Loop:
    """The lines of a loop, those inside it included, by what they do."""

    def __init__(self, lines: list[Any]) -> None:
        self.lines = lines
        texts = [line.strip() if isinstance(line, str) else "//" for line in lines]
        self.mentions: dict[str, list[int]] = defaultdict(list)  # where a name occurs
        self.arrays: dict[str, list[int]] = {}
        self.parts: dict[str, list[int]] = {}  # the lines that define a name
        self.made: set[str] = set()  # names of new memory, not too large
        self.base: dict[str, str] = {}  # names of memory that has another name already
        self.unused: set[str] = set()
        for index, text in enumerate(texts):
            if text.startswith("//"):
                continue
            for word in set(_WORD.findall(text)):
                self.mentions[word].append(index)
            if array := _ARRAY.fullmatch(text):
                self.arrays[array[1] or array[3]] = [int(n) for n in re.findall(r"\d+", array[2] or "")]
                self.parts[array[1] or array[3]] = [index]
        self.texts = texts
        for index in range(len(texts)):
            self._read(index)
        self.unused = {name for name in self.unused if not self._others(name)}

    def _read(self, index: int) -> None:
        """Notes what the line, or the three lines from it on, define."""
        text = self.texts[index]
        handle = _HANDLE.fullmatch(text)
        if handle and index + 2 < len(self.texts):
            name, owner = handle[1], _OWNER.fullmatch(self.texts[index + 2])
            empty, assign = _EMPTY.fullmatch(self.texts[index + 1]), _ASSIGN.fullmatch(self.texts[index + 1])
            if owner is None or {owner[1], owner[2]} != {name} or name in self.parts:
                return
            if empty and empty[4] == name and self._is_small(empty):
                self.parts[name] = [index, index + 1, index + 2]
                self.made.add(name)
            elif assign and assign[1] == name:
                self.parts[name] = [index, index + 1, index + 2]
                self.unused.add(name)
        elif (other := _ALIAS.fullmatch(text) or _REUSE.fullmatch(text)) and other[1] not in self.parts:
            self.parts[other[1]] = [index]
            self.base[other[1]] = other[2]

    def _is_small(self, empty: re.Match[str]) -> bool:
        if empty[1] not in self.arrays or empty[2] not in self.arrays or empty[3] not in _SIZES:
            return False
        return _SIZES[empty[3]] * math.prod(self.arrays[empty[1]]) <= _LARGEST

    def _others(self, name: str) -> list[str]:
        """The lines with a name, but for those that define it and those that only free."""
        lines = [self.texts[index] for index in self.mentions[name] if index not in self.parts.get(name, [])]
        return [line for line in lines if _RESET.sub("", line).strip()]

    def _stays(self, name: str) -> bool:
        """Whether the memory of this name is used by kernels and products of the loop only."""
        return all(self._is_local(name, text) for text in self._others(name))

    def _is_local(self, name: str, text: str) -> bool:
        if (other := _ALIAS.fullmatch(text) or _REUSE.fullmatch(text)) and other[2] == name:
            return self.base.get(other[1]) == name and self._stays(other[1])
        if (copy := _COPY.fullmatch(text)) and copy[1] == name:
            uses = [line for line in self._others(copy[2]) if line not in (text, f"AtenTensorHandle {copy[2]};")]
            return all(_PRODUCT.match(line) and f"RAIIAtenTensorHandle({copy[2]})" in line for line in uses)
        if _PRODUCT.match(text):
            return True
        return len(re.findall(rf"\b{name}\b", text)) == text.count(f"({name}.data_ptr())")

    def rewritten(self) -> list[Any]:
        """The loop in a block of its own that begins with what it keeps."""
        kept = {name for name in self.made if self._stays(name)}
        waiting = list(self.base)
        while (found := [name for name in waiting if self.base[name] in kept]) and found:
            kept.update(found)
            waiting = [name for name in waiting if name not in kept]
        if not kept and not self.unused:
            return self.lines
        moved = sorted(_lines_of(self.parts, [*self.arrays, *kept]))
        gone = {*moved, *_lines_of(self.parts, self.unused)}
        free = kept | self.unused
        indent = self.lines[0][: len(self.lines[0]) - len(self.lines[0].lstrip())]
        block = [indent + "{"]
        block.extend(indent + _REUSE.sub(r"auto& \1 = \2;", self.texts[index]) for index in moved)
        for index, line in enumerate(self.lines):
            if index in gone:
                continue
            if not isinstance(line, str):
                block.append(line)
                continue
            after = _RESET.sub(lambda match: "" if match[1] in free else match[0], line)
            if after == line or after.strip():
                block.append(after)
        return [*block, indent + "}"]


def _lines_of(parts: dict[str, list[int]], names: Iterable[str]) -> list[int]:
    return [index for name in names for index in parts[name]]
