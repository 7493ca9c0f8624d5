"""What a user's editor knows: the types of what ``sample``, ``fit`` and ``jit`` give."""

import os
import pathlib
import subprocess
import sys

import pytest

import funcebm

SCRIPT = """
import torch
import funcebm as ebm

def energy(params: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return params * (x**2).sum() / 2

sampler = ebm.samplers.mala(energy, step_size=0.5)
samples = ebm.sample(ebm.random.key(0), sampler, torch.tensor(1.0), torch.zeros(4, 2), num_samples=10)
reveal_type(sampler)
reveal_type(samples)
reveal_type(samples.info.acceptance_rate)
reveal_type(ebm.jit(energy))
loss = ebm.losses.contrastive_divergence(energy, lambda energy: ebm.samplers.langevin(energy), 5)
fit = ebm.fit(ebm.random.key(1), loss, torch.tensor(1.0), torch.zeros(9, 2), optimizer=ebm.optimizers.adam(0.1), num_steps=2)
reveal_type(fit)
ebm.samplers.mala(energy, step_sise=0.5)
"""


@pytest.mark.slow
def test_a_type_checker_knows_what_a_user_writes(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--follow-imports=silent", "script.py"]
    environment = {**os.environ, "MYPYPATH": str(pathlib.Path(funcebm.__file__).parent.parent)}
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment).stdout
    for words in ("types.Sampler", "_run.Samples", '"torch._tensor.Tensor"', "result.Fit", "step_sise"):
        assert words in found, found
    assert "def (params: torch" in found and "-> torch._tensor.Tensor" in found, found
    assert found.count("error:") == 1, found
