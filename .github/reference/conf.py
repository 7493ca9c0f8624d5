"""The API reference, built from the docstrings: ``python -m sphinx -n -W .github/reference reference``."""

import importlib
import inspect
import pathlib
import sys
from typing import Any

import funcebm

project, author, release = "funcebm", "the authors of funcebm", funcebm.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # attributes are a table, not objects of their own
autodoc_typehints = "none"  # signatures show them as they are written
autodoc_member_order = "bysource"
html_theme = "alabaster"
html_theme_options = {"description": "Energy-based models as pure functions", "page_width": "1100px"}
exclude_patterns = ["reference"]
nitpick_ignore_regex = [("py:.*", r"torch\..*"), ("py:.*", r".*\._.*")]

HERE = pathlib.Path(__file__).parent
MODULES = [name for name in funcebm.__all__ if inspect.ismodule(getattr(funcebm, name))]


def _page(name: str) -> str:
    """One page for a module: its docstring, and all that it says is public, where it is defined."""
    module = getattr(funcebm, name)
    title = f"funcebm.{name}"
    lines = [title, "=" * len(title), "", f".. automodule:: {module.__name__}", "   :no-members:", ""]
    lines += [f".. py:currentmodule:: {module.__name__}", ""]
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.ismodule(value):
            lines += [f"See :mod:`{value.__name__}`.", ""]
            continue
        kind = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"
        lines += [f".. auto{kind}:: {module.__name__}.{public}", *(["   :members:"] if kind == "class" else []), ""]
    return "\n".join(lines)


def _write(path: str, text: str) -> None:
    (HERE / path).write_text(text, encoding="utf-8")


for _name in MODULES:
    _write(f"{_name}.rst", _page(_name))
_write("index.rst", "\n".join(["funcebm", "=======", "", ".. automodule:: funcebm", "   :no-members:", "",
                               ".. toctree::", "   :maxdepth: 1", "", *(f"   {name}" for name in MODULES)]))  # fmt: skip


# -- references -----------------------------------------------------------------------------------------------------

_PUBLIC = {
    id(getattr(getattr(funcebm, name), public)): f"funcebm.{name}.{public}"
    for name in MODULES
    for public in getattr(funcebm, name).__all__
}


def _found(target: str, module: str) -> Any:
    """What a reference means: in its own module, or as a whole path; None where it means nothing."""
    names = target.split(".")
    files = [
        name for name in sys.modules if name.startswith(f"{module}.")
    ]  # where a name of the package's face may live
    whole = [(".".join(names[:num]), names[num:]) for num in range(len(names), 0, -1)]
    for start, rest in [(module, names), *((name, names) for name in files), *whole]:
        try:
            value = importlib.import_module(start)
            for name in rest:
                value = getattr(value, name)
        except (ImportError, AttributeError, DeprecationWarning):
            continue
        return value
    return None


def _resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """References to what is public under another name, and to what exists without a page; others stay errors."""
    found = _found(node["reftarget"], node.get("py:module") or "funcebm")
    if found is None:
        return None
    name = _PUBLIC.get(id(found), "")
    domain = env.get_domain("py")
    if not name:
        return content
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content) or content


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", _resolve)
