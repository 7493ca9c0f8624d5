"""Wrong uses of paths, couplings, solvers, flows, transport losses and their samplers: each says what must hold, what came."""

from __future__ import annotations

import warnings

import pytest
import torch

from funcebm import couplings, energies, flows, losses, networks, normalizers, paths, random, solvers
from funcebm.losses import TransportBatch
from funcebm.paths import exact

KEY = random.key(0)
LINEAR, BRIDGE = paths.linear(), paths.brownian_bridge(1.0)
ONE, MANY, GRID = torch.zeros(2), torch.zeros(5, 2), torch.linspace(0, 1, 5)
HALF, START, END = torch.tensor(0.5), torch.tensor(0.0), torch.tensor(1.0)
NORMAL, OTHER = exact.gaussian_params(torch.zeros(2)), exact.gaussian_params(torch.zeros(3))
LABELS = torch.arange(5)
REFERENCE = {"reference": energies.gaussian, "reference_params": energies.gaussian.params(torch.zeros(2))}


def field(params, t, x):
    return -x


def short(params, t, x):
    return x[:1]


def conditional(params, t, x, label):
    return -x


def scalar(params, t, x):
    return x.square().sum()


def bowl(params, x):
    return x.square().sum() / 2


def told(function, batch=MANY):
    return lambda: function()(KEY, torch.tensor(0.0), batch)


def integrated(**options):
    return lambda: flows.integrate(options.pop("field", field), (), options.pop("x", MANY), jit=False, **options)


def likelihood(**options):
    return lambda: flows.log_likelihood(options.pop("field", field), (), MANY, jit=False, **options)


def noise_of(solver, x=ONE, num=4):
    return solvers.draw_path(KEY, solver, x, num)


DOORS = {
    "ends of other shapes": (lambda: paths.sample_path(LINEAR, HALF, torch.zeros(3), ONE), "x0 must have the shapes"),
    "ends of other trees": (lambda: paths.sample_path(LINEAR, HALF, {"a": ONE}, ONE), "x0 must be a tree"),
    "a latent of another shape": (lambda: paths.sample_path(BRIDGE, HALF, ONE, ONE, torch.zeros(3)), "z must have"),
    "no path": (lambda: paths.at(None, HALF), "path must be a path"),
    "a time that is text": (lambda: paths.at(LINEAR, "0.5"), "a time must be a number"),
    "a conversion of nothing": (lambda: paths.convert(LINEAR, 3), "field must be a function"),
    "a conversion at t = 1.5": (
        lambda: paths.convert(LINEAR, field, target="data")((), torch.tensor(1.5), ONE),
        "in .0, 1.",
    ),
    "an energy without noise": (lambda: paths.energy_of(scalar, LINEAR)((), END, ONE), "needs some noise"),
    "a potential without data": (lambda: paths.potential_of(scalar, LINEAR)((), START, ONE), "needs some data"),
    "levels not in order": (lambda: paths.variance_exploding(10.0, 0.1), "sigma_min must be below"),
    "a root as a path": (lambda: paths.polynomial(0.5), "power must be at least 1"),
    "an oracle of another dimension": (
        lambda: exact.marginals(LINEAR).velocity(OTHER, HALF, ONE),
        "must be a vector .3",
    ),
    "an oracle of a batch": (lambda: exact.marginals(LINEAR).velocity(NORMAL, HALF, MANY), "a point must be a vector"),
    "Gaussians of two dimensions": (lambda: exact.wasserstein_distance(NORMAL, OTHER), "must have one dimension"),
    "a bridge of one end": (lambda: exact.schrodinger_bridge().drift(NORMAL, HALF, ONE), "a start and an end"),
    "noise of other shapes": (
        lambda: couplings.sinkhorn(1.0)(KEY, MANY, torch.zeros(5, 3)),
        "noise must have the shapes",
    ),
    "no rows": (lambda: couplings.optimal_transport()(KEY, MANY[:0], MANY[:0]), "one row or more"),
    "one number": (lambda: couplings.independent()(KEY, START, START), "lead with an axis"),
    "a reward for other labels": (
        lambda: couplings.within_labels(couplings.optimal_transport(), -1.0),
        "not be negative",
    ),
    "a reflow that is no flow": (lambda: couplings.reflow(3), "flow must be a function"),
    "a reflow of other shapes": (lambda: couplings.reflow(lambda x: x[:1])(KEY, MANY, MANY), "what the flow makes"),
    "a factory for a solver": (lambda: solvers.solve(solvers.rk4, field, (), ONE, GRID), "function rk4 itself"),
    "integers": (lambda: solvers.solve(solvers.rk4(), field, (), ONE.long(), GRID), "floating-point tensors"),
    "noise for an ODE": (
        lambda: solvers.solve(solvers.rk4(), field, (), ONE, GRID, noise_of(solvers.shark())),
        "takes no noise",
    ),
    "noise without area": (
        lambda: solvers.solve(solvers.shark(), field, (), ONE, GRID, noise_of(solvers.euler_maruyama())),
        "space-time area",
    ),
    "noise of another shape": (
        lambda: solvers.solve(solvers.shark(), field, (), ONE, GRID, noise_of(solvers.shark(), torch.zeros(3))),
        "the noise of a step must have the shapes",
    ),
    "dense output outside": (
        lambda: solvers.solve_adaptive(solvers.dopri5(), field, (), ONE, at=2 * GRID),
        "at must lie",
    ),
    "dense output at a number": (
        lambda: solvers.solve_adaptive(solvers.dopri5(), field, (), ONE, at=HALF),
        "vector of times",
    ),
    "an adaptive factory": (lambda: solvers.solve_adaptive(solvers.dopri5, field, (), ONE), "function dopri5 itself"),
    "no last time": (
        lambda: solvers.solve_adaptive(solvers.dopri5(), field, (), ONE, 0.0, torch.nan),
        "must be finite",
    ),
    "an adjoint out of order": (
        lambda: solvers.discrete_adjoint(solvers.rk4(), field, (), ONE, torch.tensor([0.0, 1.0, 0.5])),
        "must increase",
    ),
    "levels of churn not in order": (lambda: solvers.edm_heun(LINEAR, 0.1, noise_range=(5.0, 1.0)), "noise_range"),
    "EDM from pure noise": (
        integrated(solver=solvers.edm_heun(LINEAR), num_steps=5),
        "must start where the path has some data",
    ),
    "DDIM of noise from pure noise": (
        integrated(solver=solvers.ddim(LINEAR, prediction="noise"), num_steps=5),
        "keep t away",
    ),
    "nobody": (integrated(x=MANY[:0]), "there must be a particle"),
    "a list of conditions": (integrated(field=conditional, conditions=[1, 2, 3, 4, 5]), "conditions must be tensors"),
    "one condition": (integrated(field=conditional, conditions=START), "conditions must be tensors"),
    "no field": (integrated(field=None), "field must be a function"),
    "too small a tolerance, compiled or not": (integrated(rtol=1e-10, atol=1e-10), "the precision of torch.float32"),
    "no steps": (integrated(max_steps=0), "max_steps must be"),
    "a source of too few": (
        lambda: flows.sample(KEY, field, (), 5, source=lambda key, num: torch.zeros(4, 2), jit=False),
        "source must make 5 particles",
    ),
    "a divergence by a path's solver": (likelihood(solver=solvers.ddim(LINEAR), num_steps=5), "solvers of any field"),
    "a likelihood back in time": (likelihood(times=(1.0, 0.0)), "of noise and of data"),
    "a likelihood of three times": (likelihood(times=(0.0, 0.5, 1.0)), "of noise and of data"),
    "a base that is a vector": (likelihood(base=lambda x: -(x**2)), "a base"),
    "a likelihood of a short field": (likelihood(field=short), "must return the shapes"),
    "a flow to noise": (lambda: flows.flow(field, times=[1.0, 0.0]), "times must increase, from noise"),
    "a probe for determinants": (lambda: flows.flow(field).forward((), ONE, ONE), "others do not"),
    "an energy of no flow": (lambda: flows.flow_energy(field), "flow must be a Flow"),
    "a null of another shape": (
        lambda: flows.guided(conditional, torch.zeros(3), 2.0)((), HALF, ONE, torch.zeros(2)),
        "null must have the shapes",
    ),
    "an interval not in order": (
        lambda: flows.guided(conditional, START, 2.0, (0.8, 0.2)),
        "interval must be two times",
    ),
    "half an interval": (lambda: flows.guided(conditional, START, 2.0, 0.5), "interval must be two times"),
    "too much rescaling": (lambda: flows.guided(conditional, START, 2.0, rescale=2.0), "rescale must be in"),
    "no scale": (lambda: flows.guided(conditional, START, None), "scale must be a number"),
    "a field for a list of them": (lambda: flows.composed(field, [1.0]), "list of functions"),
    "a drift of a bridge": (lambda: flows.sde_drift(field, BRIDGE), "only noise and score"),
    "less than no diffusion": (lambda: flows.sde_drift(field, LINEAR, -1.0), "diffusion must not be negative"),
    "a corrector of a drift": (
        lambda: flows.predictor_corrector(solvers.euler_maruyama(), LINEAR),
        "needs the velocity",
    ),
    "a corrector without path": (lambda: flows.predictor_corrector(solvers.euler(), None), "path must be a path"),
    "a coupling's factory": (
        lambda: losses.flow_matching(field, coupling=couplings.optimal_transport),
        "function optimal_transport itself",
    ),
    "a time for times": (lambda: losses.flow_matching(field, time=0.5), "time must be a function"),
    "a number for weights": (lambda: losses.equilibrium_matching(bowl, 2.0), "weight must be a function"),
    "a point for a source": (lambda: losses.flow_matching(field, source=ONE), "source must be a function"),
    "a batch of integers": (told(lambda: losses.flow_matching(field), MANY.long()), "data must be floating point"),
    "an empty batch": (told(lambda: losses.flow_matching(field), MANY[:0]), "one row or more"),
    "labels as data": (told(lambda: losses.flow_matching(conditional), (MANY, LABELS)), "data must be floating point"),
    "one label": (told(lambda: losses.flow_matching(conditional), TransportBatch(MANY, label=START)), "axis of rows"),
    "sources of other shapes": (
        told(lambda: losses.flow_matching(field), TransportBatch(MANY, source=torch.zeros(5, 3))),
        "x0 must have the shapes",
    ),
    "times after the end": (
        told(lambda: losses.flow_matching(field, time=lambda key, num, dtype: torch.full((num,), 2.0))),
        r"times must be in \[0, 1\]",
    ),
    "too few times": (
        told(lambda: losses.flow_matching(field, time=lambda key, num, dtype: GRID[:3])),
        "must make 5 times",
    ),
    "too few weights": (
        told(lambda: losses.flow_matching(field, weight=lambda t: GRID[:3])),
        "weight must make a number",
    ),
    "a short drift": (told(lambda: losses.bridge_matching(short)), "must return the shapes"),
    "a short simulated drift": (lambda: losses.simulate_bridge(KEY, short, (), MANY), "must return the shapes"),
    "a scalar gradient": (told(lambda: losses.equilibrium_matching(bowl, form="gradient")), "a gradient must return"),
    "labels of a static energy": (
        told(lambda: losses.energy_matching(bowl), TransportBatch(MANY, label=LABELS)),
        "takes no labels",
    ),
    "the wrong sign of a contrast": (
        lambda: losses.energy_matching(bowl, contrastive_weight=-1.0),
        "must not be negative",
    ),
    "preconditioning on a bridge": (lambda: losses.edm_preconditioned(field, BRIDGE), "no further noise"),
    "no null label": (lambda: losses.conditional_dropout(losses.flow_matching(field), ()), "a null label"),
    "a null label of another shape": (
        told(
            lambda: losses.conditional_dropout(losses.flow_matching(conditional), torch.zeros(3)),
            TransportBatch(MANY, label=MANY),
        ),
        "null must have the shapes",
    ),
    "dropout of a field": (lambda: losses.conditional_dropout(field, START), "loss must be a Loss"),
    "a likelihood of no flow": (lambda: losses.flow_likelihood(field), "flow must be a Flow"),
    "a short control": (
        lambda: normalizers.escorted_annealing(KEY, bowl, (), control=short, num_particles=4, num_steps=2, **REFERENCE),
        "a control must return",
    ),
    "a short control of a diffusion": (
        lambda: normalizers.controlled_importance(KEY, bowl, (), control=short, event_shape=(2,), num_particles=4),
        "a control must return",
    ),
    "a diffusion without noise": (lambda: losses.adjoint_matching(bowl, field, scale=0.0), "scale must be positive"),
    "a diffusion that turns": (
        lambda: normalizers.controlled_importance(
            KEY, bowl, (), control=field, event_shape=(2,), num_particles=4, scale=lambda t: t - 0.5
        ),
        "scale of each step must be positive",
    ),
    "an activation's name": (lambda: networks.time_mlp(KEY, 2, activation="silu"), "activation must be a function"),
    "no inner width": (lambda: networks.transformer(KEY, (8, 8), ratio=0), "ratio must be"),
}


@pytest.mark.parametrize("name", DOORS)
def test_wrong_uses_are_refused(name):
    use, match = DOORS[name]
    with pytest.raises((ValueError, TypeError), match=match):
        use()


def test_a_label_that_is_none_is_refused_or_seen():
    network, params = networks.time_mlp(KEY, 2, (4,), num_labels=3)
    params["layers"][-1]["bias"].fill_(1.0)
    for label in (4, -1):
        with pytest.raises(ValueError, match="a label must be an index below 4"):
            network(params, HALF, ONE, torch.tensor(label))
    many = torch.func.vmap(network, (None, None, 0, 0))(params, HALF, MANY, torch.tensor([0, 3, 4, -1, 2]))
    assert many.isnan().any(1).tolist() == [False, False, True, True, False]
    with pytest.raises(ValueError, match="time of a network must be one number"):
        network(params, GRID, ONE, torch.tensor(1))


STOPPED = {
    "too many steps": (lambda params, t, x: -1000 * (x - torch.cos(t)), {"max_steps": 5}, r"\(0, 1\) .* max_steps=5"),
    "a singularity": (lambda params, t, x: x**2 + 1, {}, "shorter than their dtype can tell times apart"),
    "no number": (lambda params, t, x: torch.where(t > 0.5, torch.nan, x), {}, "not finite"),
}


@pytest.mark.parametrize("name", STOPPED)
def test_a_warning_says_who_stopped_and_why(name):
    stiff, options, match = STOPPED[name]
    with pytest.warns(UserWarning, match=match) as seen:
        solution = flows.integrate(stiff, (), torch.ones(2, 1), jit=False, **options)
    assert len(seen) == 1 and not solution.info.is_finished.any()


def test_steps_that_are_not_inverted_are_said_to_be():
    fold = lambda params, t, x: 8 * torch.sin(3 * x)  # noqa: E731
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        flows.log_likelihood(
            fold, (), torch.linspace(-3, 3, 20)[:, None], divergence="discrete", num_steps=2, jit=False
        )
    assert any("Newton" in str(one.message) for one in seen)
    assert not any("max_steps" in str(one.message) for one in seen)


def test_particles_without_numbers_reach_the_end():
    solution = flows.integrate(field, (), torch.zeros(3, 0), jit=False)
    assert solution.value.shape == (3, 0) and solution.info.is_finished.all()
