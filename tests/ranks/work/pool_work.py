"""Sums over chains that ranks share."""

from __future__ import annotations

import torch

from funcebm import distributed, random
from funcebm.adaptation.welford import all_moments, more_moments, start_moments


def pooled(mesh, num_chains, num_ranks=None):
    """All that a pool says of some numbers, in which no chain is like another."""
    pool = distributed.make_pool(num_chains, mesh)
    x = random.normal(random.key(4), (num_chains, 3)) * 10.0 ** torch.arange(-3, 0)
    own = pool.take(x)
    value = {"x": own, "flag": own[:, 0] > 0, "double": own.double() ** 2}
    moments = []
    for shape in ("diagonal", "dense"):
        state = start_moments(shape, own, pool)
        for factor in (1.0, -0.5):
            state = more_moments(shape, state, own * factor, pool)
        moments.append(all_moments(shape, state, pool))
    blocks = pool.join(torch.nansum(pool.blocks(own), 1))
    keys = pool.gather(pool.split(random.key(1)))
    return {
        "sum": pool.sum(value),
        "mean": pool.mean(own),
        "gather": pool.gather(own),
        "keys": keys,
        "moments": moments,
        "blocks": blocks.sum(0),
    }
