"""The skeletons of the contributing guide are samplers and losses: they import, run their doctests, and are right."""

import doctest
import importlib.util
import pathlib
import re

import pytest
import torch

from funcebm import chains, optimizers, random
from funcebm.training import fit
from tests.distributions import assert_covariance, assert_mean

GUIDE = pathlib.Path(__file__).parent.parent / ".github" / "CONTRIBUTING.md"


def _module(name, tmp_path):
    """The skeleton that is the file ``name`` of the guide, imported as a part of the package."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)
    package, function = name.split(".")
    (source,) = (block for block in blocks if f"def {function}(" in block)
    path = tmp_path / f"{function}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"funcebm.{package}.{function}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _energy(params, x):
    return params * (x**2).sum() / 2


@pytest.mark.parametrize("name", ["samplers.my_sampler", "losses.my_loss"])
def test_its_doctest_runs(name, tmp_path):
    module, function = _module(name, tmp_path), name.split(".")[1]
    example = doctest.DocTestParser().get_doctest(getattr(module, function).__doc__, vars(module), function, None, 0)
    results = doctest.DocTestRunner().run(example)
    assert results.attempted > 0 and results.failed == 0


def test_the_sampler_leaves_its_target_invariant(tmp_path):
    sampler = _module("samplers.my_sampler", tmp_path).my_sampler(_energy, step_size=1.0)
    starts = random.normal(random.key(1), (4000, 2), dtype=torch.float64) / 2**0.5
    samples = chains.sample(random.key(2), sampler, torch.tensor(2.0), starts, num_samples=5, jit=False)
    assert 0.2 < float(samples.info.acceptance_rate.mean()) < 0.9
    assert_mean(samples.draws[:, -1], torch.zeros(2))
    assert_covariance(samples.draws[:, -1], torch.eye(2) / 2)


def test_the_loss_is_minimised_where_it_is_zero(tmp_path):
    loss = _module("losses.my_loss", tmp_path).my_loss(_energy, 0.5)
    data = random.normal(random.key(3), (64, 2))
    arguments = {"optimizer": optimizers.adam(0.1), "num_steps": 200, "batch_size": 64, "jit": False}
    result = fit(random.key(4), loss, torch.tensor(1.0), data, **arguments)
    assert float(result.params.abs()) < 1e-2
