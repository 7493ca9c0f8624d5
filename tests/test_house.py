"""How the house is built: which room may import which, what is public, what a docstring has, which references lead somewhere."""

import importlib
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

import funcebm
from funcebm import _deprecated

from . import house

ROWS = [
    ["types"],
    ["_torch", "_threefry", "random", "tree"],
    ["checks", "_files", "_progress", "_deprecated", "distributed"],
    ["loops", "transforms", "_trial", "_chunks"],
    ["schedules", "fields", "metrics", "networks", "bijections", "spaces", "graphs", "pairwise"],
    ["energies", "paths", "couplings", "solvers"],
    ["integrators"],
    ["samplers", "flows"],
    ["adaptation", "chains", "normalizers"],
    ["losses"],
    ["optimizers", "training"],
    ["demo"],
]
"""Imports point up this list, or stay in a row."""

SIDE = {"diagnostics", "datasets", "plotting"}
LOW_SIDE = {"diagnostics"}
"""Statistics of draws, which import nothing but the lowest rooms: others may use them."""
FOR_SIDE = {"types", "random", "tree", "checks", "pairwise"}

HELPERS = {"checks", "loops", "metrics", "pairwise", "random", "transforms", "tree", "types"}
"""Rooms of small words, where one sentence may say what the arguments are."""

FUNCTIONS = house.public_functions()


def test_imports_point_downwards():
    floor = {name: number for number, row in enumerate(ROWS) for name in row}
    wrong = []
    for name in house.modules():
        here = house.room(name)
        assert here in floor or here in SIDE, f"say in ROWS where {here} stands"
        for target in house.imports(name):
            there = house.room(target)
            if here == there or there == "" or there in LOW_SIDE:
                continue
            allowed = there in FOR_SIDE if here in SIDE else floor[here] >= floor.get(there, len(ROWS))
            if not allowed and here != "demo":
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_no_circle_of_imports():
    done, path = set(), []

    def visit(name):
        if name in done:
            return
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        path.append(name)
        for target in sorted(house.imports(name)):
            if target and not name.startswith(f"{target}."):  # a package's face imports what is in it
                visit(target)
        path.pop()
        done.add(name)

    for name in house.modules():
        visit(name)


@pytest.mark.parametrize("name", ["torch._", "optree"])
def test_private_parts_of_torch_and_optree_have_one_place(name):
    homes = {"torch._": ["_torch"], "optree": ["tree", "meaning"]}
    for path in house.SOURCE.rglob("*.py"):
        where = path.relative_to(house.SOURCE)
        if where.parts[0] in homes[name] or where.stem in homes[name]:
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line.strip().startswith((f"import {name}", f"from {name}")), f"{where}: {line}"


def test_every_module_says_what_is_public_and_is_short():
    for path in house.SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(house.SOURCE)
        assert where.stem == "__main__" or "__all__" in text or "\ndef " not in text, f"{where} has no __all__"
        num_lines = sum(bool(line.strip()) for line in text.splitlines())
        assert num_lines <= 400, f"{where} has {num_lines} lines that are not blank: split it"


def test_dir_shows_what_is_public():
    assert dir(funcebm) == sorted([*funcebm.__all__, "__version__"])
    for module in house.public_modules():
        assert dir(module) == sorted(module.__all__), module.__name__


def test_no_public_name_is_lost():
    """``public_names.txt`` are the names of version 0.1; new ones need not be added before a release."""
    wanted = (pathlib.Path(__file__).parent / "public_names.txt").read_text(encoding="utf-8").split()
    for name in wanted:
        value = funcebm
        for part in name.split("."):
            assert hasattr(value, part), f"funcebm.{name} is gone"
            value = getattr(value, part)


def test_old_modules_warn_and_are_the_new_ones():
    for old, new in _deprecated.MOVED.items():
        sys.modules.pop(old, None)
        with pytest.warns(DeprecationWarning, match="has moved"):
            moved = importlib.import_module(old)
        assert moved is importlib.import_module(new)
        assert moved.__name__ == moved.__spec__.name == new


def _fall_short(lacks):
    """Those that lack something."""
    return sorted(name for name, function in FUNCTIONS.items() if lacks(name, function))


def test_every_public_function_has_a_doctest():
    def lacks(name, function):
        is_obvious = name.startswith("tree.") or ".is_" in name
        return ">>>" not in (function.__doc__ or "") and not is_obvious

    assert _fall_short(lacks) == []


def test_args_name_every_parameter():
    def lacks(name, function):
        return name.split(".")[0] not in HELPERS and set(house.parameters(function)) - house.described(function)

    assert _fall_short(lacks) == []


def test_every_public_function_says_what_it_returns():
    def lacks(name, function):
        return name.split(".")[0] not in HELPERS and "Returns" not in house.sections(function)

    assert _fall_short(lacks) == []


def test_what_raises_says_so():
    def lacks(name, function):
        return (
            name.split(".")[0] not in ("checks",)
            and house.raises(function)
            and "Raises" not in house.sections(function)
        )

    assert _fall_short(lacks) == []


def test_references_lead_somewhere():
    assert sorted({f"{name}: {found}" for name, found in house.references() if not house.resolves(name, found)}) == []


@pytest.mark.skipif(not (PYRIGHT := shutil.which("pyright") or shutil.which("basedpyright")), reason="no pyright")
def test_an_editor_knows_what_samples_tunings_and_losses_have():
    """Of ``user_script.py`` the lines that mypy is to ignore are errors, and no others."""
    script = pathlib.Path(__file__).parent / "user_script.py"
    command = [PYRIGHT, "--pythonpath", sys.executable, "--level", "error", "--outputjson", str(script)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    errors = {error["range"]["start"]["line"] for error in found["generalDiagnostics"]}
    lines = script.read_text(encoding="utf-8").splitlines()
    assert errors == {number for number, line in enumerate(lines) if "# type: ignore" in line}


def test_the_guards_can_tell():
    assert house.resolves("samplers.langevin", "mala")
    assert house.resolves("samplers.langevin", "~funcebm.tree.map")
    assert house.resolves("samplers.langevin", "torch.func.vmap")
    assert not house.resolves("samplers.langevin", "no_such_name")
    assert house.raises(funcebm.samplers.hmc)
    assert {"energy", "step_size"} <= house.described(funcebm.samplers.langevin)
    assert "chains._loop" in house.imports("chains._run")
