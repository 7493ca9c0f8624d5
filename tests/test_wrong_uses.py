"""What people do wrong, as a table: each ends in a message that says what must hold, what came and what to do."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

import funcebm as ebm
from funcebm import bijections, diagnostics, energies, losses, normalizers, optimizers, random, samplers, spaces

KEY = random.key(0)
X = torch.zeros(4, 2)
OPTIONS = {"optimizer": optimizers.sgd(0.1), "num_steps": 2, "batch_size": 2, "jit": False}


def quadratic(params, x):
    return (x**2).sum() / 2


def of_params(params, x):
    return params * (x**2).sum() / 2


SAMPLER = samplers.mala(quadratic, step_size=0.5)
LOSS = losses.score_matching(of_params)
ONE = torch.tensor(1.0)


def sample(sampler=SAMPLER, params=(), x=X, key=KEY, **options):
    return ebm.sample(key, sampler, params, x, **{"num_samples": 3, "jit": False, **options})


def energy(function, make=samplers.mala, x=X, params=()):
    return sample(make(function), params, x)


def warm(sampler=SAMPLER, x=X, **options):
    return ebm.warm_up(KEY, sampler, (), x, **{"num_steps": 10, "jit": False, **options})


def fit(loss=LOSS, params=ONE, data=X, **options):
    return ebm.fit(KEY, loss, params, data, **{**OPTIONS, **options})


def draws(function, value=None, *args, **options):
    return function(torch.zeros(2, 8) if value is None else value, *args, **options)


WRONG = {
    # keys
    "a seed for a key": lambda: sample(key=0),
    "a float seed": lambda: random.key(1.5),
    "a seed of text": lambda: random.key("0"),
    "an array of seeds": lambda: random.key(np.array([1, 2])),
    "many keys for one": lambda: random.normal(random.split(KEY, 3), (2,)),
    "no keys": lambda: random.split(KEY, 0),
    "an index beyond 32 bits": lambda: random.fold_in(KEY, 2**40),
    "a tensor index beyond 32 bits": lambda: random.fold_in(KEY, torch.tensor(2**40)),
    "a float index": lambda: random.fold_in(KEY, torch.tensor(0.5)),
    "a vector of indices": lambda: random.fold_in(KEY, torch.arange(3)),
    "normals of integers": lambda: random.normal(KEY, (2,), dtype=torch.int64),
    "an empty range": lambda: random.randint(KEY, (2,), 3, 3),
    "a torch generator for a key": lambda: sample(key=torch.Generator()),
    "a shape of a float": lambda: random.normal(KEY, 2.5),
    "a shape and a probability the wrong way round": lambda: random.bernoulli(KEY, (2,), 2.0),
    "a permutation of fewer than none": lambda: random.permutation(KEY, -1),
    "a range from high to low": lambda: random.uniform(KEY, (2,), 1.0, 0.0),
    "integers between floats": lambda: random.randint(KEY, (2,), 0.5, 3),
    "keys counted by text": lambda: random.split(KEY, "3"),
    "an array of indices": lambda: random.fold_in(KEY, np.arange(3)),
    "uniform integers": lambda: random.uniform(KEY, (2,), dtype=torch.int64),
    "a range without an end": lambda: random.uniform(KEY, (2,), high=float("inf")),
    "a category of none": lambda: random.categorical(KEY, torch.zeros(0)),
    # starts
    "no chain axis": lambda: sample(x=torch.tensor(1.0)),
    "no chains": lambda: sample(x=torch.zeros(0, 2)),
    "arrays as starts": lambda: sample(x=np.zeros((4, 2))),
    "lists as starts": lambda: sample(x=[1.0, 2.0]),
    "an empty tree of starts": lambda: sample(x={}),
    "integers for a gradient": lambda: sample(x=X.long()),
    "bools for a gradient": lambda: sample(x=X.bool()),
    "leaves of other lengths": lambda: energy(lambda p, x: (x["a"] ** 2).sum(), x={"a": X, "b": torch.zeros(3)}),
    "a NaN start": lambda: sample(x=X + torch.nan),
    "an infinite start": lambda: sample(x=X + torch.inf),
    "a start outside of the support": lambda: energy(lambda p, x: -x.log().sum(), x=X - 1),
    # arguments of sample
    "no draws": lambda: sample(num_samples=0),
    "half a draw": lambda: sample(num_samples=2.5),
    "draws counted by a tensor": lambda: sample(num_samples=torch.tensor(3)),
    "draws counted by a flag": lambda: sample(num_samples=True),
    "a negative burn-in": lambda: sample(num_burn_in=-1),
    "no thinning at all": lambda: sample(thin=0),
    "an empty chunk": lambda: sample(chunk_size=0),
    "a factory for a sampler": lambda: sample(samplers.mala),
    "an energy for a sampler": lambda: sample(quadratic),
    "a name for a sampler": lambda: sample("nuts"),
    "a tuning of another sampler": lambda: sample(tuning=samplers.hmc(quadratic).tuning),
    "a step size for a tuning": lambda: sample(tuning=0.1),
    "a negative step size in a tuning": lambda: sample(tuning=SAMPLER.tuning._replace(step_size=torch.tensor(-1.0))),
    "a float in a tuning": lambda: sample(tuning=SAMPLER.tuning._replace(step_size=0.1)),
    "compiling inside of vmap": lambda: torch.func.vmap(lambda x: sample(x=x, jit=True).draws)(torch.zeros(2, 4, 2)),
    "resuming draws": lambda: ebm.resume(sample().draws, num_samples=2),
    "resuming nothing": lambda: ebm.resume(sample(), num_samples=0),
    "resuming samples of a transform": lambda: ebm.resume(sample()._replace(run=()), num_samples=2),
    "saving draws": lambda: ebm.save(sample().draws, "x.safetensors"),
    "saving into no folder": lambda: ebm.save(sample(), "/no/such/folder/x.safetensors"),
    "loading by a factory": lambda: ebm.load("x.safetensors", samplers.mala),
    "checkpoints after no draws": lambda: sample(checkpoint="x.safetensors", checkpoint_every=0),
    "a module for params": lambda: sample(samplers.mala(of_params), torch.nn.Linear(2, 1)),
    "an iterator for params": lambda: sample(samplers.mala(of_params), torch.nn.Linear(2, 1).parameters()),
    "sparse starts": lambda: sample(x=X.to_sparse()),
    "collecting a float": lambda: sample(collect=lambda state, info: 1.0),
    "collecting nothing by None": lambda: sample(collect=lambda state, info: None),
    "reducing by a function": lambda: sample(reduce=torch.mean),
    "a reducer that is not built": lambda: sample(reduce=ebm.reducers.mean),
    "a list of reducers": lambda: sample(reduce=[ebm.reducers.mean()]),
    "checkpoints into no folder": lambda: sample(checkpoint="/no/such/folder/x.safetensors"),
    # energies
    "random numbers in an energy": lambda: energy(lambda p, x: (x**2).sum() + torch.randn(())),
    "noise like a position": lambda: energy(lambda p, x: (x * torch.rand_like(x)).sum(), samplers.random_walk),
    "dropout in an energy": lambda: energy(lambda p, x: torch.nn.functional.dropout(x, 0.5).sum()),
    "as many numbers as are positive": lambda: energy(lambda p, x: (x[torch.nonzero(x > 0)] ** 2).sum()),
    "different numbers": lambda: energy(lambda p, x: torch.unique(x).sum(), samplers.random_walk),
    "backward in an energy": lambda: energy(lambda p, x: (x**2).sum().backward()),
    "requires_grad_ in an energy": lambda: energy(lambda p, x: (x.requires_grad_() ** 2).sum()),
    "an energy of a batch": lambda: energy(lambda p, x: x**2),
    "an energy that returns a pair": lambda: energy(lambda p, x: ((x**2).sum(), x)),
    "an energy that returns nothing": lambda: energy(lambda p, x: None),
    "an energy that returns a float": lambda: energy(lambda p, x: 1.0),
    "an energy of bools": lambda: energy(lambda p, x: (x > 0).all(), samplers.random_walk),
    "an energy of counts": lambda: energy(lambda p, x: (x > 0).sum(), samplers.random_walk),
    "an if on a position": lambda: energy(lambda p, x: x.sum() if x[0] > 1 else -x.sum()),
    "item of a position": lambda: energy(lambda p, x: (x**2).sum() * x[0].item()),
    "float of a position": lambda: energy(lambda p, x: (x**2).sum() * float(x[0])),
    "numpy of a position": lambda: energy(lambda p, x: torch.as_tensor((x.numpy() ** 2).sum()), samplers.random_walk),
    "a mask of a position": lambda: energy(lambda p, x: (x[x > 0] ** 2).sum()),
    "a position changed in place": lambda: energy(lambda p, x: x.add_(1).sum(), samplers.random_walk),
    "params changed in place": lambda: energy(lambda p, x: p.add_(1) * x.sum(), samplers.random_walk, params=ONE.clone()),
    "params changed in place, differentiated": lambda: energy(lambda p, x: p.add_(1) * x.sum(), params=ONE.clone()),
    "numbers written into zeros": lambda: energy(lambda p, x: torch.zeros(3).scatter_(0, torch.tensor([0, 1]), x).sum()),
    "numbers assigned to zeros": lambda: energy(lambda p, x: torch.zeros(3).__setitem__(0, x[0])),
    "numbers added to zeros": lambda: energy(lambda p, x: torch.zeros(2).add_(x).sum(), samplers.random_walk),
    "results by out=": lambda: energy(lambda p, x: torch.add(x, 1, out=torch.zeros(2)).sum()),
    "results by out=, mapped": lambda: energy(lambda p, x: torch.add(x, 1, out=torch.zeros(2)).sum(), samplers.random_walk),
    "data of a position": lambda: energy(lambda p, x: (x.data**2).sum(), samplers.random_walk),
    "torch.autograd in an energy": lambda: energy(
        lambda p, x: torch.autograd.grad((x**2).sum(), x)[0].sum(), samplers.random_walk
    ),
    "a detached energy": lambda: energy(lambda p, x: (x.detach() ** 2).sum()),
    "float64 starts of a float32 network": lambda: energy(
        energies.mlp(KEY, 2, hidden=(4,))[0], x=X.double(), params=energies.mlp(KEY, 2, hidden=(4,))[1]
    ),
    "a module for an energy": lambda: samplers.mala(torch.nn.Linear(2, 1)),
    "a module for the energy of a loss": lambda: losses.score_matching(torch.nn.Linear(2, 1)),
    "a module for the energy of noise": lambda: losses.denoising_score_matching(torch.nn.Linear(2, 1), 0.1),
    "a module to be differentiated": lambda: ebm.fields.gradient(torch.nn.Linear(2, 1)),
    "a number for an energy": lambda: samplers.mala(3.0),
    "an energy called already": lambda: samplers.nuts(quadratic((), X)),
    "batch norm without statistics": lambda: energies.from_module(
        torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4, track_running_stats=False))
    ),
    "a lazy module": lambda: energies.from_module(torch.nn.LazyLinear(1)),
    "a function for a module": lambda: energies.from_module(quadratic),
    "a module of two outputs": lambda: energies.from_module(torch.nn.Linear(2, 2))[0](
        energies.from_module(torch.nn.Linear(2, 2))[1], torch.zeros(2)
    ),
    "params of another module": lambda: energies.load_into(torch.nn.Linear(2, 1), {"weight": torch.zeros(3, 3)}),
    "a product of nothing": lambda: energies.product(),
    "a product of numbers": lambda: energies.product(quadratic, 2.0),
    "a product with a module": lambda: energies.product(quadratic, torch.nn.Linear(2, 1)),
    "a mixture with a sampler": lambda: energies.mixture(quadratic, SAMPLER),
    "params of one for a product of two": lambda: energies.product(quadratic, quadratic)(((),), torch.zeros(2)),
    "a temperature of zero": lambda: energies.tempered(quadratic, 0.0),
    # samplers
    "a negative step": lambda: samplers.mala(quadratic, step_size=-0.1),
    "a step of zero": lambda: samplers.hmc(quadratic, step_size=0.0),
    "a step of NaN": lambda: samplers.langevin(quadratic, step_size=float("nan")),
    "no leapfrogs": lambda: samplers.hmc(quadratic, num_leapfrog=0),
    "half a leapfrog": lambda: samplers.hmc(quadratic, num_leapfrog=2.5),
    "a negative mass": lambda: samplers.hmc(quadratic, inverse_mass=torch.tensor([1.0, -1.0])),
    "a mass that is not definite": lambda: samplers.hmc(quadratic, inverse_mass=torch.ones(2, 2)),
    "a mass of another size": lambda: sample(samplers.hmc(quadratic, inverse_mass=torch.ones(5))),
    "a step of text": lambda: samplers.mala(quadratic, step_size="0.1"),
    "a list of steps": lambda: samplers.hmc(quadratic, step_size=[0.1]),
    "a depth of zero": lambda: samplers.nuts(quadratic, max_depth=0),
    "a refreshment above one": lambda: samplers.ghmc(quadratic, alpha=2.0),
    "a cycle of nothing": lambda: samplers.cycle(),
    "a cycle with a factory": lambda: samplers.cycle(SAMPLER, samplers.hmc),
    "weights among samplers": lambda: samplers.mix(SAMPLER, SAMPLER, [1, 2]),
    "more weights than samplers": lambda: samplers.mix(SAMPLER, SAMPLER, weights=[1, 2, 3]),
    "a number for weights": lambda: samplers.mix(SAMPLER, SAMPLER, weights=2),
    "text for weights": lambda: samplers.mix(SAMPLER, SAMPLER, weights="ab"),
    "weights by name": lambda: samplers.mix(SAMPLER, SAMPLER, weights={"a": 1, "b": 2}),
    "a weight of zero": lambda: samplers.mix(SAMPLER, SAMPLER, weights=[1, 0]),
    "thin by zero": lambda: samplers.thin(SAMPLER, 0),
    "thin an energy": lambda: samplers.thin(quadratic, 2),
    "a part that is not there": lambda: sample(samplers.on("z", samplers.mala, quadratic), x={"x": X}),
    "a factory for the rungs of a ladder": lambda: samplers.parallel_tempering(quadratic, samplers.hmc, [0.5, 1.0]),
    "a sampler for the rungs of a ladder": lambda: samplers.parallel_tempering(quadratic, SAMPLER, [0.5, 1.0]),
    "a function of two for the sampler of a part": lambda: samplers.on("x", lambda e, beta: samplers.hmc(e), quadratic),
    "a function of two for the sampler of a loss": lambda: losses.contrastive_divergence(of_params, lambda e, beta: SAMPLER, 2),
    "a sampler for one of the path of temperatures": lambda: normalizers.annealed_importance_sampling(
        KEY, quadratic, (), reference=energies.gaussian, reference_params=energies.gaussian.params(torch.zeros(2)),
        num_temperatures=3, sampler=SAMPLER,
    ),
    "one particle of svgd, constrained": lambda: sample(
        samplers.svgd(bijections.constrained(quadratic, bijections.positive)), x=X[:, 0] + 1
    ),
    "a ladder that does not begin at one": lambda: samplers.parallel_tempering(quadratic, samplers.mala, torch.zeros(3)),
    # warm-up
    "no steps": lambda: warm(num_steps=0),
    "an adaptation that is none": lambda: warm(adaptation="window"),
    "an adaptation that is not built": lambda: warm(adaptation=ebm.adaptation.window_adaptation),
    "a warm-up of a factory": lambda: warm(samplers.nuts),
    # constraints
    "three numbers for a simplex of three": lambda: bijections.simplex.inverse(torch.tensor([0.5, 0.5, 0.5])),
    "a matrix for a simplex": lambda: bijections.simplex.forward(torch.zeros(2, 2)),
    "five numbers for a correlation": lambda: bijections.correlation_cholesky.forward(torch.zeros(5)),
    "a power of a constrained energy": lambda: energies.tempered(bijections.constrained(quadratic, bijections.positive), 0.5),
    "a product of constrained energies": lambda: energies.product(
        quadratic, bijections.constrained(quadratic, bijections.positive)
    ),
    "a condition on a constrained energy": lambda: energies.conditioned(
        bijections.constrained(quadratic, {"a": bijections.positive}), {"a": X}
    ),
    "a wall around a constrained energy": lambda: energies.confined(bijections.constrained(quadratic, bijections.positive)),
    "a bound of another shape": lambda: sample(
        samplers.mala(bijections.constrained(quadratic, bijections.lower(torch.zeros(3)))), x=X + 1
    ),
    "a bound of NaN": lambda: bijections.lower(float("nan")),
    "a bound of text": lambda: bijections.interval("0", 1.0),
    "whole numbers for a bijection": lambda: bijections.positive.inverse(torch.ones(2).long()),
    "a bijection that is not called": lambda: bijections.constrained(quadratic, {"x": bijections.lower}),
    "a distribution for a bijection": lambda: bijections.constrained(quadratic, torch.distributions.HalfNormal(1.0)),
    "a constraint without a bijection": lambda: bijections.from_torch(torch.distributions.constraints.boolean),
    "a bijection of a name": lambda: bijections.constrained(quadratic, "positive"),
    "an energy that is none, constrained": lambda: bijections.constrained(3, bijections.positive),
    "negative starts of a scale": lambda: sample(samplers.mala(bijections.constrained(quadratic, bijections.positive)), x=X - 1),
    "an interval upside down": lambda: bijections.interval(1.0, 0.0),
    "compose nothing": lambda: bijections.compose(),
    # training
    "an energy for a loss": lambda: fit(quadratic),
    "a factory for an optimizer": lambda: fit(optimizer=optimizers.adam),
    "a torch optimizer": lambda: fit(optimizer=torch.optim.SGD([torch.zeros(2, requires_grad=True)], 0.1)),
    "no training steps": lambda: fit(num_steps=0),
    "a batch larger than the data": lambda: fit(batch_size=9),
    "no batch size": lambda: fit(batch_size=None),
    "arrays as data": lambda: fit(data=np.zeros((4, 2))),
    "a list of tensors as data": lambda: fit(data=[X, X]),
    "NaN in the data": lambda: fit(data=X + torch.nan),
    "no data": lambda: fit(data=X[:0]),
    "labels of another length": lambda: fit(data=(X, torch.zeros(3))),
    "integers as params": lambda: fit(params=torch.tensor(1)),
    "no params": lambda: fit(params=()),
    "an average above one": lambda: fit(ema_decay=1.5),
    "an average of text": lambda: fit(ema_decay="0.9"),
    "an if in an energy that is trained": lambda: fit(
        losses.denoising_score_matching(lambda p, x: (p * x).sum() if x[0] > 0 else x.sum(), 0.1)
    ),
    "dropout in an energy that is trained": lambda: fit(
        losses.score_matching(lambda p, x: torch.nn.functional.dropout(p * x, 0.5).pow(2).sum())
    ),
    "numpy in an energy that is trained": lambda: fit(losses.score_matching(lambda p, x: p * torch.tensor(x.numpy()).sum())),
    "a change in place in an energy that is trained": lambda: fit(losses.score_matching(lambda p, x: (p * x.add_(1)).sum())),
    "a rate of text": lambda: optimizers.adam("1e-3"),
    "a noise of text": lambda: losses.denoising_score_matching(of_params, "0.1"),
    "resuming a params": lambda: fit(resume=ONE),
    "a negative learning rate": lambda: optimizers.adam(-1e-3),
    "a chain of nothing": lambda: optimizers.chain(),
    "a chain with a rate": lambda: optimizers.chain(optimizers.sgd(0.1), 0.1),
    "a noise of zero": lambda: losses.denoising_score_matching(of_params, 0.0),
    "no steps of contrast": lambda: losses.contrastive_divergence(of_params, SAMPLER, 0),
    "a sum of nothing": lambda: losses.weighted_sum(),
    "weights of other names": lambda: losses.weighted_sum({"a": LOSS}, weights={"b": 1.0}),
    "a weight of NaN": lambda: losses.weighted_sum(LOSS, weights=[float("nan")]),
    "a weight of text": lambda: losses.weighted_sum({"a": LOSS}, weights={"a": "1"}),
    "a weight of a list": lambda: losses.weighted_sum(LOSS, weights=[[1.0]]),
    "weights among losses": lambda: losses.weighted_sum(LOSS, LOSS, [1.0, 2.0]),
    # what comes after
    "one chain without its axis": lambda: draws(diagnostics.rhat, torch.zeros(8)),
    "three draws": lambda: draws(diagnostics.ess, torch.zeros(2, 3)),
    "NaN among draws": lambda: draws(diagnostics.mcse_mean, torch.full((2, 8), torch.nan)),
    "a quantile of 5": lambda: draws(diagnostics.mcse_quantile, None, 5),
    "samples for draws": lambda: diagnostics.ess(sample()),
    "a summary of text": lambda: diagnostics.summary("draws"),
    "names that do not fit": lambda: draws(diagnostics.to_arviz, None, ["a", "b"]),
    "log-likelihoods of other draws": lambda: draws(diagnostics.to_arviz, None, log_likelihood=torch.zeros(8, 3)),
    "images in a picture of points": lambda: ebm.plotting.samples(torch.zeros(4, 3)),
    "a landscape of three coordinates": lambda: ebm.plotting.energy_landscape(
        energies.gaussian, energies.gaussian.params(torch.zeros(3)), resolution=3
    ),
    "an if in an energy to be normalized": lambda: normalizers.annealed_importance_sampling(
        KEY, lambda p, x: (x**2).sum() if x[0] > 0 else x.sum(), (), reference=energies.gaussian,
        reference_params=energies.gaussian.params(torch.zeros(2)), num_temperatures=3,
    ),
    "a space of one level": lambda: spaces.categorical(2, 1),
    "no temperatures": lambda: normalizers.annealed_importance_sampling(
        KEY, quadratic, (), reference=energies.gaussian, reference_params=energies.gaussian.params(2), num_temperatures=0
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_use_is_told_what_must_hold_what_came_and_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
        WRONG[name]()
    assert re.search(r"(?s)\w.* Got .+\. .*\w", str(caught.value)), str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_table_is_long():
    assert len(WRONG) >= 120


def test_a_saved_run_goes_on_by_its_own_sampler_only(tmp_path):
    ebm.save(sample(), tmp_path / "run.safetensors")
    must = r"sampler must be the mala of that run. Got hmc. Build the sampler as it was for that run"
    with pytest.raises(ValueError, match=must):
        ebm.load(tmp_path / "run.safetensors", samplers.hmc(quadratic, step_size=0.5))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes of errors came with Python 3.11")
@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: (x**2).sum(), TypeError),
        (lambda p, x: (x**2).sum(1), IndexError),
        (lambda p, x: x.sum()[0], IndexError),
        (lambda p, x: p["a"] * x.sum(), TypeError),
        (lambda p, x: np.sum(x**2), TypeError),
        (lambda p, x: (torch.ones(3) @ x) ** 2, RuntimeError),
    ],
)
def test_an_error_of_the_user_stays_and_has_a_note_of_what_the_energy_was_called_with(function, error):
    for make in (samplers.mala, samplers.random_walk):
        with pytest.raises(error) as caught:
            energy(function, make)
        (note,) = caught.value.__notes__
        assert note == (
            "funcebm: an energy is called as energy(params, x) with one particle, and no batch axis; here params are a tuple "
            "with nothing, x is of shape (2,)."
        )


def test_an_energy_that_trains_nothing_is_told():
    detached = losses.denoising_score_matching(lambda p, x: (p * x.detach() ** 2).sum(), 0.1)
    with pytest.warns(RuntimeWarning, match=r"gradient of the loss was zero in every step.*detach\(\)"):
        assert "zero in every step" in fit(detached, data=X + 1).report
    assert fit(losses.denoising_score_matching(of_params, 0.1), data=X + 1).report == ""


@pytest.mark.compiled
def test_random_numbers_of_torch_are_refused_compiled_too():
    for function in (
        lambda p, x: (x * torch.rand_like(x)).sum(),
        lambda p, x: torch.nn.functional.dropout(x, 0.5).sum(),
    ):
        with pytest.raises(ValueError, match=r"must not draw random numbers of torch.*lambda p, x.*funcebm.random"):
            sample(samplers.mala(function), jit=True)


# -- what looks wrong and is right ----------------------------------------------------------------------------------

RIGHT = {
    "a seed of NumPy": lambda: torch.equal(random.key(np.int64(3)), random.key(3)),
    "a negative seed": lambda: random.key(-1).shape == (2,),
    "one chain": lambda: sample(x=X[:1]).draws.shape == (1, 3, 2),
    "one coordinate without an axis": lambda: sample(x=torch.zeros(4)).draws.shape == (4, 3),
    "starts that are a view": lambda: sample(x=torch.zeros(2, 4).T).draws.shape == (4, 3, 2),
    "expanded starts": lambda: sample(x=torch.zeros(2).expand(4, 2)).draws.shape == (4, 3, 2),
    "a list of samplers": lambda: sample(samplers.cycle([SAMPLER, SAMPLER])).draws.shape == (4, 3, 2),
    "one particle in a chain of optimizers": lambda: len(optimizers.chain([optimizers.sgd(0.1)]).init(ONE)) == 1,
}


def test_starts_that_require_grad_warn_once(monkeypatch):
    from funcebm.chains import _checks

    monkeypatch.setattr(_checks, "_warned", set())
    starts = torch.zeros(4, 2, requires_grad=True)
    with pytest.warns(UserWarning, match=r"positions that require grad .* keep the graph.*leaf.detach\(\), positions"):
        sample(x=starts)
    with pytest.warns(UserWarning, match=r"positions that require grad are detached"):
        assert not warm(x=torch.nn.Parameter(X)).positions.requires_grad
    sample(x=starts)


@pytest.mark.parametrize("name", list(RIGHT))
def test_what_looks_wrong_and_is_right(name):
    assert RIGHT[name]()
