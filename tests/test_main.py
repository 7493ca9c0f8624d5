"""The command line: what it refuses, and one short run of each data set to the end."""

import builtins
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from funcebm import __main__ as command
from funcebm import demo, random

TOPICS = ("data ", "energy ", "training ", "sampling ", "scoring ", "novelty ", "time ", "picture ")


def refused(capsys, *arguments):
    """The one line on stderr."""
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert err.startswith("python -m funcebm: error: ")
    return err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in ("--data", "--seed", "--out", "--steps", "--draws", "--no-jit", "--device"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--colour", "red"], "unrecognized arguments: --colour"),
        (["--data", "cats"], "invalid choice: 'cats'"),
        (["--steps", "-5"], "argument --steps: must be 1 or more, got -5"),
        (["--steps", "0"], "argument --steps: must be 1 or more, got 0"),
        (["--steps", "1.5"], "argument --steps: '1.5' is not a whole number"),
        (["--draws", "3"], "argument --draws: must be 4 or more, got 3"),
        (["--seed", "-1"], "argument --seed: must be 0 or more, got -1"),
        (["--seed", "one"], "argument --seed: 'one' is not a whole number"),
        (["--device", "toaster"], "argument --device: cannot use 'toaster'"),
        (["--out", "picture.jpg"], "argument --out: 'picture.jpg' must end in .png"),
        (["--out", "no/such/folder/a.png"], "argument --out: cannot write 'no/such/folder/a.png': No such file"),
    ],
)
def test_bad_options_get_one_line(capsys, arguments, words):
    assert words in refused(capsys, *arguments)


def test_a_folder_is_no_picture(capsys, tmp_path):
    (tmp_path / "a.png").mkdir()
    assert "Is a directory" in refused(capsys, "--out", str(tmp_path / "a.png"))


def test_a_folder_that_is_a_file(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refused(capsys, "--out", str(tmp_path / "file" / "a.png"))


def test_the_default_picture_is_checked_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "funcebm_digits.png").mkdir()
    assert "cannot write 'funcebm_digits.png'" in refused(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_here(capsys):
    assert "argument --device: cannot use 'cuda'" in refused(capsys, "--device", "cuda")


@pytest.mark.parametrize(("module", "package"), [("matplotlib", "matplotlib"), ("sklearn", "scikit-learn")])
def test_a_missing_library_is_named_with_the_command(capsys, monkeypatch, tmp_path, module, package):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == module else find_spec(name, *a))
    err = refused(capsys, "--out", str(tmp_path / "a.png"))
    assert f"{package} is not installed. Run: pip install {package}" in err


def test_moons_need_no_scikit_learn(monkeypatch):
    original = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert demo.TASKS["two_moons"](random.key(0)).train.shape == (2500, 2)


@pytest.mark.parametrize("name", sorted(demo.TASKS))
def test_a_short_run_to_the_end(capsys, tmp_path, name):
    import matplotlib.image

    out = tmp_path / "picture.png"
    arguments = ["--data", name, "--steps", "20", "--draws", "4", "--no-jit", "--seed", "3", "--out", str(out)]
    assert command.main(arguments) == 0
    report = capsys.readouterr().out
    for topic in TOPICS:
        assert f"\n{topic}" in f"\n{report}"
    for words in (
        "step      20 ",
        "held-out data",
        "acceptance rate",
        "divergences",
        "R-hat",
        "ESS",
        "AUROC",
        "compile",
    ):
        assert words in report
    assert str(out) in report
    picture = matplotlib.image.imread(out)
    assert min(picture.shape[:2]) > 500
    assert picture.std() > 0.1
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_two_ranks_report_what_one_reports(tmp_path):
    """Once, and the same numbers as far as they are printed in the first steps."""
    root = Path(__file__).parents[1] / "src"
    reports = []
    for ranks in ("1", "2"):
        arguments = ["--data", "two_moons", "--steps", "8", "--draws", "4", "--no-jit", "--ranks", ranks]
        call = [sys.executable, "-m", "funcebm", *arguments, "--out", str(tmp_path / f"{ranks}.png")]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        result = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=True, env=environment)
        reports.append([line for line in result.stdout.splitlines() if line.strip().startswith(("step", "held-out"))])
    first, second = ([float(word) for word in re.findall(r"[0-9.]*[0-9]", " ".join(lines))] for lines in reports)
    assert len(reports[0]) > 4
    assert second == pytest.approx(first, rel=1e-3, abs=2e-3)


def test_ranks_are_on_cpus(capsys, monkeypatch):
    monkeypatch.setattr(command, "_device", lambda text: torch.device("meta"))
    with pytest.raises(SystemExit):
        command.main(["--data", "two_moons", "--ranks", "2", "--device", "meta"])
    assert "torchrun -m funcebm" in capsys.readouterr().err


def test_tasks_hold_out_what_they_do_not_train_on():
    task = demo.TASKS["digits"](random.key(0))
    assert len(task.train) + len(task.held_out) == 1797
    assert float(torch.cdist(task.held_out, task.train).min()) > 0


def test_it_runs_as_a_module():
    root = Path(__file__).parents[1] / "src"
    result = subprocess.run(
        [sys.executable, "-m", "funcebm", "--steps", "none"], capture_output=True, text=True, cwd=root, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert "'none' is not a whole number" in result.stderr
    assert result.stderr.count("\n") == 1
