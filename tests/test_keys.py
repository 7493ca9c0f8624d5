"""No key is spent twice: all numbers that one application draws come from blocks of the generator of their own."""

from __future__ import annotations

import pytest
import torch

from funcebm import _threefry as threefry
from funcebm import losses, random, samplers, tree
from tests import cases_losses
from tests.cases import SAMPLERS, quartic


def _langevin():
    return samplers.langevin(cases_losses.energy, step_size=0.05)


# where all the numbers are asked for that the table leaves out
ALL_NOISE = {
    "cd": lambda: losses.contrastive_divergence(cases_losses.energy, _langevin(), 2, start="noise", data_noise=0.1),
    "pcd": lambda: losses.persistent_contrastive_divergence(
        cases_losses.energy, _langevin(), 2, buffer_size=10, data_noise=0.1
    ),
    "tempered_cd": lambda: losses.parallel_tempering_contrastive_divergence(
        cases_losses.energy,
        lambda energy, beta: samplers.mala(energy, step_size=0.1),
        [0.5, 1.0],
        2,
        buffer_size=10,
        restart_probability=0.3,
        data_noise=0.1,
    ),
    "improved_cd": lambda: losses.improved_contrastive_divergence(
        cases_losses.energy, _langevin(), 2, buffer_size=20, bank_size=9, data_noise=0.1
    ),
}
LOSSES = {**cases_losses.LOSSES, **{f"{name}_all_noise": make for name, make in ALL_NOISE.items()}}


@pytest.fixture
def spent(monkeypatch):
    """``spent()`` is all blocks that became numbers so far, as rows ``(key, key, counter)``; keys of keys are no numbers."""
    rows, run = [], threefry._draw_blocks

    def watched(key, counter, domain, kind):
        if domain == threefry.BITS:
            counters = counter
            if kind == threefry.NORMAL64:  # two blocks for each pair
                counters = torch.cat([2 * counters, 2 * counters + 1], 1)
            counters = counters.expand(len(key), -1)
            repeated = key[:, None].expand(-1, counters.shape[1], 2)
            rows.append(torch.cat([repeated, counters[..., None]], -1).flatten(0, 1))
        return run(key, counter, domain, kind)

    if not hasattr(threefry, "_library"):
        pytest.skip("without custom operators keys inside of vmap cannot be seen")
    monkeypatch.setattr(threefry, "_draw_blocks", watched)
    return lambda: torch.cat(rows) if rows else torch.empty(0, 3, dtype=torch.int32)


def _assert_each_once(rows):
    assert len(rows) == len(rows.unique(dim=0))


def test_the_watch_sees_a_key_that_is_spent_twice(spent):
    key = random.key(0)
    random.normal(key, (4,))
    random.normal(random.split(key)[0], (4,))
    assert len(spent()) == 4
    _assert_each_once(spent())
    torch.func.vmap(random.uniform)(torch.stack([key, random.key(1)]))
    with pytest.raises(AssertionError):
        _assert_each_once(spent())


@pytest.mark.parametrize("kind", ["tensor", "dict"])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_spends_each_block_once(name, kind, spent):
    make_batch = cases_losses.batch if kind == "tensor" else cases_losses.batch_of_dicts
    loss, batch, params = LOSSES[name](), cases_losses.with_labels(name, make_batch()), cases_losses.params()
    before = len(spent())  # of the batch
    loss.init(random.key(1), params, batch)
    noise = loss.draw(random.key(2), batch)
    rows = spent()[before:]
    assert len(rows) > 0 or not tree.leaves(noise)
    _assert_each_once(rows)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_sampler_spends_each_block_once(name, spent):
    position = {"b": torch.zeros(2, 2), "a": (torch.zeros(()), torch.zeros(3))}
    noise = SAMPLERS[name](quartic, position).draw(random.key(1), position)
    assert len(spent()) > 0 or not tree.leaves(noise)
    _assert_each_once(spent())
