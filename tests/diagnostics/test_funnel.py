"""Neal's funnel in centred form is never passed in silence; the same target without its neck is."""

import pytest
import torch

from funcebm import chains, energies, random, samplers
from funcebm.diagnostics import summary

SAMPLERS = {
    "hmc, small steps": lambda energy: samplers.hmc(energy, step_size=0.1, num_leapfrog=8),
    "hmc, large steps": lambda energy: samplers.hmc(energy, step_size=0.5, num_leapfrog=8),
    "mala, small steps": lambda energy: samplers.mala(energy, step_size=0.03),
    "mala, large steps": lambda energy: samplers.mala(energy, step_size=0.3),
}


def noncentred(params, x):
    """The funnel with ``x_i = exp(x_0 / 2) z_i``: a Gaussian in ``(x_0, z)``."""
    return 0.5 * ((x[0] / params["scale"]) ** 2 + (x[1:] ** 2).sum())


@pytest.mark.parametrize("size", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("num_chains", "seed"), [(4, 0), (100, 2)])
def test_the_centred_funnel_is_reported(name, size, num_chains, seed):
    key_start, key_run = random.split(random.key(seed))
    params = energies.funnel.params()
    starts = energies.funnel.sample(key_start, params, num_chains, (size,))  # the best start there is
    run = chains.sample(
        key_run, SAMPLERS[name](energies.funnel), params, starts, num_samples=250, num_burn_in=50, jit=False
    )
    result = summary(run, min_ess=1.0)  # a low ESS, which any short run has, does not count
    assert result.warnings, str(result)
    if size == 10 and num_chains == 100:
        assert any("E-BFMI" in words for words in result.warnings), "the energies alone tell"


def test_the_noncentred_funnel_is_silent():
    key_start, key_run = random.split(random.key(3))
    params = energies.funnel.params()
    variances = torch.tensor([9.0] + 9 * [1.0])
    starts = random.normal(key_start, (4, 10)) * variances.sqrt()
    sampler = samplers.hmc(noncentred, step_size=0.55, num_leapfrog=3, inverse_mass=variances)
    result = summary(chains.sample(key_run, sampler, params, starts, num_samples=600, jit=False))
    assert result.warnings == (), str(result)
    assert abs(float(result.sd[0]) - 3) < 4 * float(result.mcse_sd[0])
