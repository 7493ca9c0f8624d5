"""What 10,000 chains that keep nothing allocate: ``python -m tests.benchmarks.memory`` prints it beside the bound.

The bound is 1.5 times the noise of one chunk, plus the state of the chains. The figure is the most that torch held
at one time during a call, above what it held before, from the record of its allocator; compiling is not in it.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch

import funcebm as ebm

__all__ = ["Allocation", "langevin_without_draws", "peak_bytes"]


class Allocation(NamedTuple):
    """Bytes: the peak of a call, the noise of one of its chunks, and the state of the chains."""

    peak: int
    noise: int
    state: int

    @property
    def bound(self) -> float:
        """The most that the peak may be."""
        return 1.5 * self.noise + self.state


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most bytes held on the CPU at one time while ``call`` runs, above what is held when it starts."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def langevin_without_draws(*, num_chains: int = 10_000, chunk_size: int = 200, jit: bool = True) -> Allocation:
    """Two chunks of unadjusted Langevin steps on a 2-D double well, ``collect`` off."""

    def nothing(state: Any, info: Any) -> tuple[()]:
        return ()

    sampler = ebm.samplers.langevin(ebm.energies.double_well, step_size=0.01)
    params, positions = ebm.energies.double_well.params(), torch.zeros(num_chains, 2)

    def call() -> Any:
        options = {"num_samples": 2 * chunk_size, "chunk_size": chunk_size, "collect": nothing, "jit": jit}
        return ebm.sample(ebm.random.key(0), sampler, params, positions, **options)

    state = call().state
    state_bytes = sum(leaf.numel() * leaf.element_size() for leaf in ebm.tree.leaves(state))
    noise_bytes = chunk_size * positions.numel() * positions.element_size()
    return Allocation(peak_bytes(call), noise_bytes, state_bytes)


if __name__ == "__main__":
    found = langevin_without_draws()
    print(
        f"peak {found.peak / 1e6:.1f} MB, bound {found.bound / 1e6:.1f} MB ({found.noise / 1e6:.1f} MB noise a chunk)"
    )
