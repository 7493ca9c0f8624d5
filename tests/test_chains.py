"""Runs of many chains: options, bad input, interrupts; what does not depend on how a run is made is in test_contracts."""

from __future__ import annotations

import time

import pytest
import torch
from torch.func import grad, vmap

import funcebm as ebm
from funcebm import _progress as progress
from funcebm import chains, random, reducers, samplers, schedules, tree

KEY = random.key(0)


def _energy(params, x):
    return params * (x**2).sum() / 2


SAMPLER = samplers.mala(_energy, step_size=0.5)
PARAMS = torch.tensor(1.5)
POSITIONS = random.normal(random.key(1), (3, 2))


def _sample(**options):
    options = {"num_samples": 6, "jit": False, **options}
    sampler = options.pop("sampler", SAMPLER)
    key, params, positions = (options.pop(name, value) for name, value in _ARGUMENTS.items())
    return ebm.sample(key, sampler, params, positions, **options)


_ARGUMENTS = {"key": KEY, "params": PARAMS, "positions": POSITIONS}


# -- options ------------------------------------------------------------------------------------------------------


def test_shapes():
    samples = _sample()
    assert samples.draws.shape == (3, 6, 2)
    assert all(leaf.shape == (3, 6) for leaf in tree.leaves(samples.info))
    assert samples.state.position.shape == (3, 2)
    assert samples.reduced == ()
    assert samples.is_complete is True


def test_the_last_draw_is_the_state():
    samples = _sample(thin=2)
    assert torch.equal(samples.draws[:, -1], samples.state.position)


def test_thin_keeps_each_so_manieth_draw():
    assert torch.equal(_sample(thin=3, num_samples=4).draws, _sample(num_samples=12).draws[:, 2::3])


@pytest.mark.parametrize(("num_burn_in", "thin"), [(4, 1), (4, 2), (5, 2), (1, 3)])
def test_burn_in_drops_the_first_steps(num_burn_in, thin):
    whole = _sample(num_samples=num_burn_in + 3 * thin).draws[:, num_burn_in:]
    assert torch.equal(_sample(num_burn_in=num_burn_in, thin=thin, num_samples=3).draws, whole[:, thin - 1 :: thin])


def test_collect_says_what_is_kept():
    samples = _sample(collect=lambda state, info: {"energy": info.energy, "norm": state.position.norm()})
    torch.testing.assert_close(samples.draws["norm"], _sample().draws.norm(dim=-1))
    assert torch.equal(samples.draws["energy"], samples.info.energy)


def test_collect_nothing_keeps_nothing():
    samples = _sample(collect=lambda state, info: ())
    assert samples.draws == ()
    assert samples.info == ()
    assert torch.equal(samples.state.position, _sample().state.position)


def test_a_tuning_of_ones_own():
    tuning = SAMPLER.tuning._replace(step_size=torch.tensor(0.1))
    expected = _sample(sampler=samplers.mala(_energy, step_size=0.1)).draws
    assert torch.equal(_sample(tuning=tuning).draws, expected)


def test_a_schedule_of_the_tuning_counts_steps_from_the_start():
    """Burn-in and the steps between draws included; resuming goes on with it."""
    step_size = schedules.linear(0.5, 0.1, 12)
    tuning = lambda index: SAMPLER.tuning._replace(step_size=step_size(index))  # noqa: E731
    state = SAMPLER.init(PARAMS, POSITIONS[0])
    key = random.split(KEY, 3)[0]
    for i in range(12):
        now = SAMPLER.tuning._replace(step_size=step_size(torch.tensor(i)))
        state, _ = SAMPLER(random.fold_in(key, i), PARAMS, state, now)
    samples = _sample(tuning=tuning, num_burn_in=2, thin=2, num_samples=5)
    torch.testing.assert_close(samples.draws[0, -1], state.position)
    first = _sample(tuning=tuning, num_burn_in=2, thin=2, num_samples=2)
    assert torch.equal(ebm.resume(first, num_samples=3).draws, samples.draws[:, 2:])


def test_resuming_takes_more_than_one_cut():
    samples, draws = _sample(num_samples=1), []
    for num in (1, 2, 3):
        samples = ebm.resume(samples, num_samples=num)
        draws.append(samples.draws)
    assert torch.equal(torch.cat(draws, 1), _sample(num_samples=7).draws[:, 1:])


def test_positions_may_be_trees_in_which_leaves_lead_with_chains():
    energy = lambda params, x: (x["a"] ** 2).sum() + x["b"] ** 2  # noqa: E731
    positions = {"b": torch.zeros(3), "a": torch.zeros(3, 2, 2)}
    samples = _sample(sampler=samplers.hmc(energy), positions=positions)
    assert samples.draws["b"].shape == (3, 6)
    assert samples.draws["a"].shape == (3, 6, 2, 2)


@pytest.mark.parametrize("num_dims", [3, 40])
def test_the_layout_inside_does_not_show(num_dims):
    """Small and large positions are laid out differently inside a run."""
    positions = random.normal(KEY, (2, num_dims), dtype=torch.float64)
    samples = _sample(positions=positions, num_samples=2)
    key, state = random.split(KEY, 2)[1], SAMPLER.init(PARAMS, positions[1])
    for i in range(2):
        state, _ = SAMPLER(random.fold_in(key, i), PARAMS, state)
    torch.testing.assert_close(samples.draws[1, 1], state.position)
    assert samples.draws.shape == (2, 2, num_dims)


# -- transforms ---------------------------------------------------------------------------------------------------


def test_a_whole_run_goes_through_vmap():
    """Its ``Samples`` too, over params, keys and starts."""
    ks = torch.tensor([0.5, 1.0, 2.0])
    mapped = vmap(lambda k: _sample(params=k))(ks)
    assert mapped.draws.shape == (3, 3, 6, 2)
    assert mapped.run == ()
    torch.testing.assert_close(mapped.draws[2], _sample(params=ks[2]).draws)
    keys = random.split(KEY, 2)
    torch.testing.assert_close(vmap(lambda key: _sample(key=key).draws)(keys)[1], _sample(key=keys[1]).draws)
    starts = torch.stack([POSITIONS, 2 * POSITIONS])
    got = vmap(lambda start: _sample(positions=start, num_burn_in=2, thin=2, chunk_size=2).draws)(starts)
    torch.testing.assert_close(got[1], _sample(positions=starts[1], num_burn_in=2, thin=2).draws)


def test_a_run_that_reduces_goes_through_vmap():
    ks = torch.tensor([0.5, 2.0])
    mapped = vmap(lambda k: _sample(params=k, reduce=reducers.mean()).reduced)(ks)
    torch.testing.assert_close(mapped[1], _sample(params=ks[1], reduce=reducers.mean()).reduced)


def test_gradients_flow_through_a_run_to_params_starts_and_tunings():
    sampler = samplers.langevin(_energy, step_size=0.25)
    k, start = torch.tensor(1.5).double(), POSITIONS.double()
    sampler = sampler._replace(tuning=tree.map(torch.Tensor.double, sampler.tuning))

    def last(k, start, step_size):
        tuning = sampler.tuning._replace(step_size=step_size)
        options = {"num_samples": 2, "chunk_size": 1, "num_burn_in": 1, "tuning": tuning}
        return _sample(sampler=sampler, params=k, positions=start, **options).draws[:, -1].sum()

    h = torch.tensor(0.25).double()
    slopes = grad(last, argnums=(0, 1, 2))(k, start, h)
    torch.testing.assert_close(slopes[1], ((1 - h * k) ** 3).expand(3, 2))  # a linear recursion
    for index in (0, 2):
        step = torch.zeros(3).double()
        step[index] = 1e-6
        difference = last(k + step[0], start, h + step[2]) - last(k - step[0], start, h - step[2])
        torch.testing.assert_close(slopes[index], difference / 2e-6, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transform", [vmap, grad])
def test_jit_inside_of_a_transform_is_an_error_with_the_fix(transform):
    argument = torch.ones(2) if transform is vmap else torch.ones(())
    with pytest.raises(ValueError, match=r"jit=True must be outermost. .* Pass jit=False here"):
        transform(lambda k: _sample(params=k, jit=True).draws.sum())(argument)


# -- interrupts ---------------------------------------------------------------------------------------------------


class _Bar:
    """A bar that the user interrupts."""

    def __init__(self, patience: int):
        self.num, self.patience = 0, patience

    def update(self, num):
        self.num += num
        if self.num >= self.patience:
            self.patience = 10**9
            raise KeyboardInterrupt

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


@pytest.mark.parametrize("num_burn_in", [0, 3])
def test_an_interrupt_gives_back_what_is_finished(monkeypatch, num_burn_in):
    monkeypatch.setattr(chains._run, "progress_bar", lambda *_: _Bar(5))
    samples = _sample(num_samples=20, chunk_size=8, num_burn_in=num_burn_in, thin=2)
    monkeypatch.undo()
    whole = _sample(num_samples=20, num_burn_in=num_burn_in, thin=2)
    done = samples.draws.shape[1]
    assert samples.is_complete is False
    assert 5 <= done < 20
    assert torch.equal(samples.draws, whole.draws[:, :done])
    assert samples.info.energy.shape == (3, done)
    assert torch.equal(samples.state.position, samples.draws[:, -1])
    assert torch.equal(ebm.resume(samples, num_samples=20 - done).draws, whole.draws[:, done:])


def test_an_interrupt_of_the_burn_in_gives_back_a_run_that_goes_on(monkeypatch, tmp_path):
    for options in ({}, {"reduce": {"mean": reducers.mean()}}):
        monkeypatch.setattr(chains._run, "progress_bar", lambda *_: _Bar(6))
        samples = _sample(num_samples=5, chunk_size=3, num_burn_in=10, thin=2, **options)
        monkeypatch.undo()
        whole = _sample(num_samples=5, num_burn_in=10, thin=2, **options)
        assert samples.is_complete is False and samples.draws == ()
        assert samples.run.num_steps == 6 and samples.run.num_burn_in == 4
        assert "3 chains" in repr(samples)
        ebm.save(samples, tmp_path / "run.safetensors")
        loaded = ebm.load(tmp_path / "run.safetensors", samples.run.sampler, **options)
        for cut in (samples, loaded):
            end = ebm.resume(cut, num_samples=5)
            assert all(
                map(torch.equal, tree.leaves((end.draws, end.reduced)), tree.leaves((whole.draws, whole.reduced)))
            )


def test_calls_of_an_eager_run_are_short_and_change_nothing(monkeypatch):
    sizes = []

    def update(self, num):
        sizes.append(num)
        time.sleep(0.02 * num)

    monkeypatch.setattr(_Bar, "update", update)
    monkeypatch.setattr(chains._run, "progress_bar", lambda *_: _Bar(1))
    slow = _sample(num_samples=60)
    monkeypatch.undo()
    assert torch.equal(slow.draws, _sample(num_samples=60, chunk_size=60).draws)
    assert sum(sizes) == 60 and sizes[0] == 16 and max(sizes[1:]) <= 16


def test_an_interrupt_keeps_what_was_reduced(monkeypatch):
    monkeypatch.setattr(chains._run, "progress_bar", lambda *_: _Bar(4))
    samples = _sample(num_samples=20, chunk_size=8, reduce=reducers.mean())
    monkeypatch.undo()
    assert samples.is_complete is False
    whole = ebm.resume(samples, num_samples=20 - samples.run.num_steps)
    torch.testing.assert_close(whole.reduced, _sample(num_samples=20).draws.mean(1))


def test_progress_shows_a_bar_and_changes_nothing(capsys):
    pytest.importorskip("tqdm")
    assert torch.equal(_sample(progress=True, chunk_size=2).draws, _sample().draws)
    assert "sampling: 100%" in capsys.readouterr().err


def test_progress_without_tqdm_warns_and_goes_on(monkeypatch):
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    with pytest.warns(RuntimeWarning, match="pip install tqdm"):
        assert torch.equal(_sample(progress=True).draws, _sample().draws)


# -- bad input ----------------------------------------------------------------------------------------------------


def _wider(tuning):
    return {"step_size": tuning.step_size, "extra": tuning.temperature}


BAD = {
    "energy of a vector": (
        {"sampler": samplers.mala(lambda params, x: x**2)},
        ValueError,
        r"an energy must return a 0-d tensor for one particle. Got the shape \(2,\)",
    ),
    "nesterov, energy of a vector": (
        {"sampler": samplers.nesterov(lambda params, x: x**2)},
        ValueError,
        "an energy must return a 0-d tensor for one particle",
    ),
    "energy not finite": (
        {"positions": torch.tensor([[0.0, 0.0], [torch.nan, 0.0], [0.0, torch.inf]])},
        ValueError,
        "must be finite at the start. Got chains 1, 2. Start these chains inside the support",
    ),
    "many chains not finite": (
        {"positions": torch.full((30, 2), torch.nan)},
        ValueError,
        "Got chains 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more",
    ),
    "no chain axis": ({"positions": torch.zeros(())}, ValueError, "must lead with a chain axis. Got a 0-d tensor"),
    "no chain axis in a leaf": (
        {"positions": {"a": torch.zeros(3), "b": torch.zeros(())}},
        ValueError,
        "must lead with a chain axis. Got leaf 'b'",
    ),
    "no chains": ({"positions": torch.zeros(0, 2)}, ValueError, "at least one chain"),
    "integers": ({"positions": torch.zeros(3, 2).long()}, TypeError, r"floating point. Got torch.int64. .*\.float\(\)"),
    "no tensor": ({"positions": [1.0, 2.0]}, TypeError, "positions must hold tensors"),
    "nothing": ({"positions": ()}, ValueError, "positions must hold a tensor. Got an empty tree"),
    "two lengths": (
        {"positions": (torch.zeros(3), torch.zeros(2))},
        ValueError,
        r"share one chain axis. Got lengths \[2, 3\]",
    ),
    "another device": ({"params": torch.zeros((), device="meta")}, ValueError, "must be on one device. Got params on"),
    "key of a wrong shape": ({"key": torch.zeros(3, dtype=torch.int32)}, ValueError, r"a key must be .* shape \(2,\)"),
    "batch of keys": ({"key": random.split(KEY, 3)}, ValueError, "a key must be"),
    "seed for a key": ({"key": 0}, ValueError, "a key must be .* Got 0"),
    "no samples": ({"num_samples": 0}, ValueError, "num_samples must be an integer of at least 1. Got 0"),
    "half a sample": ({"num_samples": 2.5}, ValueError, "num_samples must be an integer"),
    "true samples": ({"num_samples": True}, ValueError, "num_samples must be an integer"),
    "negative burn-in": ({"num_burn_in": -1}, ValueError, "num_burn_in must be an integer of at least 0"),
    "no thin": ({"thin": 0}, ValueError, "thin must be an integer of at least 1"),
    "no chunk": ({"chunk_size": 0}, ValueError, "chunk_size must be an integer of at least 1"),
    "step size": (
        {"tuning": SAMPLER.tuning._replace(step_size=torch.tensor(0.0))},
        ValueError,
        "step_size must be positive and finite. Got 0.0",
    ),
    "tuning of another structure": (
        {"tuning": _wider(SAMPLER.tuning)},
        ValueError,
        r"tuning must be a tree of the same structure as sampler.tuning. Got leaves missing: .*temperature.*extra",
    ),
    "schedule of another structure": (
        {"tuning": lambda i: _wider(SAMPLER.tuning)},
        ValueError,
        "tuning must be a tree",
    ),
    "tuning of floats": ({"tuning": SAMPLER.tuning._replace(step_size=0.1)}, ValueError, "tuning must hold tensors"),
    "inverse mass that does not fit": (
        {"sampler": samplers.hmc(_energy, inverse_mass=torch.ones(3))},
        ValueError,
        r"inverse_mass must have the shapes \[\(2,\)\]",
    ),
}


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.compiled)])
@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_an_error_that_says_the_fix(name, jit):
    options, error, message = BAD[name]
    with pytest.raises(error, match=message) as caught:
        _sample(**options, jit=jit)
    assert str(caught.value).rstrip().endswith(".")


def test_an_error_of_the_energy_itself_comes_through_as_it_is():
    def energy(params, x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        _sample(sampler=samplers.mala(energy))


def test_only_what_sample_returned_can_be_resumed():
    samples = _sample()
    with pytest.raises(ValueError, match="num_samples must be"):
        ebm.resume(samples, num_samples=0)
    with pytest.raises(ValueError, match="samples must hold what a run needs"):
        ebm.resume(samples._replace(run=()), num_samples=2)
