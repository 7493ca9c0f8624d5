"""Couplings: optimality against brute force and duality, marginals, labels that follow, eager = compiled = mapped."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.distributions import assert_mean, assert_uniform
from torch.func import vmap

import funcebm as ebm
from funcebm import couplings, random, tree
from funcebm.couplings import assignment as assignment_function
from funcebm.couplings.assignment import reduced
from funcebm.paths import exact

KEY = random.key(0)


def clouds(num, size=2, dtype=torch.float64, key=KEY):
    key_a, key_b = random.split(key)
    a, b = (random.normal(k, (num, size), dtype=dtype) for k in (key_a, key_b))
    return a, 1.5 + b * torch.tensor([1.0, 0.5])[:size].to(dtype)


def cost_of(x0, x1, index):
    return (x0 - x1[index]).square().sum(1).mean()


# -- the assignment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solve", [couplings.assignment, couplings.auction])
@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_best_of_all_permutations(solve, seed):
    cost = random.normal(random.key(seed), (6, 6), dtype=torch.float64)
    least = min(sum(cost[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(6)))
    index = solve(cost)
    assert sorted(index.tolist()) == list(range(6))
    torch.testing.assert_close(cost[torch.arange(6), index].sum(), least, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num", [1, 2, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_auction_is_as_good_as_scipy(num, dtype):
    pytest.importorskip("scipy")
    cost = torch.cdist(*clouds(num, dtype=dtype)).square()
    people = torch.arange(num)
    ours, theirs = couplings.auction(cost), couplings.assignment(cost)
    torch.testing.assert_close(cost[people, ours].mean(), cost[people, theirs].mean(), rtol=1e-5, atol=1e-6)
    assert sorted(ours.tolist()) == people.tolist()


@pytest.mark.parametrize("num", [64, 150])
def test_reduced_costs_have_the_same_best_assignment(num):
    """What is taken off rows and columns is the same for every permutation, whatever the costs are."""
    scipy = pytest.importorskip("scipy.optimize")
    for cost in (
        torch.cdist(*clouds(num)).square(),
        1e6 * random.exponential(KEY, (num, num), dtype=torch.float64) - 3e5,
        torch.zeros(num, num).double(),
    ):
        less = reduced(cost)
        assert bool((less >= 0).all())
        orders = torch.stack([random.permutation(key, num) for key in random.split(KEY, 3)])
        taken = (cost - less)[torch.arange(num), orders].sum(1)
        torch.testing.assert_close(taken, taken[:1].expand(3))
        people, index = torch.arange(num), couplings.assignment(cost)
        plain = torch.as_tensor(scipy.linear_sum_assignment(cost.numpy())[1])
        torch.testing.assert_close(cost[people, index].sum(), cost[people, plain].sum())


def test_without_scipy_it_is_the_auction(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    cost = torch.cdist(*clouds(20)).square()
    assert torch.equal(assignment_function(cost), couplings.auction(cost))


def test_equal_costs_and_excluded_pairs():
    assert sorted(couplings.auction(torch.zeros(5, 5)).tolist()) == list(range(5))
    assert sorted(couplings.auction(torch.tensor([[1.0, 1.0], [1.0, 1.0]])).tolist()) == [0, 1]
    inf = math.inf
    cost = torch.tensor([[inf, 5.0, 0.0], [1.0, inf, 0.0], [9.0, 9.0, 0.0]])
    assert couplings.assignment(cost).tolist() == [1, 0, 2]
    with pytest.raises(ValueError, match=r"cost must be \(B, B\)"):
        couplings.assignment(torch.zeros(2, 3))


# -- couplings ------------------------------------------------------------------------------------------------------


def test_on_a_line_optimal_transport_sorts():
    x0, x1 = (part[:, :1] for part in clouds(50))
    pairing = couplings.optimal_transport()(KEY, x0, x1)
    moved = x1[pairing.index]
    assert torch.equal(moved[x0[:, 0].argsort()], x1.sort(0).values)
    torch.testing.assert_close(pairing.weight, torch.ones(50).double())


def test_between_large_gaussian_batches_the_cost_tends_to_the_distance_of_wasserstein():
    """The bias of batches is upwards and falls with B."""
    start = exact.gaussian_params(torch.zeros(2).double())
    end = exact.gaussian_params(torch.full((2,), 1.5).double(), torch.diag(torch.tensor([1.0, 0.25])))
    limit = float(exact.wasserstein_distance(start, end)) ** 2
    means = []
    for num in (4, 16, 256):
        costs = []
        for key in random.split(random.key(num), 1024 // num):
            x0, x1 = clouds(num, key=key)
            costs.append(float(cost_of(x0, x1, couplings.optimal_transport()(key, x0, x1).index)))
        means.append(sum(costs) / len(costs))
    assert means[0] > means[1] > means[2] > limit - 0.3
    assert means[2] < limit + 0.3


@pytest.mark.slow
def test_sinkhorn_meets_both_marginals_and_is_between_independence_and_optimal_transport():
    x0, x1 = clouds(40)
    best = float(cost_of(x0, x1, couplings.optimal_transport()(KEY, x0, x1).index))
    free = float(torch.cdist(x0, x1).square().mean())
    costs = []
    for epsilon in (0.05, 0.5, 4.0, 100.0):
        coupling = couplings.sinkhorn(epsilon, max_iterations=5000)
        assert coupling(KEY, x0, x1).residual <= 1e-3
        draws = torch.stack([coupling(key, x0, x1).index for key in random.split(KEY, 200)])
        costs.append(float((x0 - x1[draws]).square().sum(-1).mean()))
    assert best - 0.1 < costs[0] < costs[1] < costs[2] < costs[3] < free + 0.2
    assert abs(costs[0] - best) < 0.1 and abs(costs[3] - free) < 0.3


def _plan(x0, x1, epsilon):
    """By plain iterations, as probabilities of the columns of each row."""
    kernel = torch.exp(-torch.cdist(x0, x1).square() / epsilon)
    v = torch.ones(len(x1)).double()
    for _ in range(1000):
        u = 1 / (kernel @ v)
        v = 1 / (kernel.T @ u)
    return (kernel * v) / (kernel @ v)[:, None]


def test_rows_are_drawn_from_the_plan():
    x0, x1 = clouds(5)
    coupling = couplings.sinkhorn(1.0, tolerance=1e-9)
    draws = vmap(lambda key: coupling(key, x0, x1).index)(random.split(KEY, 4000))
    for row in range(5):
        assert_uniform(torch.bincount(draws[:, row], minlength=5), _plan(x0, x1, 1.0)[row])


def test_the_entropic_plan_of_gaussians_is_that_of_their_bridge():
    """Its regularisation is 2 c^2: between large batches the covariance of pairs is that of the closed form."""
    scale = 1.0
    params = {name: exact.gaussian_params(torch.zeros(1).double()) for name in ("start", "end")}
    expected = exact.schrodinger_bridge(scale).cross_covariance(params)[0, 0]
    products = []
    for key in random.split(random.key(5), 60):
        key_data, key_pair = random.split(key)
        x0, x1 = random.normal(key_data, (2, 256, 1), dtype=torch.float64)
        index = couplings.sinkhorn(2 * scale**2)(key_pair, x0, x1).index
        products.append((x0 * x1[index]).mean())
    assert_mean(torch.stack(products), expected, bias=0.01)  # of batches of 256


def test_unbalanced_transport_leaves_outliers_and_balances_when_mass_is_dear():
    x0, x1 = clouds(30)
    outlier = torch.cat([x0, torch.full((1, 2), 60.0).double()])
    data = torch.cat([x1, x1[:1]])
    pairing = couplings.unbalanced(0.1, 10.0)(KEY, outlier, data)
    assert pairing.weight[-1] < 1e-6 and (pairing.weight[:-1] > 0.1).all()
    torch.testing.assert_close(pairing.weight.mean(), torch.tensor(1.0).double())
    dear = couplings.unbalanced(0.5, 1e4, max_iterations=5000)(KEY, x0, x1)
    assert (dear.weight - 1).abs().max() < 0.01


def test_labels_and_trees_follow_their_points():
    num = 32
    x0, x1 = clouds(num)
    data = {"a": x1, "b": x1[:, 0].clone()}
    noise = {"a": x0, "b": x0[:, 1].clone()}
    labels = {"digit": torch.arange(num), "mask": torch.arange(2 * num).reshape(num, 2)}
    for coupling in (couplings.independent(), couplings.optimal_transport(), couplings.sinkhorn(0.5)):
        pairing = coupling(KEY, noise, data)
        moved, followed = couplings.take(pairing, data, labels)
        assert torch.equal(moved["a"][:, 0], moved["b"])
        assert torch.equal(x1[followed["digit"]], moved["a"])
        assert torch.equal(followed["mask"][:, 0], 2 * followed["digit"])


@pytest.mark.parametrize("make", [couplings.optimal_transport, lambda: couplings.sinkhorn(0.5)])
def test_within_labels_the_noise_does_not_tell_the_label(make):
    """x1 is near +3 or -3 by its label. Without the wrapper the noise given a label has another mean."""
    num = 128
    labels = torch.arange(num) % 2
    noise, jitter = random.normal(KEY, (2, num, 1), dtype=torch.float64)
    data = 6.0 * labels[:, None] - 3 + 0.1 * jitter
    for coupling, is_right in ((make(), False), (couplings.within_labels(make()), True)):
        pairing = coupling(KEY, noise, data, labels)
        followed = couplings.take(pairing, data, labels)[1]
        given = noise[followed == 1]
        far = abs(float(given.mean())) * math.sqrt(len(given))
        assert (far < 5) == is_right
        if is_right:
            assert torch.equal(followed, labels)  # row i of the noise came with label i
    inside = couplings.within_labels(couplings.optimal_transport())(KEY, noise, data, labels).index
    assert torch.equal(data[inside][labels == 1][noise[labels == 1, 0].argsort()], data[labels == 1].sort(0).values)


def test_a_soft_penalty_is_between():
    num = 64
    labels = torch.arange(num) % 2
    x0, x1 = clouds(num)
    shares = []
    for penalty in (0.0, 0.3, 100.0):
        pairing = couplings.within_labels(couplings.optimal_transport(), penalty)(KEY, x0, x1, labels)
        shares.append(float((labels[pairing.index] == labels).float().mean()))
    assert shares[0] < shares[1] < shares[2] == 1.0
    assert torch.equal(
        couplings.within_labels(couplings.optimal_transport(), 0.0)(KEY, x0, x1, labels).index,
        couplings.optimal_transport()(KEY, x0, x1).index,
    )


def test_reflow_pairs_noise_with_where_it_flows():
    x0, x1 = clouds(8)
    pairing = couplings.reflow(lambda x: 3 * x)(KEY, x0, x1)
    torch.testing.assert_close(couplings.take(pairing, x1)[0], 3 * x0)
    labels = torch.arange(8)
    pairing = couplings.reflow(lambda x, label: x + label)(KEY, x0, x1, labels)
    moved, followed = couplings.take(pairing, x1, labels)
    torch.testing.assert_close(moved - x0, followed[:, None].expand(8, 2).double())


ALL = {
    "independent": couplings.independent(),
    "optimal_transport": couplings.optimal_transport(),
    "sinkhorn": couplings.sinkhorn(0.3),
    "unbalanced": couplings.unbalanced(0.3, 1.0),
    "within_labels": couplings.within_labels(couplings.optimal_transport()),
}
LABELS = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mapped_is_the_loop_and_dtypes_stay(name, dtype):
    pairs = [clouds(8, dtype=dtype, key=key) for key in random.split(KEY, 3)]
    keys = random.split(random.key(1), 3)
    alone = [ALL[name](key, *pair, LABELS) for key, pair in zip(keys, pairs, strict=True)]
    stacked = tree.stack(pairs)
    together = vmap(lambda key, x0, x1: ALL[name](key, x0, x1, LABELS))(keys, *stacked)
    assert alone[0].weight.dtype == dtype and alone[0].index.dtype == torch.int64
    for index, one in enumerate(alone):
        assert torch.equal(together.index[index], one.index)
        torch.testing.assert_close(together.weight[index], one.weight)


@pytest.mark.slow
@pytest.mark.compiled
def test_compiled_is_eager():
    x0, x1 = clouds(8)

    def all_of(key, x0, x1):
        return [ALL[name](key, x0, x1, LABELS) for name in ("optimal_transport", "sinkhorn", "within_labels")]

    for eager, compiled in zip(all_of(KEY, x0, x1), ebm.jit(all_of)(KEY, x0, x1), strict=True):
        assert torch.equal(eager.index, compiled.index)
        torch.testing.assert_close(compiled.residual, eager.residual, rtol=1e-6, atol=1e-9)


def test_points_that_are_not_finite_are_flagged():
    x0, x1 = clouds(8)
    x1[3, 0] = math.nan
    for name in ("optimal_transport", "sinkhorn"):
        assert ALL[name](KEY, x0, x1, LABELS).residual.isnan()


def test_bad_arguments_are_refused_at_the_door():
    x0, x1 = clouds(8)
    with pytest.raises(ValueError, match="noise and data must be batches of one size"):
        couplings.optimal_transport()(KEY, x0[:5], x1)
    with pytest.raises(ValueError, match="a label for each row"):
        couplings.independent()(KEY, x0, x1, torch.arange(5))
    with pytest.raises(ValueError, match="pairs within labels need labels"):
        couplings.within_labels(couplings.optimal_transport())(KEY, x0, x1)
    with pytest.raises(ValueError, match="the coupling must be one by cost"):
        couplings.within_labels(couplings.independent())
    with pytest.raises(ValueError, match="regularisation must be positive"):
        couplings.sinkhorn(0.0)
    with pytest.raises(ValueError, match="marginal_penalty must be positive"):
        couplings.unbalanced(0.1, -1.0)
