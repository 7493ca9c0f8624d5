"""Bijections: inverses, log determinants against Jacobians, normalizers by quadrature, and messages."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import constraints, transforms
from torch.func import jacrev, vmap

import funcebm as ebm
from funcebm import bijections, random, tree

from .cases import BIJECTIONS, DOUBLE, free_numbers

sweep = pytest.mark.parametrize("name", list(BIJECTIONS))


def _case(name):
    bijection, num, coordinates = BIJECTIONS[name]
    y = free_numbers(num, 7)
    return bijection, 20 + 0.1 * y if name == "inverted" else y, coordinates


@sweep
def test_the_inverse_undoes_the_bijection(name):
    bijection, y, _ = _case(name)
    x = bijection.forward(y)
    torch.testing.assert_close(bijection.inverse(x), y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(vmap(bijection.inverse)(x[None])[0], y, rtol=1e-10, atol=1e-10)


@sweep
def test_log_determinants_are_those_of_the_jacobian(name):
    bijection, y, coordinates = _case(name)
    jacobian = jacrev(lambda y: coordinates(bijection.forward(y)))(y)
    torch.testing.assert_close(bijection.log_det(y), torch.linalg.slogdet(jacobian).logabsdet)
    assert bijection.log_det(y).shape == ()


@sweep
def test_dtypes_are_kept_and_gradients_are_finite(name):
    bijection, y, _ = _case(name)
    for dtype in (torch.float32, torch.float64):
        x, log_det = bijection(y.to(dtype))
        assert x.dtype == log_det.dtype == bijection.inverse(x).dtype == dtype
        gradient = torch.func.grad(lambda y: bijection(y)[1] + bijection(y)[0].sum())(y.to(dtype))
        assert torch.isfinite(gradient).all() and gradient.dtype == dtype


def test_what_the_bijections_make_obeys_the_constraints():
    y = 3 * free_numbers(6)
    x = bijections.simplex.forward(y)
    assert (x > 0).all() and float(x.sum()) == pytest.approx(1, abs=1e-14)
    assert (bijections.ordered.forward(y).diff() > 0).all()
    assert float(bijections.zero_sum.forward(y).sum()) == pytest.approx(0, abs=1e-13)
    assert float(bijections.unit_vector.forward(y).norm()) == pytest.approx(1, abs=1e-14)
    factor = bijections.correlation_cholesky.forward(y)
    torch.testing.assert_close(factor @ factor.T, bijections.correlation.forward(y))
    torch.testing.assert_close(bijections.correlation.forward(y).diagonal(), torch.ones(4, dtype=DOUBLE))
    assert (torch.linalg.eigvalsh(bijections.covariance.forward(y)) > 0).all()


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_free_numbers_far_out_give_no_nan_and_come_back_finite(scale):
    y = scale * free_numbers(6).float()
    for name in ("interval", "simplex", "correlation_cholesky", "lower", "ordered"):
        bijection = BIJECTIONS[name][0]
        x, log_det = bijection(y)
        assert not torch.isnan(x).any() and not torch.isnan(log_det), name
        if name in ("interval", "simplex"):
            assert torch.isfinite(bijection.inverse(x)).all(), name


@pytest.mark.parametrize("scale", [9.0, 20.0, 50.0])
def test_factors_of_correlations_near_one_are_told_apart(scale):
    y = scale * free_numbers(6).sign()
    x = bijections.correlation_cholesky.forward(y)
    torch.testing.assert_close(bijections.correlation_cholesky.inverse(x), y)


def test_bounds_and_factors_of_python_keep_double_precision():
    far = torch.full((1,), 40.0, dtype=DOUBLE)
    assert float(bijections.interval(0.1, 0.7).forward(far)) <= 0.7
    assert float(bijections.interval(100.0, 100.001).forward(far)) <= 100.001
    bijections.interval(0.1, 0.7).inverse(bijections.interval(0.1, 0.7).forward(far))
    for made in (bijections.affine(0.1, 0.3), bijections.from_torch(transforms.AffineTransform(0.1, 0.3))):
        assert float(made.forward(torch.ones(1, dtype=DOUBLE))) == 0.1 + 0.3
    assert float(bijections.affine([0.1], [[0.3]]).forward(torch.ones(1, dtype=DOUBLE))) == pytest.approx(
        0.4, abs=1e-15
    )


def test_a_bound_is_one_number_or_one_for_each_coordinate():
    three = torch.arange(3.0)
    for made in (
        bijections.lower(three),
        bijections.upper(three),
        bijections.interval(three, three + 1),
        bijections.affine(three, three + 1),
    ):
        assert made.forward(torch.zeros(3)).shape == (3,)
        assert vmap(made.inverse)(vmap(made.forward)(torch.ones(2, 3))).shape == (2, 3)
        for y in (torch.zeros(()), torch.zeros(2), torch.zeros(1), torch.zeros(3, 2)):
            with pytest.raises(ValueError, match=r"must be \(\) or like x. Got .* shape \(3,\)"):
                made.forward(y)
    assert bijections.lower(three.double()).forward(torch.zeros(3)).dtype == torch.float32


def test_zero_sum_is_an_isometry_and_treats_all_alike():
    basis = jacrev(bijections.zero_sum.forward)(torch.zeros(4, dtype=DOUBLE))
    torch.testing.assert_close(basis.T @ basis, torch.eye(4, dtype=DOUBLE))
    torch.testing.assert_close(basis @ basis.T, torch.eye(5, dtype=DOUBLE) - 0.2)
    x = bijections.zero_sum.forward(free_numbers(4))
    torch.testing.assert_close(bijections.zero_sum.forward(bijections.zero_sum.inverse(x)), x)


def test_a_unit_vector_has_the_surface_as_its_measure():
    # von Mises on the circle: the normalizer 2 pi I0(2), by quadrature over the plane of free numbers
    pulled = ebm.energies.pullback(lambda params, x: -2.0 * x[0], bijections.unit_vector)
    line = torch.linspace(-9, 9, 400, dtype=DOUBLE)
    plane = torch.cartesian_prod(line, line)
    total = torch.exp(-vmap(pulled, (None, 0))((), plane)).sum() * (line[1] - line[0]) ** 2
    expected = 2 * math.pi * float(torch.special.i0(torch.tensor(2.0, dtype=DOUBLE)))
    assert float(total) == pytest.approx(expected, rel=1e-4)
    x = torch.tensor([0.6, -0.8], dtype=DOUBLE)
    torch.testing.assert_close(bijections.unit_vector.forward(bijections.unit_vector.inverse(x)), x)


def test_the_normalizer_of_a_dirichlet_is_kept():
    concentration = torch.tensor([2.0, 3.0, 1.5], dtype=DOUBLE)
    pulled = ebm.energies.pullback(lambda a, x: -((a - 1) * x.log()).sum(), bijections.simplex)
    line = torch.linspace(-20, 20, 500, dtype=DOUBLE)
    total = vmap(pulled, (None, 0))(concentration, torch.cartesian_prod(line, line)).neg().exp().sum()
    expected = concentration.lgamma().sum() - concentration.sum().lgamma()
    torch.testing.assert_close((total * (line[1] - line[0]) ** 2).log(), expected, rtol=1e-6, atol=1e-6)


def test_trees_of_bijections_act_on_their_parts():
    both = bijections.as_bijection({"mu": bijections.identity, "rest": (bijections.positive, bijections.simplex)})
    y = {"rest": (free_numbers(2), free_numbers(2, 1)), "mu": {"a": free_numbers(1), "b": free_numbers(2, 3)}}
    x, log_det = both(y)
    assert list(x) == list(y)
    torch.testing.assert_close(x["rest"][1], bijections.simplex.forward(y["rest"][1]))
    expected = bijections.positive.log_det(y["rest"][0]) + bijections.simplex.log_det(y["rest"][1])
    torch.testing.assert_close(log_det, expected)
    for a, b in zip(tree.leaves(both.inverse(x)), tree.leaves(y), strict=True):
        torch.testing.assert_close(a, b)


TORCH = {
    "exp": (transforms.ExpTransform(), 3),
    "sigmoid": (transforms.SigmoidTransform(), 3),
    "affine": (transforms.AffineTransform(torch.tensor([1.0, 2.0, 3.0]), -2.0), 3),
    "stick_breaking": (transforms.StickBreakingTransform(), 3),
    "correlation_cholesky": (transforms.CorrCholeskyTransform(), 6),
    "softplus": (transforms.SoftplusTransform(), 3),
    "tanh": (transforms.TanhTransform(), 3),
    "power": (transforms.PowerTransform(torch.tensor(3.0)), 3),
    "composed": (transforms.ComposeTransform([transforms.AffineTransform(0.0, 2.0), transforms.ExpTransform()]), 3),
    "independent": (transforms.IndependentTransform(transforms.ExpTransform(), 1), 3),
    "inverse": (transforms.ExpTransform().inv, 3),
    "constraint": (torch.distributions.biject_to(constraints.interval(-1.0, 2.0)), 3),
}


@pytest.mark.parametrize("name", list(TORCH))
def test_transforms_of_torch_are_the_same_maps(name):
    transform, num = TORCH[name]
    y = free_numbers(num)
    y = y.abs() + 0.2 if name in ("power", "inverse") else y
    ours = bijections.from_torch(transform)
    x, log_det = ours(y)
    torch.testing.assert_close(x, transform(y), check_dtype=False)
    torch.testing.assert_close(log_det, transform.log_abs_det_jacobian(y, transform(y)).sum(), check_dtype=False)
    torch.testing.assert_close(ours.inverse(x), y, check_dtype=False, rtol=1e-6, atol=1e-6)


def test_constraints_stand_for_bijections_in_trees_too():
    x = bijections.as_bijection({"a": constraints.positive, "b": bijections.identity}).forward(
        {"a": torch.zeros(2), "b": torch.zeros(2)}
    )
    assert x["a"].tolist() == [1.0, 1.0] and x["b"].tolist() == [0.0, 0.0]


def test_constraints_for_which_torch_has_no_bijection():
    assert bijections.from_torch(constraints.positive_definite) is bijections.covariance
    assert bijections.from_torch(constraints.lower_cholesky) is bijections.covariance_cholesky
    y = free_numbers(3)
    assert bijections.from_torch(constraints.real).forward(y) is y


@pytest.mark.slow
@pytest.mark.compiled
def test_every_bijection_compiles_to_the_same_numbers():
    without = ("affine_diagonal", "affine_number", "upper", "intervals", "covariance_cholesky", "correlation_cholesky")
    cases = {name: _case(name)[:2] for name in BIJECTIONS if name not in without}
    for name in ("stick_breaking", "correlation_cholesky", "tanh"):
        cases[f"torch {name}"] = (bijections.from_torch(TORCH[name][0]), free_numbers(TORCH[name][1]))
    functions = {name: (bijection, bijection.inverse) for name, (bijection, _) in cases.items()}

    def all_of_them(values):
        results = {}
        for name, y in values.items():
            apply, inverse = functions[name]
            x, log_det = apply(y)
            results[name] = (x, log_det, inverse(x), torch.func.grad(lambda y, apply=apply: apply(y)[1])(y))
        return results

    values = {name: y.expand(3, *y.shape) for name, (_, y) in cases.items()}
    eager, compiled = vmap(all_of_them)(values), ebm.jit(vmap(all_of_them))(values)
    for name in values:
        for a, b in zip(tree.leaves(eager[name]), tree.leaves(compiled[name]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda words, name=name: f"{name}: {words}")


OUTSIDE = {
    "positive": (bijections.positive, [1.0, -1.0], "above 0.0"),
    "lower": (bijections.lower(2.0), [1.0], "above 2.0"),
    "upper": (bijections.upper(2.0), [3.0], "below 2.0"),
    "interval": (bijections.interval(0.0, 1.0), [1.5], r"in \(0.0, 1.0\)"),
    "ordered": (bijections.ordered, [1.0, 0.5], "increasing"),
    "simplex": (bijections.simplex, [0.5, 0.6], "sum to one"),
    "simplex_negative": (bijections.simplex, [1.5, -0.5], "positive"),
    "zero_sum": (bijections.zero_sum, [0.5, 0.6], "sum to zero"),
    "unit_vector": (bijections.unit_vector, [1.0, 1.0], "length one"),
    "correlation": (bijections.correlation, [[1.0, 2.0], [2.0, 1.0]], "positive definite"),
    "correlation_diagonal": (bijections.correlation, [[2.0, 0.1], [0.1, 1.0]], "ones on the diagonal"),
    "correlation_cholesky": (bijections.correlation_cholesky, [[1.0, 0.0], [0.5, 0.5]], "rows of length one"),
    "covariance": (bijections.covariance, [[1.0, 0.2], [0.1, 1.0]], "symmetric"),
    "covariance_cholesky": (bijections.covariance_cholesky, [[-1.0]], "positive diagonal"),
    "torch": (bijections.from_torch(transforms.StickBreakingTransform()), [0.9, 0.9], "must be in"),
}


@pytest.mark.parametrize("name", list(OUTSIDE))
def test_positions_outside_are_errors_and_nan_where_nobody_can_look(name):
    bijection, x, words = OUTSIDE[name]
    x = torch.tensor(x)
    with pytest.raises(ValueError, match=words):
        bijection.inverse(x)
    assert torch.isnan(vmap(bijection.inverse)(x[None])).any()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: bijections.simplex.forward(torch.zeros(2, 2)), ValueError, "K - 1 numbers to K.*shape"),
        (lambda: bijections.simplex.inverse(torch.ones(1)), ValueError, "K - 1 numbers to K.*2 or more"),
        (lambda: bijections.correlation.forward(torch.zeros(4)), ValueError, r"K \(K - 1\) / 2 numbers.*4 numbers"),
        (lambda: bijections.covariance.forward(torch.zeros(2)), ValueError, r"K \(K \+ 1\) / 2 numbers.*2 numbers"),
        (lambda: bijections.covariance.inverse(torch.zeros(2)), ValueError, "square matrix"),
        (lambda: bijections.interval(1.0, 0.0), ValueError, "high - low must be positive"),
        (lambda: bijections.affine(torch.ones(2), torch.eye(3)), ValueError, r"factor must be \(2, 2\)"),
        (lambda: bijections.affine(1.0, 0.0), ValueError, "factor must be invertible"),
        (lambda: bijections.lower(math.nan), ValueError, "bound must be finite. Got nan"),
        (lambda: bijections.upper(math.inf), ValueError, "bound must be finite. Got inf"),
        (lambda: bijections.lower("a"), TypeError, "bound must be a number or a tensor. Got a"),
        (lambda: bijections.affine(torch.zeros(3), torch.eye(3)).forward(torch.ones(2)), ValueError, "the 3 numbers"),
        (lambda: bijections.positive.inverse(torch.ones(2).long()), TypeError, "floating-point.*int64.*x.float"),
        (lambda: bijections.simplex.inverse(torch.tensor([1, 0])), TypeError, "floating-point.*int64.*x.float"),
        (lambda: bijections.covariance.inverse(torch.eye(2).long()), TypeError, "floating-point.*int64.*x.float"),
        (lambda: bijections.as_bijection({"a": bijections.lower}), TypeError, r"Call it: lower\(...\)"),
        (lambda: bijections.as_bijection(torch.distributions.HalfNormal(1.0)), TypeError, "distribution.support"),
        (lambda: bijections.from_torch(constraints.boolean), ValueError, "must have a bijection.*Boolean"),
        (lambda: bijections.from_torch(transforms.LowerCholeskyTransform()), ValueError, "covariance_cholesky"),
        (lambda: bijections.compose(), ValueError, "one bijection or more"),
        (lambda: bijections.as_bijection({"a": torch.exp}), TypeError, "must be a Bijection"),
        (
            lambda: bijections.as_bijection({"a": bijections.positive}).forward({"b": torch.ones(1)}),
            ValueError,
            "parts",
        ),
        (lambda: bijections.as_bijection([bijections.positive]).forward(torch.ones(1)), ValueError, "parts"),
        (lambda: bijections.with_log_det(torch.exp).inverse(torch.ones(1)), ValueError, "know its inverse"),
        (lambda: bijections.from_torch(torch.exp), TypeError, "takes a transform"),
        (lambda: bijections.from_torch(transforms.SoftmaxTransform()), ValueError, "must be bijective"),
    ],
)
def test_bad_arguments_say_what_must_hold(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_old_place_says_where_they_are():
    with pytest.warns(DeprecationWarning, match="funcebm.bijections.positive"):
        assert ebm.energies.bijections.to_positive is bijections.positive
    assert random.key(0).shape == (2,)
