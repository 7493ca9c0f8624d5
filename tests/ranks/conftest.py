"""One warm pool of workers for all tests of ranks: importing torch in each would cost more than the tests."""

from __future__ import annotations

import pytest
import torch

from funcebm import distributed


def _pool(num_ranks: int):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    if not hasattr(torch.library, "register_vmap"):
        pytest.skip("this torch has no custom operators under vmap")
    return distributed.Workers(num_ranks, timeout=120)


@pytest.fixture(scope="session")
def two():
    """Two ranks: ``two.run(function, *arguments)`` gives the values of both."""
    with _pool(2) as workers:
        yield workers


@pytest.fixture(scope="session")
def four():
    """Four ranks, for slow tests."""
    with _pool(4) as workers:
        yield workers
