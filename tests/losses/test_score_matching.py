"""Score matching: closed forms on Gaussian data, for every number and shape of axes."""

from __future__ import annotations

import pytest
import torch

from funcebm import losses, random

SHAPES = [(1,), (2,), (7,), (2, 2, 3)]
EXACT = {"exact": {"trace": "exact"}, "hutchinson": {"trace": "hutchinson", "num_probes": 1}}


def isotropic(params, x):
    return params * (x**2).sum() / 2


def anharmonic(params, x):
    """A Hessian that is neither diagonal nor constant."""
    return params * ((x @ torch.tensor([1.0, 2.0, -1.0]).to(x)) ** 2 + torch.cos(x.sum()) + (x**4).sum() / 4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", EXACT)
def test_value_and_minimum_on_normal_data(method, shape):
    # L(k) = k^2 m / 2 - k d with m the mean of |x|^2: -d/2 at k = 1 on average, and least at k = d / m, so at 1
    num, dim = 2000, torch.Size(shape).numel()
    data = random.normal(random.key(0), (num, *shape), dtype=torch.float64)
    loss = losses.score_matching(isotropic, **EXACT[method])
    one = torch.tensor(1.0, dtype=torch.float64)
    value, aux = loss(random.key(1), one, data)
    assert abs(float(value) + dim / 2) < 5 * (2 * dim / num) ** 0.5 / 2
    best = dim / (data**2).flatten(1).sum(1).mean()
    gradient = torch.func.grad(lambda k: loss(random.key(1), k, data)[0])(best)
    assert abs(float(gradient)) < 1e-12
    assert abs(float(best) - 1) < 5 * (2 / (num * dim)) ** 0.5
    torch.testing.assert_close(aux.metrics["laplacian"], torch.tensor(float(dim), dtype=torch.float64))


def test_the_exact_trace_by_hand():
    x, k = random.normal(random.key(2), (5, 3), dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    expected = []
    for row in x:
        slope = torch.func.grad(anharmonic, 1)(k, row)
        curvature = torch.func.jacrev(torch.func.jacrev(anharmonic, 1), 1)(k, row).trace()
        expected.append((slope**2).sum() / 2 - curvature)
    value, _ = losses.score_matching(anharmonic)(random.key(0), k, x)
    torch.testing.assert_close(value, torch.stack(expected).mean())


@pytest.mark.parametrize("num_probes", [1, 4])
def test_hutchinson_is_unbiased(num_probes):
    x, k = random.normal(random.key(2), (5, 3), dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    exact, _ = losses.score_matching(anharmonic)(random.key(0), k, x)
    loss = losses.score_matching(anharmonic, "hutchinson", num_probes=num_probes)
    values = torch.func.vmap(lambda key: loss(key, k, x)[0])(random.split(random.key(3), 4000))
    assert float(values.std()) > 0.1  # the estimate does vary: the test means something
    assert abs(float(values.mean() - exact)) < 5 * float(values.std()) / 4000**0.5


def test_more_probes_have_less_variance():
    x, k = random.normal(random.key(2), (5, 3), dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    variances = []
    for num_probes in (1, 4):
        loss = losses.score_matching(anharmonic, "hutchinson", num_probes=num_probes)
        variances.append(torch.func.vmap(lambda key: loss(key, k, x)[0])(random.split(random.key(3), 4000)).var())  # noqa: B023
    ratio = float(variances[0] / variances[1])
    assert 4 * (1 - 5 * (4 / 4000) ** 0.5) < ratio < 4 * (1 + 5 * (4 / 4000) ** 0.5)


def test_probes_are_signs_of_the_dtype_of_the_data():
    noise = losses.score_matching(isotropic, "hutchinson", num_probes=3).draw(random.key(0), torch.zeros(4, 2).double())
    assert noise.shape == (4, 3, 2) and noise.dtype == torch.float64
    assert bool((noise.abs() == 1).all())


def test_bad_arguments_are_refused_at_the_door():
    with pytest.raises(ValueError, match="trace must be"):
        losses.score_matching(isotropic, "approx")
    with pytest.raises(ValueError, match="num_probes must be an integer of at least 1"):
        losses.score_matching(isotropic, "hutchinson", num_probes=0)
