"""The algebra of energies: identities, conditionals, and changes of variables that preserve probability."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch.func import vmap

import funcebm
from funcebm import bijections, energies, fields, graphs, random, samplers, spaces

from .. import distributions

DOUBLE = torch.float64
POINTS = random.normal(random.key(0), (6, 2), dtype=DOUBLE)


def _gaussian(mean, precision):
    mean, precision = torch.tensor(mean, dtype=DOUBLE), torch.tensor(precision, dtype=DOUBLE)
    return energies.gaussian.params(mean, precision=precision)


def _values(energy, params, points=POINTS):
    return vmap(energy, (None, 0))(params, points)


def test_a_product_of_gaussians_adds_their_precisions():
    first, second = _gaussian([1.0, 0.0], [[2.0, 0.5], [0.5, 1.0]]), _gaussian([0.0, -1.0], [[1.0, 0.0], [0.0, 3.0]])
    energy = energies.product(energies.gaussian, energies.gaussian)
    precision = first["precision"] + second["precision"]
    shift = first["precision"] @ first["mean"] + second["precision"] @ second["mean"]
    mean = torch.linalg.solve(precision, shift)
    torch.testing.assert_close(fields.hessian(energy)((first, second), mean), precision)
    torch.testing.assert_close(fields.gradient(energy)((first, second), mean), torch.zeros(2, dtype=DOUBLE))
    parts = _values(energies.gaussian, first) + _values(energies.gaussian, second)
    torch.testing.assert_close(_values(energy, (first, second)), parts)


def test_products_and_mixtures_of_one_are_that_one():
    params = _gaussian([1.0, 0.0], [[2.0, 0.5], [0.5, 1.0]])
    expected = _values(energies.gaussian, params)
    torch.testing.assert_close(_values(energies.product(energies.gaussian), (params,)), expected)
    torch.testing.assert_close(_values(energies.product([energies.gaussian]), (params,)), expected)
    alone = {"logits": torch.zeros(1, dtype=DOUBLE), "components": (params,)}
    torch.testing.assert_close(_values(energies.mixture(energies.gaussian), alone), expected)
    torch.testing.assert_close(_values(energies.tempered(energies.gaussian, 1.0), params), expected)


def test_a_mixture_of_gaussians_is_the_gaussian_mixture():
    means = torch.tensor([[-1.0, 0.0], [2.0, 1.0]], dtype=DOUBLE)
    weights = torch.tensor([0.3, 0.7], dtype=DOUBLE)
    parts = tuple(_gaussian(mean.tolist(), (4 * torch.eye(2)).tolist()) for mean in means)
    logits = torch.log(weights) - torch.stack([energies.gaussian.log_normalizer(part) for part in parts])
    either = energies.mixture(energies.gaussian, energies.gaussian)
    ready = energies.gaussian_mixture.params(means, 0.5, weights=weights)
    expected = _values(energies.gaussian_mixture, ready)
    torch.testing.assert_close(_values(either, {"logits": logits, "components": parts}), expected)


def test_tempering_multiplies_and_composes():
    params = energies.double_well.params()
    halved = energies.tempered(energies.double_well, 0.5)
    torch.testing.assert_close(_values(halved, params), _values(energies.double_well, params) / 2)
    torch.testing.assert_close(_values(energies.tempered(halved, 2.0), params), _values(energies.double_well, params))

    def at(beta):
        return energies.tempered(energies.double_well, beta)(params, POINTS[0].float())

    betas = torch.tensor([0.1, 1.0, 2.0])
    torch.testing.assert_close(vmap(at)(betas), betas * at(1.0))


def test_a_conditional_of_a_gaussian_has_its_closed_form():
    precision = torch.tensor([[2.0, 0.5, 0.3], [0.5, 1.0, -0.2], [0.3, -0.2, 1.5]], dtype=DOUBLE)
    params = _gaussian([1.0, 0.0, -1.0], precision.tolist())
    observed = torch.tensor([0.0, 0.7, 0.0], dtype=DOUBLE)
    free = torch.tensor([True, False, True])
    energy = energies.conditioned(energies.gaussian, observed, free)
    block = precision[free][:, free]
    mean = params["mean"][free] - torch.linalg.solve(
        block, precision[free][:, ~free] @ (observed - params["mean"])[~free]
    )
    torch.testing.assert_close(fields.hessian(energy)(params, mean), block)
    torch.testing.assert_close(fields.gradient(energy)(params, mean), torch.zeros(2, dtype=DOUBLE))


def test_filling_in_an_image_keeps_the_observed_numbers():
    image = torch.arange(12.0).reshape(1, 3, 4)
    free = image % 3 == 0
    complete = energies.fill_in(image, free)
    torch.testing.assert_close(complete(image[free]), image)
    filled = vmap(complete)(torch.stack([image[free], -image[free]]))
    assert filled.shape == (2, 1, 3, 4)
    torch.testing.assert_close(filled[1], torch.where(free, -image, image))


def test_which_numbers_are_free_may_be_mapped_over():
    image = torch.arange(6.0).reshape(2, 3)
    masks = torch.stack([image < 2, image > 3])  # two free numbers each
    part = torch.tensor([10.0, 20.0])
    filled = vmap(lambda free: energies.fill_in(image, free)(part))(masks)
    torch.testing.assert_close(filled[0], torch.tensor([[10.0, 20.0, 2.0], [3.0, 4.0, 5.0]]))
    torch.testing.assert_close(filled[1], torch.tensor([[0.0, 1.0, 2.0], [3.0, 10.0, 20.0]]))


def test_conditioning_a_dict_leaves_the_rest():
    def joint(params, x):
        return params * (x["a"] * x["b"]).sum() + (x["c"] ** 2).sum()

    whole = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, -1.0]), "c": torch.tensor(2.0)}
    energy = energies.conditioned(joint, {"b": whole["b"]})
    rest = {"a": whole["a"], "c": whole["c"]}
    torch.testing.assert_close(energy(torch.tensor(2.0), rest), joint(torch.tensor(2.0), whole))
    slope = fields.gradient(energy)(torch.tensor(2.0), rest)
    assert set(slope) == {"a", "c"}
    torch.testing.assert_close(slope["a"], 2 * whole["b"])


@pytest.mark.parametrize(
    "bijection",
    [
        bijections.positive,
        bijections.interval(-1.0, 3.0),
        bijections.interval(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0])),
        bijections.affine(
            torch.tensor([1.0, 2.0], dtype=DOUBLE), torch.tensor([[2.0, 0.0], [-1.0, 0.5]], dtype=DOUBLE)
        ),
    ],
)
def test_log_determinants_are_those_of_the_jacobian(bijection):
    by_jacobian = bijections.with_log_det(lambda y: bijection(y)[0])
    for point in POINTS:
        torch.testing.assert_close(bijection(point), by_jacobian(point))


def test_a_pullback_keeps_probability():
    # a Beta(2, 3) distribution on (0, 1), seen through the logistic function: same normalizer, now over the whole line
    def beta(params, x):
        return -(torch.log(x) + 2 * torch.log1p(-x)).sum()

    pulled = energies.pullback(beta, bijections.interval())
    line = torch.linspace(-40, 40, 4001, dtype=DOUBLE)
    total = torch.exp(-vmap(pulled, (None, 0))((), line[:, None])).sum() * (line[1] - line[0])
    torch.testing.assert_close(total, torch.tensor(1 / 12, dtype=DOUBLE), atol=1e-12, rtol=0)


def test_a_gaussian_is_the_whitened_pullback_of_itself():
    covariance = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=DOUBLE)
    mean = torch.tensor([3.0, -1.0], dtype=DOUBLE)
    factor = torch.linalg.cholesky(covariance)
    pulled = energies.pullback(energies.gaussian, bijections.affine(mean, factor))
    params = energies.gaussian.params(mean, covariance)
    expected = 0.5 * POINTS.square().sum(1) - 0.5 * math.log(2.0 - 0.64)
    torch.testing.assert_close(_values(pulled, params), expected)


def test_positions_far_out_stay_finite_through_the_logistic_function():
    bijection = bijections.interval(0.0, 2.0)
    _, log_det = bijection(torch.tensor([80.0, -80.0]))
    torch.testing.assert_close(log_det, torch.tensor(2 * math.log(2) - 160.0))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: energies.product(), ValueError, "product takes one energy or more"),
        (lambda: energies.mixture(3), ValueError, "mixture takes one energy or more"),
        (lambda: energies.product(energies.harmonic)((), torch.ones(2)), ValueError, "a tuple, one entry for each"),
        (lambda: energies.tempered(energies.harmonic, 0.0), ValueError, "beta must be positive"),
        (lambda: energies.conditioned(energies.harmonic, torch.ones(2)), ValueError, "observed must be a dict"),
        (lambda: energies.fill_in(torch.ones(2), torch.ones(2)), ValueError, "free must be a bool tensor"),
        (lambda: energies.fill_in(torch.ones(2), torch.tensor([True])), ValueError, "of the shape of observed"),
        (lambda: energies.fill_in(torch.ones(2), torch.zeros(2) > 1), ValueError, "leave something free"),
        (lambda: energies.fill_in(torch.ones(2), torch.ones(2) > 0)(torch.ones(1)), ValueError, "free part must have"),
        (
            lambda: energies.pullback(energies.harmonic, lambda y: (y, y))(energies.harmonic.params(), torch.ones(2)),
            ValueError,
            "0-d log_det",
        ),
        (lambda: bijections.interval(1.0, 0.0), ValueError, "high - low must be positive"),
        (lambda: bijections.affine(torch.ones(2), torch.eye(3)), ValueError, r"factor must be \(2, 2\)"),
        (lambda: bijections.affine(torch.ones(2), torch.ones(2, 2)), ValueError, "factor must be invertible"),
    ],
)
def test_bad_arguments_say_what_must_hold(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_confined_energy_is_the_energy_in_the_box_and_half_the_squared_distance_outside():
    energy = energies.confined(energies.double_well, 0.5, low=-1.0, high=2.0)
    params = energies.double_well.params()
    inside, outside = torch.tensor([-0.9, 1.9], dtype=DOUBLE), torch.tensor([-3.0, 3.0], dtype=DOUBLE)
    assert energy(params, inside) == energies.double_well(params, inside)
    expected = energies.double_well(params, outside) + (2**2 + 1**2) / (2 * 0.5**2)
    torch.testing.assert_close(energy(params, outside), expected)


def test_confined_without_a_box_is_a_product_with_a_gaussian():
    """At the origin too, where the second derivative of a clamp would be wrong."""
    energy = energies.confined(quadratic_free, torch.tensor(0.5, dtype=DOUBLE))
    other = energies.product(quadratic_free, energies.harmonic)
    stiff = energies.harmonic.params(4.0)
    torch.testing.assert_close(_values(energy, ()), _values(other, ((), stiff)))
    zero = torch.zeros(2, dtype=DOUBLE)
    torch.testing.assert_close(fields.hessian(energy)((), zero), 4 * torch.eye(2, dtype=DOUBLE))


def quadratic_free(params, x):
    return (3 * x).sum()


def test_confined_takes_trees_and_keeps_features():
    tree_energy = energies.confined(lambda params, x: 0 * x["a"].sum(), 1.0)
    assert tree_energy((), {"a": torch.ones(2), "b": torch.ones(3)}) == 2.5
    network, params = energies.mlp(random.key(0), 2, (4,))
    assert torch.equal(
        energies.confined(network).features(params, POINTS[0].float()), network.features(params, POINTS[0].float())
    )


@pytest.mark.parametrize(("arguments", "words"), [({"scale": 0.0}, "scale must be"), ({"low": 1.0}, "low must not")])
def test_confined_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        energies.confined(energies.double_well, **arguments)


ISING = energies.ising(graphs.grid(3))
BITS = energies.boltzmann(3)
CLAMPED = torch.tensor([True, False, True])
POTTS = energies.potts(graphs.grid(3), 4)
UNEVEN = energies.tempered(lambda params, x: (params * x).sum(), 1.0)
UNEVEN.space = spaces.categorical(3, [2, 4, 3])
MACHINE = energies.rbm(3, 2, visible="gaussian")
LATTICE = energies.ising_torus((4, 4))


@pytest.mark.parametrize(
    ("energy", "space"),
    [
        (energies.tempered(ISING, 0.5), spaces.spins(3)),
        (energies.product(ISING, lambda params, x: x.sum()), spaces.spins(3)),
        (energies.mixture(ISING, ISING), spaces.spins(3)),
        (energies.product_of_members(ISING), spaces.spins(3)),
        (energies.mixture_of_members(ISING), spaces.spins(3)),
        (energies.conditioned(ISING, torch.ones(3), CLAMPED), spaces.spins(2)),
        (energies.conditioned(POTTS, torch.eye(4)[:3], CLAMPED), spaces.categorical(2, 4)),
        (energies.conditioned(POTTS, torch.eye(4)[:3], CLAMPED[:, None].repeat(1, 4)), spaces.categorical(2, 4)),
        (
            energies.conditioned(UNEVEN, torch.eye(4)[:3], CLAMPED),
            spaces.Space("categorical", (2, 4), (0.0, 1.0), (2, 3)),
        ),
        (
            energies.conditioned(LATTICE, torch.ones(4, 4), torch.tensor([True, False, True, True])),
            spaces.spins((3, 4)),
        ),
        (energies.conditioned(MACHINE, {"visible": torch.ones(3)}), {"hidden": spaces.binary(2)}),
        (energies.confined(ISING), spaces.spins(3)),
        (energies.on_integers(POTTS, 4), spaces.ordinal(3, 4)),
        (energies.on_bits(ISING), spaces.binary(3)),
        (energies.on_spins(BITS), spaces.spins(3)),
        (energies.product(ISING, BITS), None),
        (energies.tempered(lambda params, x: x.sum(), 0.5), None),
    ],
)
def test_energies_of_energies_say_what_their_states_are(energy, space):
    assert getattr(energy, "space", getattr(energy, "joint_space", None)) == space


def _both(params, x):
    return x["a"].sum() + x["b"].sum()


def test_a_part_has_the_space_of_its_leaves():
    whole = {"a": spaces.spins(2), "b": spaces.categorical(1, 3)}
    energy = energies.tempered(_both, 1.0)
    energy.space = whole
    assert energies.conditioned(energy, {"a": torch.ones(2)}).space == {"b": whole["b"]}
    seen = []
    for leaves, expected in (("a", whole["a"]), (("a", "b"), whole)):
        samplers.on(leaves, lambda e: seen.append(e.space) or samplers.gibbs(e), energy)
        assert seen.pop() == expected


class Pair(NamedTuple):
    first: Any
    second: Any


def test_a_part_of_a_tree_has_the_space_of_its_path():
    energy, deep = energies.tempered(_both, 1.0), spaces.spins(2)
    energy.space = {"a": {"b": deep}, "c": Pair(spaces.spins(1), deep)}
    seen = []
    for path in ("a/b", "c/second"):
        samplers.on(path, lambda e: seen.append(e.space) or samplers.gibbs(e), energy)
        assert seen.pop() == deep


def test_conditioned_categories_have_their_conditional():
    """Of three sites in a row, the middle one clamped: each draw is one-hot, with the exact distribution."""
    params, whole = POTTS.params(torch.tensor(0.8)), torch.eye(4)[[0, 2, 1]]
    energy = energies.conditioned(POTTS, whole, CLAMPED)
    torch.testing.assert_close(energy(params, whole[CLAMPED]), POTTS(params, whole))
    torch.testing.assert_close(energy(params, whole[CLAMPED].flatten()), POTTS(params, whole))
    starts = whole[CLAMPED].expand(2000, 2, 4)
    draws = funcebm.sample(random.key(0), samplers.gibbs(energy), params, starts, num_samples=1, jit=False).draws
    assert bool((draws.sum(-1) == 1).all())
    chance = math.exp(0.8) / (math.exp(0.8) + 3)  # to agree with the middle one
    distributions.assert_mean(draws[:, 0, :, 2], torch.tensor([chance, chance]))


def test_positions_that_fit_no_space_of_the_energy_are_refused():
    """They were taken for bits."""
    for energy, position in (
        (energies.conditioned(POTTS, torch.eye(4)[:3], CLAMPED), torch.eye(4)[[0, 1]].flatten()),
        (MACHINE, {"visible": torch.zeros(3), "hidden": torch.zeros(2)}),
        (MACHINE.free_energy, torch.zeros(3)),
    ):
        with pytest.raises(ValueError, match="positions of the space of the energy"):
            samplers.gibbs(energy).init((), position)
    with pytest.raises(ValueError, match="splits one"):
        energies.conditioned(POTTS, torch.eye(4)[:3], torch.eye(4)[:3] > 0)

    def of_a_traced_mask(mask):
        energy = energies.conditioned(ISING, torch.ones(3), mask)
        return samplers.gibbs(energy).init(ISING.params(), torch.ones(2)).energy

    with pytest.raises(ValueError, match="positions of the space of the energy"):
        vmap(of_a_traced_mask)(CLAMPED[None])


@pytest.mark.parametrize("make", [samplers.gibbs, samplers.gibbs_with_gradients, samplers.path_auxiliary])
def test_spins_stay_spins_on_every_rung(make):
    params, start = ISING.params(0.5), torch.ones(2, 3)
    ladder = samplers.parallel_tempering(ISING, lambda energy, beta: make(energy), [0.5, 1.0])
    for sampler in (ladder, make(energies.tempered(ISING, 0.5))):
        draws = funcebm.sample(random.key(0), sampler, params, start, num_samples=20, jit=False).draws
        assert set(draws.unique().tolist()) == {-1.0, 1.0}
