"""An energy whose data ranks hold parts of."""

from __future__ import annotations

import torch

from tests.ranks import work


def test_an_energy_over_parts_of_the_data_is_that_over_all(two):
    (first, draws, refused), (_, others, _) = two.run(work.sharded)
    for got, expected in first:
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(draws[0], draws[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(draws[0], others[0])
    assert ["by its params" in refused[0], *("first derivatives only" in text for text in refused[1:])] == [True] * 3
