"""The source as data: modules, imports, public names, docstrings, for the tests of how the house is built."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pathlib
import re
import textwrap
from types import ModuleType
from typing import Any, Iterator

import funcebm
from funcebm import _deprecated

SOURCE = pathlib.Path(funcebm.__file__).parent


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module by its name without ``funcebm.``, as a syntax tree; packages by the name of the directory."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = list(path.relative_to(SOURCE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        if parts and parts[-1] != "__main__":
            found[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def is_package(name: str) -> bool:
    return (SOURCE / name.replace(".", "/")).is_dir()


def imports(name: str) -> set[str]:
    """The modules of ours that a module imports when it is imported itself."""
    return {target for node in _statements(modules()[name]) for target in _targets(name, node)}


def _statements(node: ast.AST) -> Iterator[ast.ImportFrom | ast.Import]:
    """Imports that run at import: not those inside of functions, nor those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _statements(child)


def _targets(name: str, node: ast.ImportFrom | ast.Import) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.removeprefix("funcebm.") for alias in node.names if alias.name.startswith("funcebm."))
        return
    if node.level == 0:
        if not (node.module or "").startswith("funcebm"):
            return
        base = (node.module or "").split(".")[1:]
    else:
        here = name.split(".") if is_package(name) else name.split(".")[:-1]
        base = here[: len(here) - node.level + 1] + (node.module.split(".") if node.module else [])
    for alias in node.names:
        whole = ".".join([*base, alias.name])
        yield whole if whole in modules() else ".".join(base)


def room(name: str) -> str:
    """The module or the package at the root in which a module is."""
    return name.split(".")[0]


def public_modules() -> list[ModuleType]:
    """The modules that ``funcebm`` exposes, and the public ones inside of packages that are not all in their face."""
    return [value for name in funcebm.__all__ if inspect.ismodule(value := getattr(funcebm, name))]


def public_names() -> list[str]:
    """``module.name`` for everything that users can call."""
    return sorted(
        [name for name in funcebm.__all__]
        + [
            f"{module.__name__.removeprefix('funcebm.')}.{name}"
            for module in public_modules()
            for name in module.__all__
        ]
    )


def public_functions() -> dict[str, Any]:
    """The functions of ours behind the public names."""
    found = {}
    for module in public_modules():
        for name in module.__all__:
            value = inspect.unwrap(getattr(module, name)) if callable(getattr(module, name)) else None
            if inspect.isfunction(value) and value.__module__.startswith("funcebm"):
                found[f"{module.__name__.removeprefix('funcebm.')}.{name}"] = value
    return found


# -- docstrings -----------------------------------------------------------------------------------------------------


def sections(function: Any) -> dict[str, str]:
    """The parts of a docstring by their titles; the text before them has the title ''."""
    parts = re.split(r"^(Args|Attributes|Returns|Raises|Reference|Yields):", inspect.getdoc(function) or "", flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def described(function: Any) -> set[str]:
    """The parameters that ``Args`` names."""
    text = sections(function).get("Args", "")
    heads = re.findall(r"^    ([\w*][\w*, /]*):", text, flags=re.M)
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if not name.startswith("_")]


def raises(function: Any) -> bool:
    """Whether its own body raises, or calls a check that does."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            return True
        if isinstance(node, ast.Call) and re.match(CHECK, ast.unparse(node.func)):
            return True
    return False


CHECK = re.compile(r"checks\.(positive|require|one_structure|same_)")
ROLE = re.compile(r":(?:func|class|mod|meth|attr|data|exc):`([^`]+)`")


def references() -> Iterator[tuple[str, str]]:
    """``(module, name)`` for each cross-reference in a docstring or a comment of the source."""
    for name in modules():
        path = SOURCE / name.replace(".", "/")
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        for found in ROLE.findall(text):
            yield name, found


def resolves(module: str, reference: str) -> bool:
    """Whether a reference means something: in its own module, in the face of its package, or as a whole path."""
    reference = reference.split("<")[-1].rstrip(">").lstrip("~").removesuffix("()")
    here = importlib.import_module(f"funcebm.{module}")
    face = importlib.import_module(here.__name__.rpartition(".")[0])
    return any(_has(place, reference.split(".")) for place in (here, face)) or _is_importable(reference)


def _has(value: Any, names: list[str]) -> bool:
    for name in names:
        fields = getattr(value, "_fields", ()) or getattr(value, "__annotations__", {})
        if not hasattr(value, name):
            return name in fields
        value = getattr(value, name)
    return True


def _is_importable(reference: str) -> bool:
    names = reference.split(".")
    if any(reference.startswith(f"{old}.") or reference == old for old in _deprecated.MOVED):
        return False
    for num in range(len(names), 0, -1):
        try:
            module = importlib.import_module(".".join(names[:num]))
        except ImportError:
            continue
        return _has(module, names[num:])
    return False
