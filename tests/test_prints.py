"""What a reader sees: ``print(samples)`` and ``print(fit)`` in ten lines."""

import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import losses, optimizers, random, reducers, samplers


def energy(params, x):
    return params * (x["a"] ** 2).sum() / 2 + (x["b"] ** 2).sum()


SAMPLER = samplers.hmc(energy, step_size=0.5, num_leapfrog=3)
STARTS = {"a": torch.zeros(4, 2), "b": torch.zeros(4, 3)}


def _sample(**options):
    return ebm.sample(random.key(0), SAMPLER, torch.tensor(1.0), STARTS, num_samples=20, jit=False, **options)


def test_samples_say_shapes_and_health():
    samples = _sample()
    text = str(samples)
    assert text == repr(samples)
    assert len(text.splitlines()) <= 10
    for part in ("4 chains x 20 draws", "a (4, 20, 2) float32", "b (4, 20, 3) float32", "acceptance rate", "0 of 80"):
        assert part in text
    broken = samples._replace(draws={"a": torch.full((4, 20, 2), torch.nan)})
    assert "not finite" in str(broken)
    assert "interrupted" in str(samples._replace(is_complete=False))


def test_samples_that_were_reduced_or_kept_nothing_print():
    assert "reduced" in str(_sample(reduce=reducers.mean()))
    assert "4 chains" in str(_sample(collect=lambda state, info: ()))


def test_printing_inside_of_vmap_says_shapes():
    seen = []

    def run(params):
        samples = ebm.sample(random.key(0), SAMPLER, params, STARTS, num_samples=5, jit=False)
        seen.append(str(samples))
        return samples.draws["a"]

    vmap(run)(torch.ones(2))
    assert "4 chains x 5 draws" in seen[0] and "transform" in seen[0]


def test_a_fit_says_shapes_and_what_the_metrics_did():
    quadratic = lambda params, x: params * (x**2).sum() / 2  # noqa: E731
    loss = losses.persistent_contrastive_divergence(
        quadratic, lambda energy: samplers.langevin(energy, step_size=0.1), 3, buffer_size=50
    )
    data = random.normal(random.key(0), (50, 2))
    arguments = {"optimizer": optimizers.adam(0.01), "num_steps": 30, "batch_size": 10, "jit": False}
    fit = ebm.fit(random.key(1), loss, torch.tensor(1.0), data, **arguments)
    text = str(fit)
    assert text == repr(fit)
    assert len(text.splitlines()) <= 10
    for part in ("30 steps, complete", "loss", "energy_gap", "0 steps skipped", "acceptance_rate"):
        assert part in text
    assert "too steep" in str(fit._replace(is_complete=False, report="too steep"))
