"""Exact normalizers agree with one another and with known numbers."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distributions import assert_uniform
from tests.references import ISING_MOMENTS

from funcebm import energies, graphs, random, spaces, tree
from funcebm.energies import exact

CRITICAL = math.log1p(math.sqrt(2)) / 2
TORUS = {
    (3, 3): {0.2: 6.6697446043, CRITICAL: 9.0202134009, 0.6: 11.5876950134},
    (4, 4): {0.2: 11.7714703585, CRITICAL: 15.5219154588, 0.6: 20.0565328843},
    (3, 4): {0.2: 8.8601826033, CRITICAL: 11.8207279136, 0.6: 15.2202504828},
    (4, 3): {0.2: 8.8601826033, CRITICAL: 11.8207279136, 0.6: 15.2202504828},
}
LARGE = {
    8: (47.010147, 60.141781, 78.141649),
    16: (188.039888, 238.642257, 310.487039),
    32: (752.159552, 952.648080, 1239.868713),
    64: (3008.638207, 3808.672283, 4957.395410),
}


def _number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _plainly(energy):
    """Without what the energy knows by itself: only enumeration is left."""
    return lambda params, x: energy(params, x)


cells = pytest.mark.parametrize(
    ("shape", "coupling", "known"), [(shape, k, z) for shape, row in TORUS.items() for k, z in row.items()]
)


@cells
def test_kaufman_is_the_table(shape, coupling, known):
    assert abs(exact.kaufman(shape, _number(coupling)).item() - known) < 1e-9


@cells
def test_the_transfer_matrix_is_the_table(shape, coupling, known):
    couplings = torch.full(shape, coupling, dtype=torch.float64)
    assert abs(exact.transfer_matrix(couplings, couplings, 0 * couplings).item() - known) < 1e-9


@cells
def test_enumeration_is_the_table(shape, coupling, known):
    energy = energies.ising_torus(shape)
    found = exact.log_normalizer(_plainly(energy), energy.space)(energy.params(_number(coupling)))
    assert abs(found.item() - known) < 1e-9


@pytest.mark.parametrize("side", LARGE)
def test_kaufman_of_large_lattices_is_the_table(side):
    for coupling, known in zip((0.2, CRITICAL, 0.6), LARGE[side], strict=True):
        assert abs(exact.kaufman((side, side), _number(coupling)).item() - known) < 6e-7


def test_the_transfer_matrix_of_eight_by_eight_is_kaufman():
    for coupling in (0.2, CRITICAL, 0.6):
        whole = torch.full((8, 8), coupling, dtype=torch.float64)
        difference = exact.transfer_matrix(whole, whole, 0 * whole) - exact.kaufman((8, 8), _number(coupling))
        assert difference.abs() < 1e-10


def test_kaufman_tends_to_onsager():
    # the corrections at the critical point are a constant over the number of sites
    per_site = 2 * 0.915965594177219 / math.pi + math.log(2) / 2
    assert abs(exact.kaufman((2000, 2000), _number(CRITICAL)).item() / 4e6 - per_site) < 1e-6


def test_bonds_are_the_derivative_of_kaufman():
    known = {8: 1.491589, 16: 1.453065, 32: 1.433658}
    for side, bonds in known.items():
        slope = torch.func.grad(lambda k, side=side: exact.kaufman((side, side), k))(_number(CRITICAL))
        assert abs(slope.item() / side**2 - bonds) < 6e-7
    assert torch.isfinite(torch.func.grad(lambda k: exact.kaufman((5, 7), k))(_number(CRITICAL)))


def test_an_even_torus_does_not_know_the_sign_of_its_coupling():
    energy = energies.ising_torus((4, 4))
    found = exact.log_normalizer(_plainly(energy), energy.space)(energy.params(_number(-0.3)))
    torch.testing.assert_close(exact.kaufman((4, 4), _number(-0.3)), found)


@pytest.mark.parametrize(("shape", "coupling"), ISING_MOMENTS)
def test_bonds_and_magnetisations_are_the_table(shape, coupling):
    energy = energies.ising_torus(shape)

    def moments(x):
        m = x.mean()
        return torch.stack([-energy(energy.params(1.0), x) / x.numel(), m.abs(), m**2])

    found = exact.expectation(energy, energy.space, moments)(energy.params(_number(coupling)))
    torch.testing.assert_close(
        found, torch.tensor(ISING_MOMENTS[shape, coupling], dtype=torch.float64), rtol=0, atol=6e-9
    )


def test_a_ring_in_a_field_has_two_eigenvalues():
    k, h, n = 0.7, 0.3, 9
    root = math.sqrt(math.exp(2 * k) * math.sinh(h) ** 2 + math.exp(-2 * k))
    larger, smaller = math.exp(k) * math.cosh(h) + root, math.exp(k) * math.cosh(h) - root
    known = math.log(larger**n + smaller**n)
    energy = energies.ising(graphs.torus(n))
    params = energy.params(_number(k), h)
    assert abs(exact.log_normalizer(energy, energy.space)(params).item() - known) < 1e-9
    ring = torch.full((n, 1), k, dtype=torch.float64)
    open_row = torch.zeros(n, 0, dtype=torch.float64)
    found = exact.transfer_matrix(open_row, ring, torch.full((n, 1), h, dtype=torch.float64))
    assert abs(found.item() - known) < 1e-9


@pytest.mark.parametrize("rows_open", [True, False])
@pytest.mark.parametrize("columns_open", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (1, 4), (4, 1), (3, 3)])
def test_the_transfer_matrix_takes_any_couplings_fields_and_ends(shape, rows_open, columns_open):
    m, n = shape
    keys = random.split(random.key(m * 10 + n), 3)
    rows = random.normal(keys[0], (m, n - rows_open), dtype=torch.float64)
    columns = random.normal(keys[1], (m - columns_open, n), dtype=torch.float64)
    field = random.normal(keys[2], shape, dtype=torch.float64)

    def energy(params, x):
        rows, columns, field = params
        right = (x * x.roll(-1, 1))[:, : rows.shape[1]]
        below = (x * x.roll(-1, 0))[: columns.shape[0]]
        return -(rows * right).sum() - (columns * below).sum() - (field * x).sum()

    params = (rows, columns, field)
    plain = exact.log_normalizer(energy, spaces.spins(shape))
    by_transfer = lambda params: exact.transfer_matrix(*params, chunk_size=4)  # noqa: E731
    torch.testing.assert_close(by_transfer(params), plain(params), rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.func.grad(by_transfer)(params), torch.func.grad(plain)(params), rtol=0, atol=1e-10)


def test_ising_on_a_graph_is_ising_on_the_torus():
    lattice, graph = energies.ising_torus((3, 4)), energies.ising(graphs.torus((3, 4)))
    states = spaces.sample(random.key(0), lattice.space, 20, dtype=torch.float64)
    field = random.normal(random.key(1), (3, 4), dtype=torch.float64)
    for x in states:
        expected = lattice(lattice.params(_number(0.4), field), x)
        torch.testing.assert_close(graph(graph.params(_number(0.4), field.flatten()), x.flatten()), expected)


def test_the_torus_knows_its_normalizer_with_a_field_and_without():
    small, large = energies.ising_torus((3, 5)), energies.ising_torus((12, 14))
    params = small.params(_number(0.3), random.normal(random.key(0), (3, 5), dtype=torch.float64))
    plain = exact.log_normalizer(_plainly(small), small.space)
    torch.testing.assert_close(exact.log_normalizer(small, small.space)(params), plain(params))
    params = large.params(_number(0.3))
    torch.testing.assert_close(large.log_normalizer(params), exact.kaufman((12, 14), _number(0.3)))
    with pytest.raises(ValueError, match="field of zero"):
        large.log_normalizer(large.params(0.3, 0.1))


# -- restricted Boltzmann machines --------------------------------------------------------------------------------


def _published_rbm():
    i, j = torch.arange(1, 7, dtype=torch.float64)[:, None], torch.arange(1, 5, dtype=torch.float64)
    machine = energies.rbm(6, 4)
    return machine, machine.params(torch.sin(i + 2 * j), 0.1 * (i[:, 0] - 3), 0.2 * (j - 2))


def test_all_sums_of_an_rbm_are_the_known_number():
    machine, params = _published_rbm()
    ways = [
        (machine.free_energy, spaces.binary(6)),
        (machine.hidden_free_energy, spaces.binary(4)),
        (machine.joint, machine.joint_space),
        (machine, machine.space),
    ]
    for energy, space in ways:
        assert abs(exact.log_normalizer(energy, space)(params).item() - 7.794823383489) < 1e-11
    assert abs(machine.log_normalizer(params).item() - 7.794823383489) < 1e-11


def test_a_large_rbm_is_made_and_says_that_it_cannot_be_summed():
    machine = energies.rbm(784, 500)
    params = machine.init(random.key(0))
    assert torch.isfinite(machine(params, torch.zeros(784)))
    with pytest.raises(ValueError, match=r"funcebm\.normalizers"):
        machine.log_normalizer(params)
    deep = energies.deep_boltzmann((40, 90, 50))
    with pytest.raises(ValueError, match=r"funcebm\.normalizers"):
        deep.log_normalizer(deep.init(random.key(0)))


def test_a_gaussian_rbm_has_the_known_normalizer():
    machine = energies.rbm(1, 2, visible="gaussian")
    weight = torch.tensor([[1.1, -0.4]], dtype=torch.float64)
    params = machine.params(weight, 0.3, [0.2, 0.5], scale=0.7)
    assert abs(machine.log_normalizer(params).item() - 3.325380897725) < 1e-11
    nodes = torch.linspace(-15, 15, 30001, dtype=torch.float64)
    values = torch.func.vmap(machine, (None, 0))(params, nodes[:, None])
    by_quadrature = torch.logsumexp(-values, 0) + math.log(30 / 30000)
    torch.testing.assert_close(machine.log_normalizer(params), by_quadrature)


def test_conditionals_of_an_rbm_are_differences_of_its_joint_energy():
    machine, params = _published_rbm()
    for x in spaces.sample(random.key(4), machine.joint_space, 8, dtype=torch.float64):
        expected = []
        for site in range(10):
            pick = torch.arange(10) == site
            off, on = torch.where(pick, 0.0, x), torch.where(pick, 1.0, x)
            expected.append(machine.joint(params, off) - machine.joint(params, on))
        torch.testing.assert_close(machine.conditional(params, x, machine.blocks[0]), torch.stack(expected))
        parts = {"visible": x[:6], "hidden": x[6:]}
        assert machine(params, parts) == machine(params, x)


@pytest.mark.parametrize("widths", [(4, 3), (3, 4)])
def test_draws_of_an_rbm_have_its_law(widths):
    machine = energies.rbm(*widths)
    params = machine.params(random.normal(random.key(1), widths, dtype=torch.float64), 0.2, -0.3)
    draws = machine.sample(random.key(2), params, 20_000)
    numbers = torch.func.vmap(lambda x: spaces.index(machine.space, x))(draws)
    distribution = exact.log_probabilities(machine, machine.space)(params).exp()
    assert_uniform(torch.bincount(numbers, minlength=len(distribution)), distribution)


# -- enumeration --------------------------------------------------------------------------------------------------


def _energy(params, x):
    return params["a"] * (x["b"] @ torch.tensor([1.0, -2.0, 0.5]).to(x["b"])) + torch.sin(
        params["a"] + x["c"][0] @ x["c"][1]
    )


SPACE = {"b": spaces.binary(3), "c": spaces.categorical(2, [2, 3])}


@pytest.mark.parametrize("chunk_size", [1, 5, 16, 48, 1000])
def test_chunks_change_nothing(chunk_size):
    params = {"a": _number(0.8)}
    states = spaces.states(SPACE, torch.float64)
    values = torch.func.vmap(_energy, (None, 0))(params, states)
    sums = exact.log_normalizer(_energy, SPACE, chunk_size=chunk_size)
    torch.testing.assert_close(sums(params), torch.logsumexp(-values, 0))
    table = exact.log_probabilities(_energy, SPACE, chunk_size=chunk_size)(params)
    torch.testing.assert_close(table, torch.log_softmax(-values, 0))
    mean = exact.expectation(_energy, SPACE, lambda x: x, chunk_size=chunk_size)(params)
    for name, leaf in mean.items():
        torch.testing.assert_close(leaf, torch.tensordot(table.exp(), states[name], 1))


def test_the_gradient_of_the_normalizer_is_minus_the_mean_gradient_of_the_energy():
    params = {"a": _number(0.8)}
    slope = torch.func.grad(exact.log_normalizer(_energy, SPACE, chunk_size=7))(params)
    mean = exact.expectation(_energy, SPACE, lambda x: torch.func.grad(_energy)(params, x))(params)
    torch.testing.assert_close(slope["a"], -mean["a"])


def test_draws_by_enumeration_have_the_law():
    params = {"a": _number(0.8)}
    draws = exact.sample(_energy, SPACE)(random.key(0), params, 20_000)
    numbers = torch.func.vmap(lambda x: spaces.index(SPACE, x))(draws)
    distribution = exact.log_probabilities(_energy, SPACE)(params).exp()
    assert_uniform(torch.bincount(numbers, minlength=len(distribution)), distribution)


def test_normalizers_map_over_params():
    energy = energies.ising_torus((3, 3))
    couplings = torch.tensor([0.1, 0.2, 0.6], dtype=torch.float64)
    for way in (exact.log_normalizer(_plainly(energy), energy.space), energy.log_normalizer):
        mapped = torch.func.vmap(lambda k, way=way: way({"coupling": k, "field": _number(0.1)}))(couplings)
        alone = torch.stack([way({"coupling": k, "field": _number(0.1)}) for k in couplings])
        torch.testing.assert_close(mapped, alone)
    torch.testing.assert_close(
        torch.func.vmap(lambda k: exact.kaufman((5, 5), k))(couplings),
        torch.stack([exact.kaufman((5, 5), k) for k in couplings]),
    )


@pytest.mark.compiled
def test_normalizers_compile():
    import funcebm as ebm

    params = {"a": _number(0.8)}
    compiled = ebm.jit(exact.log_normalizer(_energy, SPACE, chunk_size=16))(params)
    torch.testing.assert_close(compiled, exact.log_normalizer(_energy, SPACE)(params))
    whole = torch.full((4, 4), 0.2, dtype=torch.float64)
    compiled = ebm.jit(lambda j, h: exact.transfer_matrix(j, j, h))(whole, 0 * whole)
    assert abs(compiled.item() - 11.7714703585) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtypes_are_kept(dtype):
    lattice, machine = energies.ising_torus((3, 3)), energies.rbm(3, 2)
    params = lattice.params(torch.tensor(0.3, dtype=dtype))
    assert exact.log_normalizer(lattice, lattice.space)(params).dtype == dtype
    assert exact.kaufman((3, 3), torch.tensor(0.3, dtype=dtype)).dtype == dtype
    params = machine.init(random.key(0), torch.full((3,), 0.2, dtype=dtype))
    assert all(leaf.dtype == dtype for leaf in tree.leaves(params))
    assert machine.log_normalizer(params).dtype == dtype
    assert machine.sample(random.key(0), params, 4).dtype == dtype


def _from_the_past(blocks, space, by=lambda x: 0 * x):
    ising = energies.ising(graphs.grid((2, 2)))
    energy = lambda params, x: ising(params, x) - by(x).sum()  # noqa: E731
    return exact.coupling_from_the_past(random.key(0), energy, space, blocks, ising.params(0.5), 2)


@pytest.mark.parametrize(("coupling", "dtype"), [(400.0, torch.float64), (50.0, torch.float32)])
def test_no_coupling_is_too_strong(coupling, dtype):
    strength = torch.tensor(coupling, dtype=dtype)
    expected = 24 * strength + math.log(2)  # two ground states of 12 sites
    torch.testing.assert_close(exact.kaufman((3, 4), strength), expected)
    lattice = strength.expand(3, 4)
    torch.testing.assert_close(exact.transfer_matrix(lattice, lattice, 0 * lattice), expected)


def test_a_field_may_turn_rows_that_another_field_has_fixed():
    rows, columns = torch.zeros(3, 2, dtype=torch.float64), torch.full((2, 3), 1000.0, dtype=torch.float64)
    field = torch.tensor([400.0, -500.0, 0.0], dtype=torch.float64)[:, None].expand(3, 3)
    found = exact.transfer_matrix(rows, columns, field)  # all spins down: 6 bonds of 1000, and 3 (500 - 400)
    torch.testing.assert_close(found, _number(6300.0))


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 1000])
def test_states_of_no_probability_change_nothing(chunk_size):
    def energy(params, x):
        return torch.where(x[0] > 0, torch.inf, (params * x[1:]).sum())

    params, space = torch.tensor([0.3, -1.0], dtype=torch.float64), spaces.binary(3)
    log_z = exact.log_normalizer(energy, space, chunk_size=chunk_size)
    expected = torch.nn.functional.softplus(-params).sum()
    torch.testing.assert_close(log_z(params), expected)
    mean = exact.expectation(energy, space, lambda x: x, chunk_size=chunk_size)(params)
    torch.testing.assert_close(mean, torch.cat([_number(0.0)[None], torch.sigmoid(-params)]))
    torch.testing.assert_close(torch.func.grad(log_z)(params), -torch.sigmoid(-params))
    torus = torch.full((3, 3), 0.2, dtype=torch.float64)
    found = exact.transfer_matrix(torus, torus, 0 * torus, chunk_size=chunk_size)
    torch.testing.assert_close(found, _number(TORUS[3, 3][0.2]), atol=1e-9, rtol=0)


def test_dtypes_of_one_sum_go_together():
    fields, couplings = torch.ones(3, 2), torch.zeros(2, 2, 2, dtype=torch.float64)
    expected = _number(3 + 3 * math.log(2))
    torch.testing.assert_close(exact.tree_log_normalizer(graphs.grid(3), fields, couplings), expected)
    whole = torch.ones(3, 3, dtype=torch.int64)
    torch.testing.assert_close(exact.transfer_matrix(whole, whole, 0.0 * whole), exact.kaufman((3, 3), 1.0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: exact.log_normalizer(_energy, spaces.binary(40)), "1.1e\\+12 states"),
        (lambda: exact.log_normalizer(_energy, spaces.real(2)), "only discrete spaces"),
        (lambda: exact.kaufman((2, 4), 0.3), "each side"),
        (lambda: exact.kaufman((3, 4), -0.3), "coupling must be positive"),
        (lambda: exact.kaufman((3, 4), 0.0), "log\\(2\\)"),
        (lambda: exact.transfer_matrix(torch.ones(3, 2), torch.ones(4, 4), torch.ones(4, 4)), "open ends"),
        (lambda: energies.ising_torus((2, 4)), "each side"),
        (
            lambda: exact.sample(lambda params, x: x.sum() + torch.inf, spaces.binary(2))(random.key(0), (), 2),
            "possible",
        ),
        (lambda: exact.sample(lambda params, x: x.sum() * torch.nan, spaces.binary(2))(random.key(0), (), 2), "NaN"),
        (lambda: exact.tree_log_normalizer(graphs.grid(3), torch.zeros(2), torch.zeros(2, 2, 2)), r"\(N, K\)"),
        (lambda: _from_the_past(torch.ones(1, 4, dtype=torch.bool), spaces.spins(4)), "must not interact"),
        (lambda: _from_the_past(torch.eye(4, dtype=torch.bool), spaces.spins(4), lambda x: x**3), "linear"),
        (lambda: _from_the_past(torch.eye(3, dtype=torch.bool), spaces.spins(4)), r"blocks must be \(B, 4\)"),
        (lambda: energies.ising(torch.tensor([[0, 0]])), "itself"),
        (lambda: energies.ising(graphs.grid(3)).params(torch.ones(3)), r"shape \(2,\)"),
        (lambda: energies.ising(graphs.grid(3))({}, torch.ones(2, 3)), "vmap"),
        (lambda: energies.rbm(3, 2).params(torch.ones(2, 3)), "Rows are visible"),
        (lambda: energies.rbm(3, 2, visible="other"), "gaussian"),
        (lambda: energies.rbm(3, 2)({}, torch.ones(4)), "vmap"),
    ],
)
def test_bad_calls_are_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()
