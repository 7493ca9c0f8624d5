"""What every sampler promises, swept over the table: structure, replay, and chains that do not depend on how they are run."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import random, tree

from .cases import ENERGIES, SAMPLERS, quartic, quartic_params

NUM_CHAINS = 4


def _positions(kind: str, dtype: torch.dtype = torch.float32):
    key_a, key_b = random.split(random.key(5))
    if kind == "tensor":
        return random.normal(key_a, (NUM_CHAINS, 3), dtype=dtype)
    normal = lambda key, *shape: random.normal(key, (NUM_CHAINS, *shape), dtype=dtype)  # noqa: E731
    return {"b": normal(key_a, 2, 2), "a": (normal(key_b), normal(key_a, 3))}


def _case(name: str, kind: str = "tensor", dtype: torch.dtype = torch.float32):
    positions = _positions(kind, dtype)
    sampler = SAMPLERS[name](quartic, tree.map(lambda leaf: leaf[0], positions))
    return (
        sampler._replace(tuning=tree.cast_like(sampler.tuning, tree.first(positions))),
        quartic_params(dtype),
        positions,
    )


def _same(a, b) -> bool:
    assert tree.structure(a) == tree.structure(b)
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


def _close(a, b, tolerance: float = 1e-5) -> None:
    assert tree.structure(a) == tree.structure(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


def _run(case, num_samples: int = 4, **options):
    sampler, params, positions = case
    options = {"jit": False, **options}
    return ebm.sample(random.key(3), sampler, params, positions, num_samples=num_samples, **options)


sweep = pytest.mark.parametrize("name", list(SAMPLERS))
kinds = pytest.mark.parametrize("kind", ["tensor", "tree"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@sweep
@kinds
@dtypes
def test_one_step_keeps_structure_shapes_and_dtypes(name, kind, dtype):
    sampler, params, positions = _case(name, kind, dtype)
    position = tree.map(lambda leaf: leaf[0], positions)
    state = sampler.init(params, position)
    noise = sampler.draw(random.key(0), position)
    after, info = sampler.step(params, sampler.tuning, state, noise)
    for value in (state, noise, after, info, sampler.tuning):
        for leaf in tree.leaves(value):
            assert isinstance(leaf, torch.Tensor)
            assert not leaf.is_floating_point() or leaf.dtype == dtype
    assert tree.structure(after) == tree.structure(state)
    assert tree.structure(after.position) == tree.structure(position)
    shapes = lambda value: [leaf.shape for leaf in tree.leaves(value)]  # noqa: E731
    assert shapes(after) == shapes(state)
    assert shapes(after.position) == shapes(position)


@sweep
def test_info_has_the_fields_that_every_reader_expects(name):
    sampler, params, positions = _case(name)
    _, info = sampler(random.key(0), params, sampler.init(params, positions[0]))
    assert info.acceptance_rate.shape == info.energy.shape == info.num_gradients.shape == ()
    assert info.is_accepted.dtype == info.is_divergent.dtype == torch.bool
    assert info.num_gradients.dtype == torch.int32
    assert 0 <= float(info.acceptance_rate) <= 1
    assert not bool(info.is_divergent)


@sweep
@kinds
def test_info_and_state_speak_of_the_new_position(name, kind):
    sampler, params, positions = _case(name, kind, torch.float64)
    state = sampler.init(params, tree.map(lambda leaf: leaf[0], positions))
    for i in range(3):
        state, info = sampler(random.key(i), params, state)
        _close(info.energy, quartic(params, state.position), 1e-12)
        fresh = sampler.init(params, state.position)
        for field in set(state._fields) & {"energy", "gradient"}:
            _close(getattr(state, field), getattr(fresh, field), 1e-12)


@sweep
@kinds
def test_inputs_stay_as_they_were(name, kind):
    sampler, params, positions = _case(name, kind)
    copies = tree.map(torch.clone, (params, positions, tuple(sampler.tuning)))
    samples = _run((sampler, params, positions))
    ebm.resume(samples, num_samples=2)
    assert _same(copies, (params, positions, tuple(sampler.tuning)))


@sweep
def test_same_key_same_numbers_and_another_key_others(name):
    case = _case(name)
    assert _same(_run(case).draws, _run(case).draws)
    sampler, params, positions = case
    if tree.leaves(sampler.draw(random.key(0), positions[0])):
        other = ebm.sample(random.key(4), sampler, params, positions, num_samples=4, jit=False)
        assert not torch.equal(other.draws, _run(case).draws)
        assert len(torch.unique(_run(case).draws[:, -1, 0])) == NUM_CHAINS


@sweep
@kinds
def test_chains_are_the_loop_that_the_documentation_describes(name, kind):
    """Chain key ``split(key, C)[c]``, step key ``fold_in(chain_key, i)``, one chain at a time, in Python."""
    sampler, params, positions = case = _case(name, kind, torch.float64)
    samples = _run(case, num_samples=3, num_burn_in=3, thin=2)
    for c, chain_key in enumerate(random.split(random.key(3), NUM_CHAINS)):
        state = sampler.init(params, tree.map(lambda leaf: leaf[c], positions))  # noqa: B023
        for i in range(9):
            state, info = sampler(random.fold_in(chain_key, i), params, state)
            if i >= 3 and i % 2 == 0:
                n = (i - 4) // 2
                _close(tree.map(lambda leaf: leaf[c, n], samples.draws), state.position, 1e-11)  # noqa: B023
                _close(tree.map(lambda leaf: leaf[c, n], samples.info), info, 1e-11)  # noqa: B023
        _close(tree.map(lambda leaf: leaf[c], samples.state), state, 1e-11)  # noqa: B023


@sweep
def test_a_cut_run_goes_on_bit_for_bit(name):
    case = _case(name, "tree")
    whole = _run(case, 7, num_burn_in=1, thin=2)
    first = _run(case, 3, num_burn_in=1, thin=2)
    second = ebm.resume(first, num_samples=4)
    joined = tree.map(lambda a, b: torch.cat([a, b], 1), (first.draws, first.info), (second.draws, second.info))
    assert _same(joined, (whole.draws, whole.info))
    assert _same(second.state, whole.state)


@sweep
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
def test_chunks_change_nothing(name, chunk_size):
    case = _case(name)
    assert _same(tuple(_run(case, 7)[:4]), tuple(_run(case, 7, chunk_size=chunk_size)[:4]))


@sweep
def test_a_chain_does_not_know_how_many_others_there_are(name):
    sampler, params, positions = case = _case(name, dtype=torch.float64)
    alone = _run((sampler, params, positions[:1]))
    torch.testing.assert_close(alone.draws[0], _run(case).draws[0], rtol=1e-12, atol=1e-12)


@sweep
def test_the_sampler_goes_through_vmap_over_parameters_and_tunings(name):
    sampler, params, positions = _case(name, dtype=torch.float64)

    def scaled(tuning, factor):
        if not hasattr(tuning, "_fields"):  # of several samplers
            return tuple(scaled(part, factor) for part in tuning)
        field = "step_size" if "step_size" in tuning._fields else tuning._fields[0]
        return tuning._replace(**{field: factor * getattr(tuning, field)})

    def last(k, factor):
        options = {"num_samples": 3, "tuning": scaled(sampler.tuning, factor), "jit": False}
        return ebm.sample(random.key(3), sampler, {**params, "k": k}, positions, **options).draws[:, -1]

    ks, factors = torch.tensor([0.5, 1.0, 2.0]).double(), torch.tensor([1.0, 0.5, 0.7]).double()
    mapped = torch.func.vmap(last)(ks, factors)
    torch.testing.assert_close(mapped, torch.stack([last(*pair) for pair in zip(ks, factors, strict=True)]))


@sweep
def test_gradients_flow_through_the_steps(name):
    """Pathwise derivatives: given the noise, a chain is a function of params like any other."""
    sampler, params, positions = _case(name, dtype=torch.float64)

    def mean(k):
        samples = ebm.sample(random.key(3), sampler, {**params, "k": k}, positions, num_samples=3, jit=False)
        return samples.draws.mean()

    k, h = params["k"], 1e-6
    slope = torch.func.grad(mean)(k)
    torch.testing.assert_close(slope, (mean(k + h) - mean(k - h)) / (2 * h), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["langevin", "hmc_jittered"])
@pytest.mark.parametrize("energy_name", list(ENERGIES))
def test_every_energy_can_be_sampled(name, energy_name):
    energy, params, position = ENERGIES[energy_name]
    sampler = SAMPLERS[name](energy, position)
    tuning = sampler.tuning._replace(step_size=0.01 * sampler.tuning.step_size)
    positions = tree.map(torch.clone, tree.broadcast(position, 2))
    samples = ebm.sample(random.key(0), sampler, params, positions, num_samples=2, tuning=tuning, jit=False)
    assert bool(tree.all_finite((samples.draws, samples.info.energy)))
    assert not samples.info.is_divergent.any()
