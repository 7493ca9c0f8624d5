"""Energies that fail at a proposal, or that cannot work: rejections, and messages that say what to write."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import distributions as D
from torch.func import vmap

import funcebm as ebm
from funcebm import random, samplers, tree

from ..distributions import assert_mean

DOUBLE = torch.float64
KEY = random.key(0)


def _matrix(x):
    return torch.stack([x[0], x[1], x[1], x[2]]).reshape(2, 2)


def _lower(energy):
    """The energy of x where the matrix is positive definite, by hand."""

    def by_hand(p, x):
        inside = (x[0] > 0) & (x[0] * x[2] - x[1] ** 2 > 0)
        return torch.where(inside, energy(x), torch.inf)

    return by_hand


def _cholesky(p, x):
    return _matrix(x).diagonal().sum() - 2 * torch.linalg.cholesky(_matrix(x)).diagonal().log().sum()


def _cholesky_of_distribution(p, x):
    normal = D.MultivariateNormal(torch.zeros(2), covariance_matrix=_matrix(x))
    return _matrix(x).diagonal().sum() - normal.log_prob(torch.ones(2))


def _rounded(function):
    def energy(p, x):
        return function(torch.round(2 * _matrix(x)) / 2).sum() * 0 + (x**2).sum() / 2

    return energy


FAILING = {
    "cholesky": _cholesky,
    "multivariate_normal": _cholesky_of_distribution,
    "inv": _rounded(torch.linalg.inv),
    "inverse": _rounded(torch.inverse),
    "solve": _rounded(lambda a: torch.linalg.solve(a, torch.ones(2))),
    "matrix_power": _rounded(lambda a: torch.linalg.matrix_power(a, -1)),
    "lu_factor": _rounded(lambda a: torch.linalg.lu_factor(a)[0] / a.det()),
    "eigh": lambda p, x: torch.linalg.eigvalsh(_matrix(x.log())).sum() ** 2 + (x**2).sum(),
    "norm": lambda p, x: torch.linalg.norm(_matrix(torch.where(x > 2.5, torch.nan, x)), "nuc") + (x**2).sum(),
    "matrix_norm": lambda p, x: torch.linalg.matrix_norm(_matrix(torch.where(x > 2.5, torch.nan, x)), 2) + (x**2).sum(),
    "cond": lambda p, x: torch.linalg.cond(_matrix(x.log())).log() + (x**2).sum(),
    "tensorsolve": _rounded(lambda a: torch.linalg.tensorsolve(a.reshape(2, 1, 2), torch.ones(2, 1))),
    "tensorinv": _rounded(lambda a: torch.linalg.tensorinv(a.reshape(2, 1, 2), ind=2)),
    "solve_ex": _rounded(lambda a: torch.linalg.solve_ex(a, torch.ones(2), check_errors=True).result),
    "slogdet": lambda p, x: (x**2).sum() / 2 - torch.linalg.slogdet(torch.round(_matrix(x)) + 0 * _matrix(x)).logabsdet,
    "rank": lambda p, x: torch.where(torch.linalg.matrix_rank(_matrix(x.log())) >= 0, (x**2).sum(), torch.inf),
    "lstsq": lambda p, x: torch.linalg.lstsq(_matrix(x.log()), torch.eye(2)).solution.sum() * 0 + (x**2).sum(),
    "old_norm": lambda p, x: torch.norm(_matrix(torch.where(x > 2.5, torch.nan, x)), p="nuc") + (x**2).sum(),
    "norm_dim": lambda p, x: (
        torch.linalg.norm(_matrix(torch.where(x > 2.5, torch.nan, x)), 2, dim=(0, 1)) + (x**2).sum()
    ),
    "cholesky_inverse": lambda p, x: (x**2).sum() / 2 + 0 * torch.cholesky_inverse(torch.round(_matrix(x))).sum(),
    "svd": lambda p, x: torch.linalg.svdvals(_matrix(x.log())).sum() + (x**2).sum(),
}
STARTS = torch.tensor([[2.0, 0.1, 2.0]]).expand(16, 3).contiguous()


@pytest.mark.parametrize("name", list(FAILING))
@pytest.mark.parametrize("make", [samplers.random_walk, samplers.hmc], ids=["random_walk", "hmc"])
def test_linear_algebra_that_fails_is_a_rejection(name, make):
    size = 0.8 if make is samplers.random_walk or name not in ("eigh", "svd", "rank", "multivariate_normal") else 0.02
    sampler = make(FAILING[name], step_size=size)
    starts = STARTS.abs() + 0.05
    samples = ebm.sample(KEY, sampler, (), starts, num_samples=15, jit=False)
    assert torch.isfinite(samples.draws).all()
    divergent = samples.info.is_divergent
    assert samples.info.is_accepted.any() and (divergent.any() or size < 0.1)
    before = torch.cat([starts[:, None], samples.draws[:, :-1]], 1)
    assert torch.equal(samples.draws[divergent], before[divergent])  # a rejection, in that chain
    if name == "cholesky":
        by_hand = make(_lower(lambda x: x[0] + x[2] - (x[0] * x[2] - x[1] ** 2).log()), step_size=0.8)
        same = ebm.sample(KEY, by_hand, (), starts, num_samples=15, jit=False)
        assert torch.equal(same.info.is_accepted, samples.info.is_accepted)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "name", ["cholesky", *(pytest.param(n, marks=pytest.mark.slow) for n in ("multivariate_normal", "solve", "eigh"))]
)
def test_compiled_it_is_the_same_rejection(name):
    sampler = samplers.random_walk(FAILING[name], step_size=0.8)
    run = lambda jit: ebm.sample(KEY, sampler, (), STARTS.abs() + 0.05, num_samples=15, jit=jit)  # noqa: E731
    a, b = run(True), run(False)
    assert torch.equal(a.info.is_divergent, b.info.is_divergent) and b.info.is_divergent.any()
    torch.testing.assert_close(a.draws, b.draws)


def test_softabs_metrics_that_overflow_are_rejections():
    def energy(p, x):
        return 0.4 * (x**2).sum() + (x**4).sum() / 10 + torch.sin(x.sum()) + 0.3 * (x[1:] * x[:-1]).sum()

    sampler = samplers.riemannian_hmc(energy, samplers.softabs(energy, alpha=2.0), step_size=0.2, num_leapfrog=2)
    starts = 0.7 * random.normal(random.key(1), (6, 3), dtype=DOUBLE)
    samples = ebm.sample(random.key(17), sampler, (), starts, num_samples=8, jit=False)
    assert torch.isfinite(samples.draws).all()
    assert 0 < float(samples.info.is_divergent.double().mean()) < 0.3
    assert float(samples.info.acceptance_rate.mean()) > 0.6


SUPPORTS = {
    "half_normal": (lambda p, x: -D.HalfNormal(1.0).log_prob(x).sum(), math.sqrt(2 / math.pi)),
    "gamma": (lambda p, x: -D.Gamma(2.0, 1.0).log_prob(x).sum(), 2.0),
    "exponential": (lambda p, x: -D.Exponential(2.0).log_prob(x).sum(), 0.5),  # finite below 0, but for the check
    "uniform": (lambda p, x: -D.Uniform(0.0, 5.0).log_prob(x).sum(), 2.5),
    "independent": (lambda p, x: -D.Independent(D.Exponential(torch.ones(2)), 1).log_prob(x), 1.0),
    "scale_of_position": (
        lambda p, x: -D.Normal(0.0, x[0]).log_prob(torch.tensor(0.0)) + x.sum() + 0 * D.Gamma(x, 1.0).mean.sum(),
        None,
    ),
    "beta": (lambda p, x: -D.Beta(2.0, 1.0).log_prob(x).sum(), 2 / 3),
    # p (1 - p); torch sets items by masks
    "geometric": (lambda p, x: -D.Geometric(x).log_prob(torch.ones(2)).sum(), 0.5),
    "multinomial": (lambda p, x: -D.Multinomial(2, torch.stack([x, 1 - x], -1)).log_prob(torch.ones(2, 2)).sum(), 0.5),
}


@pytest.mark.parametrize("name", list(SUPPORTS))
def test_outside_of_a_support_is_a_rejection_and_checks_are_as_before(name):
    energy, mean = SUPPORTS[name]
    starts = random.exponential(KEY, (1500, 2), dtype=DOUBLE).clamp(0.05, 0.95)
    sampler = samplers.random_walk(energy, step_size=1.0)
    samples = ebm.sample(KEY, sampler, (), starts, num_samples=1, num_burn_in=100, jit=False)
    assert (samples.draws > 0).all()
    if mean is not None:
        assert_mean(samples.draws[:, 0], mean)
    with pytest.raises(ValueError, match="support"):
        D.Exponential(1.0).log_prob(torch.tensor(-1.0))
    assert D.Distribution.__init__.__qualname__ == "Distribution.__init__"
    assert "log_prob" not in vars(D.Exponential(1.0))


def test_checks_that_a_user_switched_off_stay_off():
    unchecked = lambda p, x: -D.Exponential(1.0, validate_args=False).log_prob(x).sum() + (x**2).sum()  # noqa: E731
    samples = ebm.sample(
        KEY, samplers.random_walk(unchecked, step_size=1.0), (), torch.ones(9, 2), num_samples=20, jit=False
    )
    assert (samples.draws < 0).any()


@pytest.mark.compiled
def test_compiled_supports_are_the_same():
    energies = [SUPPORTS[name][0] for name in ("exponential", "independent", "scale_of_position", "geometric")]
    sampler = samplers.random_walk(lambda p, x: sum(energy(p, x) for energy in energies), step_size=1.0)
    run = lambda jit: ebm.sample(KEY, sampler, (), torch.ones(6, 2) / 2, num_samples=20, jit=jit)  # noqa: E731
    a, b = run(True), run(False)
    assert torch.equal(a.info.is_divergent, b.info.is_divergent) and b.info.is_divergent.any()
    torch.testing.assert_close(a.draws, b.draws)


# -- energies that cannot work ------------------------------------------------------------------------------------


def _writes(p, x):
    x += 1
    return (x**2).sum()


def _multiplies(p, x):
    x.mul_(2)
    return (x**2).sum()


def _assigns(p, x):
    x[0] = 0
    return (x**2).sum()


def _clamps(p, x):
    return (x["a"].mul_(0.5) ** 2).sum()


@pytest.mark.parametrize("energy", [_writes, _multiplies, _assigns, _clamps])
@pytest.mark.parametrize("name", ["random_walk", "elliptical_slice", "mala", "nuts", "langevin"])
def test_an_energy_that_writes_into_its_position_is_an_error_and_starts_stay(energy, name):
    sampler = getattr(samplers, name)(energy)
    starts = -torch.ones(3, 2)
    given = {"a": starts} if energy is _clamps else starts
    for run in (ebm.sample, ebm.warm_up):
        with pytest.raises(ValueError, match=r"must not change its position in place.*x.clone"):
            run(KEY, sampler, (), given, **{"num_samples" if run is ebm.sample else "num_steps": 3}, jit=False)
        assert torch.equal(starts, -torch.ones(3, 2))


def _branch(p, x):
    return (x**2).sum() if x[0] > 0 else (x**4).sum()


def _item(p, x):
    return (x**2).sum() * x[0].item()


def _numpy(p, x):
    return torch.as_tensor((x.numpy() ** 2).sum())


def _loop(p, x):
    while (x**2).sum() > 1:
        x = x / 2
    return (x**2).sum()


def _mask(p, x):
    return (x[x > 0] ** 2).sum()


def _float(p, x):
    return float(x[0]) * (x**2).sum()


@pytest.mark.parametrize("energy", [_branch, _item, _numpy, _loop, _mask, _float])
@pytest.mark.parametrize("name", ["random_walk", "mala", "nuts", "barker"])
def test_control_flow_on_numbers_names_the_line_and_what_to_write(energy, name):
    with pytest.raises(ebm.transforms.TracedValueError, match=rf"in {energy.__name__}, .*torch.where"):
        ebm.sample(KEY, getattr(samplers, name)(energy), (), torch.ones(4, 2), num_samples=3, jit=False)


@pytest.mark.parametrize(
    "energy", [lambda p, x: (x > 0).all(), lambda p, x: (x > 0).sum(), lambda p, x: x.sum().long()]
)
@pytest.mark.parametrize("name", ["random_walk", "elliptical_slice"])
def test_a_bool_or_integer_energy_says_so(energy, name):
    with pytest.raises(TypeError, match=r"must return a floating-point number\. Got torch\.(bool|int64).*torch.where"):
        ebm.sample(KEY, getattr(samplers, name)(energy), (), torch.ones(4, 2), num_samples=3, jit=False)


DETACHED = {
    "detach": lambda p, x: (x.detach() ** 2).sum(),
    "data": lambda p, x: (x.data**2).sum(),
    "round": lambda p, x: x.round().abs().sum() + (10 * x).floor().sum(),
    "tensor": lambda p, x: (x > 0.2).to(x.dtype).sum(),
}


@pytest.mark.parametrize("name", list(DETACHED))
@pytest.mark.parametrize("make", [samplers.mala, samplers.hmc, samplers.nuts], ids=["mala", "hmc", "nuts"])
def test_a_gradient_that_is_zero_where_the_energy_differs_is_an_error(name, make):
    starts = torch.linspace(-2, 2, 8).reshape(4, 2)
    with pytest.raises(ValueError, match=r"must have a gradient where it differs.*detach"):
        ebm.sample(KEY, make(DETACHED[name]), (), starts, num_samples=3, jit=False)


def test_flat_energies_and_starts_at_modes_are_none():
    for energy in (lambda p, x: 0 * x.sum(), lambda p, x: ((x**2 - 1) ** 2).sum(), lambda p, x: torch.zeros(())):
        starts = torch.tensor([[1.0], [-1.0], [0.0]])
        ebm.sample(KEY, samplers.mala(energy), (), starts, num_samples=2, jit=False)


@pytest.mark.parametrize("make", [samplers.mala, samplers.random_walk, samplers.langevin])
def test_a_log_density_in_place_of_an_energy_is_told_by_the_summary(make):
    def told(energy, starts):
        run = ebm.sample(KEY, make(energy, step_size=0.3), (), starts, num_samples=100, jit=False)
        return "The energy still falls" in str(ebm.diagnostics.summary(run))

    near = 0.5 * random.normal(KEY, (4, 2))
    assert told(lambda p, x: -(x**2).sum() / 2, near)
    assert told(lambda p, x: -x.abs().sum(), near)
    assert not told(lambda p, x: (x**2).sum() / 2, near)
    assert not told(lambda p, x: (x**2).sum() / 2 - 1e3, near)
    assert not told(lambda p, x: torch.zeros(()), near)
    assert told(lambda p, x: 0.002 * (x**2).sum(), 100 + near)  # chains on their way


def test_rounding_of_large_energies_is_told():
    run = lambda shift, dtype: ebm.sample(  # noqa: E731
        KEY,
        samplers.mala(lambda p, x: (x**2).sum() / 2 + shift, step_size=0.5),
        (),
        torch.zeros(4, 1, dtype=dtype),
        num_samples=50,
        jit=False,
    )
    told = lambda *given: "rounding" in str(ebm.diagnostics.summary(run(*given)))  # noqa: E731
    assert told(1e8, torch.float32) and told(-3e6, torch.float32)
    assert not told(1e8, torch.float64) and not told(1e4, torch.float32)
    report = ebm.diagnostics.sampler_report(run(1e8, torch.float32))
    assert report.energy_rounding == pytest.approx(1e8 * 2**-23)


# -- dtypes, params, samplers -------------------------------------------------------------------------------------


def test_mixed_dtypes_are_a_sentence_with_both_and_the_fix():
    energy, params = ebm.energies.mlp(KEY, 2, hidden=(4,))
    data = torch.zeros(20, 2, dtype=DOUBLE)
    loss = ebm.losses.denoising_score_matching(energy, 0.1)
    options = {"optimizer": ebm.optimizers.sgd(1e-3), "num_steps": 2, "batch_size": 5, "jit": False}
    both = r"params (and|of).*torch.float32.*torch.float64.*torch.to|Convert"
    with pytest.raises(TypeError, match=both):
        ebm.sample(KEY, samplers.mala(energy), params, data, num_samples=2, jit=False)
    with pytest.raises(TypeError, match=both):
        ebm.warm_up(KEY, samplers.random_walk(energy), params, data, num_steps=2, jit=False)
    with pytest.raises(TypeError, match=both):
        ebm.fit(KEY, loss, params, data, **options)
    with pytest.raises(TypeError, match=r"data of torch.float16"):
        ebm.fit(KEY, loss, params, data.half(), **options)
    with pytest.raises(TypeError, match=r"data of torch.uint8.*data.float\(\) / 255"):
        ebm.fit(KEY, loss, params, data.to(torch.uint8), **options)


@pytest.mark.compiled
def test_mixed_dtypes_compiled_are_the_same_sentence_or_kept():
    energy, params = ebm.energies.mlp(KEY, 2, hidden=(4,))
    with pytest.raises(TypeError, match=r"params and positions must have one.*torch.float32.*torch.float64"):
        ebm.sample(KEY, samplers.mala(energy), params, torch.zeros(3, 2, dtype=DOUBLE), num_samples=2, jit=True)
    starts = {"a": random.normal(KEY, (4, 2)), "b": random.normal(KEY, (4, 3)).double()}
    sampler = samplers.ghmc(lambda p, x: (x["a"] ** 2).sum() / 2 + (x["b"] ** 2).sum() / 2)
    one, other = (ebm.sample(KEY, sampler, (), starts, num_samples=2, jit=jit) for jit in (True, False))
    assert tree.map(lambda leaf: leaf.dtype, one.state) == tree.map(lambda leaf: leaf.dtype, other.state)
    torch.testing.assert_close(one.draws, other.draws)


@pytest.mark.parametrize(
    "name",
    ["langevin", "mala", "barker", "random_walk", "elliptical_slice", "hmc", "ghmc", "mclmc", "adjusted_mclmc", "nuts"],
)
def test_leaves_of_several_dtypes_keep_theirs(name):
    starts = {"a": random.normal(KEY, (4, 2)), "b": random.normal(KEY, (4, 3)).double()}
    sampler = getattr(samplers, name)(lambda p, x: (x["a"] ** 2).sum() / 2 + (x["b"] ** 2).sum() / 2)
    draws = ebm.sample(KEY, sampler, (), starts, num_samples=2, jit=False).draws
    assert draws["a"].dtype == torch.float32 and draws["b"].dtype == DOUBLE


def test_params_that_require_grad_warn_once():
    module = torch.nn.Linear(2, 1)
    energy = lambda p, x: (x @ p["weight"][0]) ** 2 + (x**2).sum()  # noqa: E731
    sampler = samplers.langevin(energy)
    params = dict(module.named_parameters())
    from funcebm.chains import _checks

    _checks._warned.clear()
    with pytest.warns(UserWarning, match=r"are detached here.*leaf.detach\(\)"):
        samples = ebm.sample(KEY, sampler, params, torch.zeros(3, 2), num_samples=3, jit=False)
    assert not samples.draws.requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ebm.sample(KEY, sampler, params, torch.zeros(3, 2), num_samples=3, jit=False)
    own = {"weight": torch.ones(1, 2, requires_grad=True)}
    with pytest.warns(UserWarning, match="keep the graph"):
        samples = ebm.sample(KEY, sampler, own, torch.ones(3, 2), num_samples=3, jit=False)
    assert torch.isfinite(torch.autograd.grad(samples.draws.sum(), own["weight"])[0]).all()
    gradient = torch.func.grad(
        lambda p: ebm.sample(KEY, sampler, p, torch.ones(3, 2), num_samples=3, jit=False).draws.sum()
    )(tree.map(lambda leaf: leaf.detach(), own))
    torch.testing.assert_close(
        gradient["weight"],
        torch.autograd.grad(
            ebm.sample(KEY, sampler, own, torch.ones(3, 2), num_samples=3, jit=False).draws.sum(), own["weight"]
        )[0],
    )


@pytest.mark.parametrize("run", [ebm.sample, ebm.warm_up])
def test_a_factory_in_the_place_of_a_sampler_says_to_call_it(run):
    options = {"num_samples" if run is ebm.sample else "num_steps": 3}
    with pytest.raises(
        TypeError, match=r"Got the function samplers.mala. Call it with an energy: samplers.mala\(energy\)"
    ):
        run(KEY, samplers.mala, (), torch.zeros(2, 2), **options)
    with pytest.raises(TypeError, match=r"sampler must be a funcebm.Sampler"):
        run(KEY, "nuts", (), torch.zeros(2, 2), **options)


def test_users_own_errors_keep_their_type():
    class OwnError(Exception):
        pass

    def energy(p, x):
        raise OwnError("mine")

    with pytest.raises(OwnError, match=r"^mine$"):
        ebm.sample(KEY, samplers.mala(energy), (), torch.zeros(2, 2), num_samples=3, jit=False)
    with pytest.raises(RuntimeError, match="size of tensor a"):
        ebm.sample(
            KEY, samplers.mala(lambda p, x: (x + torch.zeros(3)).sum()), (), torch.zeros(2, 2), num_samples=3, jit=False
        )
    assert vmap(lambda x: x)(torch.zeros(1)).shape == (1,)
