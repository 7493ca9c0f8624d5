"""On a CUDA device: the same numbers as on the CPU, eager and compiled."""

from __future__ import annotations

import pytest
import torch

import funcebm as ebm
from funcebm import random, threefry

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def _energy(params, x):
    return params * ((x**2 - 1) ** 2).sum()


def test_known_answer_on_the_device():
    words = threefry.threefry(*(torch.full((2,), -1, dtype=torch.int32, device="cuda") for _ in range(2)))
    assert [f"{int(word) % 2**32:08x}" for word in words] == ["1cb996fc", "bb002be7"]


@pytest.mark.parametrize("size", [10, 100_000])
def test_draws_are_those_of_the_cpu(size):
    on_cpu, on_gpu = (random.key(3, device=device) for device in ("cpu", "cuda"))
    assert torch.equal(random.bits(on_gpu, (size,)).cpu(), random.bits(on_cpu, (size,)))
    torch.testing.assert_close(
        random.normal(on_gpu, (size,)).cpu(), random.normal(on_cpu, (size,)), rtol=1e-4, atol=1e-5
    )


def test_a_run_on_the_device_is_the_run_on_the_cpu_compiled_or_not():
    starts = random.normal(random.key(1), (64, 2), dtype=torch.float64)
    sampler = ebm.samplers.mala(_energy, step_size=0.05)
    runs = [
        ebm.sample(
            random.key(0), sampler, torch.tensor(2.0, device=device), starts.to(device), num_samples=20, jit=jit
        ).draws
        for device, jit in (("cpu", False), ("cuda", False), ("cuda", True))
    ]
    assert runs[1].is_cuda and runs[2].is_cuda
    for draws in runs[1:]:
        torch.testing.assert_close(draws.cpu(), runs[0], rtol=1e-6, atol=1e-8)


def test_a_compiled_chunk_does_not_wait_for_the_host():
    sampler = ebm.samplers.mala(_energy, step_size=0.05)
    params, starts = torch.tensor(2.0, device="cuda"), torch.zeros(64, 2, device="cuda")
    chunk = ebm.transforms.jit_once(
        ebm.chain_loop.make_chunk, sampler._replace(tuning=()), None, lambda state, info: state.position, None, True, -1
    )
    tuning = ebm.tree.cast_like(sampler.tuning, starts)
    state = torch.func.vmap(sampler.init, (None, 0))(params, starts)
    keys, indices = random.split(random.key(0, device="cuda"), 64), torch.arange(10, device="cuda").reshape(10, 1)
    xs = (indices, ebm.chain_loop.draw_noise(sampler, keys, starts, indices, -1))
    carry = ebm.chain_loop.to_inside((state, ()), -1)
    chunk(params, tuning, carry, xs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        chunk(params, tuning, carry, xs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
