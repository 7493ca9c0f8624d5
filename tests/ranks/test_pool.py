"""The pool of chains: sums whose bits do not depend on how many ranks share them."""

from __future__ import annotations

import pytest
import torch

from funcebm import distributed, random, tree
from tests.ranks import work

COUNTS = [1, 2, 7, 33, 64, 65, 100, 1000]


@pytest.mark.parametrize("num_chains", COUNTS)
def test_a_pool_of_one_process_is_all_chains(num_chains):
    found = work.pooled(distributed.single, num_chains)
    x = random.normal(random.key(4), (num_chains, 3)) * 10.0 ** torch.arange(-3, 0)
    assert torch.equal(found["gather"], x)
    assert torch.equal(found["keys"], random.split(random.key(1), num_chains))
    torch.testing.assert_close(found["sum"]["x"], x.sum(0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found["sum"]["double"], (x.double() ** 2).sum(0), rtol=1e-12, atol=0)
    assert int(found["sum"]["flag"]) == int((x[:, 0] > 0).sum())
    torch.testing.assert_close(found["blocks"], x.sum(0), rtol=1e-5, atol=1e-4)
    draws = torch.cat([x, -x / 2])
    diagonal, dense = found["moments"]
    torch.testing.assert_close(diagonal.second / (diagonal.num - 1), draws.var(0), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(dense.second.diagonal() / (dense.num - 1), draws.var(0), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("num_chains", COUNTS)
def test_two_ranks_see_what_one_sees(two, num_chains):
    alone = work.pooled(distributed.single, num_chains)
    for found in two.run(work.pooled, num_chains):
        _assert_equal(found, alone)


@pytest.mark.slow
@pytest.mark.parametrize("num_chains", COUNTS)
def test_four_ranks_see_what_one_sees(four, num_chains):
    alone = work.pooled(distributed.single, num_chains)
    for found in four.run(work.pooled, num_chains):
        _assert_equal(found, alone)


def test_three_ranks_see_what_one_sees():
    """Ranks that hold other numbers of blocks, played one after the other: what each sends is what the tree adds up."""
    from funcebm.distributed.pool import _layout

    for num_chains in COUNTS:
        layouts = [_layout(num_chains, distributed.single._replace(rank=rank, size=3), None) for rank in range(3)]
        assert sum(layouts[0].num_chains) == num_chains
        firsts = [layout.first for layout in layouts]
        ends = [layout.first + layout.num_chains[rank] for rank, layout in enumerate(layouts)]
        assert firsts[1:] + [num_chains] == ends
        for rank, layout in enumerate(layouts):
            assert int(layout.is_there.sum()) == layout.num_chains[rank]
            held = layout.places[layout.is_there].sort().values
            assert held.tolist() == list(range(layout.num_chains[rank]))


@pytest.mark.parametrize(("num_chains", "held"), [(32, 16), (64, 16), (100, 32), (20, 5), (8, 2)])
def test_ranks_hold_full_registers(num_chains, held):
    """Where that makes them twice as many chains at most; what is repeated is in no sum."""
    from funcebm.distributed.pool import _layout

    for rank in range(4):
        layout = _layout(num_chains, distributed.single._replace(rank=rank, size=4), None, 16)
        assert len(layout.rows) == held
        assert int(layout.is_there.sum()) == layout.num_chains[rank]
    assert len(_layout(num_chains, distributed.single, None, 16).rows) == num_chains


def _assert_equal(found, alone):
    for path, got, expected in zip(tree.paths(alone), tree.leaves(found), tree.leaves(alone), strict=True):
        if path != "blocks":
            assert torch.equal(got, expected), path
