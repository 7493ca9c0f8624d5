"""On a torch that nobody tried, a trial program decides whether anything is compiled."""

import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch

from funcebm import _trial as trial
from funcebm._torch import jitting, native


@pytest.fixture
def kept(monkeypatch):
    """The cache folder, in memory; and warnings of this process as if there were none before."""
    files = {}
    monkeypatch.setattr(native, "read", files.get)
    monkeypatch.setattr(native, "write", files.__setitem__)
    jitting.warn_once.cache_clear()
    return files


def test_tested_versions_and_others():
    assert all(map(trial.is_tested, ("2.11.0", "2.13.0+cpu", "2.15.1+cu130")))
    assert not any(map(trial.is_tested, ("2.10.1", "2.16.0.dev20261201", "3.0.0", "unknown")))


@pytest.mark.compiled
def test_the_trial_program_is_right_here_and_runs_once(kept, monkeypatch):
    with pytest.warns(RuntimeWarning, match=rf"this is {re.escape(torch.__version__)}\. A trial program compiled"):
        assert trial.why_not() is None
    monkeypatch.setattr(jitting, "call", None)  # what is kept is not tried again
    assert trial.why_not() is None


def test_a_compiler_that_fails_is_told(kept, monkeypatch):
    def call(*args):
        raise AttributeError("module 'torch._inductor' has no attribute 'graph'")

    monkeypatch.setattr(jitting, "call", call)
    with pytest.warns(RuntimeWarning, match="was tested on torch"):
        why = trial.why_not()
    assert "does not compile" in why and "AttributeError: module 'torch._inductor' has no attribute 'graph'" in why
    assert trial.why_not() == why


def test_other_numbers_are_found(kept, monkeypatch):
    def call(function, leaves, structure):
        last, *others = function(*leaves)
        return last + 0.01, *others

    monkeypatch.setattr(jitting, "call", call)
    with pytest.warns(RuntimeWarning, match="was tested on torch"):
        assert "other numbers compiled than eager" in trial.why_not()


def test_an_unknown_torch_whose_trial_fails_runs_eagerly(tmp_path):
    text = """
        import warnings, torch
        torch.__version__ = "9.9.0"
        import funcebm as ebm
        from funcebm._torch import jitting
        def call(*args): raise OSError("no")
        jitting.call = call
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print(ebm.jit(lambda x: 2 * x)(torch.ones(2)).tolist(), ebm.transforms.can_compile())
        print(*[str(each.message) for each in caught], sep="\\n")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        env={**os.environ, "FUNCEBM_CACHE_DIR": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("[2.0, 2.0] False\n")
    assert "funcebm runs eagerly: a trial program does not compile on torch 9.9.0: OSError: no." in run.stdout
