"""On a CUDA device: the same numbers as on the CPU; eager, compiled and replayed."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.func import grad_and_value, vmap

import funcebm as ebm
from funcebm import _threefry as threefry
from funcebm import losses, optimizers, random, training, transforms, tree
from funcebm._torch import cuda_graphs

from . import cases_losses
from .cases import LOSSES, SAMPLERS, quartic, quartic_params

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.compiled,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

COMPILED = (
    "adjusted_mclmc", "barker_dense", "cycle", "dynamic_hmc", "elliptical_slice", "ghmc_three_steps", "hmc", "hmc_multinomial",
    "langevin", "mala", "mclmc", "mix", "nuts", "parallel_tempering", "riemannian_hmc", "sghmc", "thin", "underdamped_baoab",
)  # fmt: skip
TRAINED = (
    "annealed_denoising",
    "cd_hmc",
    "denoising",
    "hutchinson",
    "improved_cd",
    "jarzynski",
    "nce",
    "pcd",
    "tempered_cd",
)


def _cuda(value: Any) -> Any:
    return tree.map(lambda leaf: leaf.cuda(), value)


def _assert_close(got: Any, expected: Any, tolerance: float = 1e-6) -> None:
    assert tree.structure(got) == tree.structure(expected)
    for a, b in zip(tree.leaves(got), tree.leaves(expected), strict=True):
        assert a.is_cuda
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=tolerance, atol=0.01 * tolerance, equal_nan=True)


# -- draws --------------------------------------------------------------------------------------------------------


def test_known_answer_on_the_device():
    words = threefry.threefry(*(torch.full((2,), -1, dtype=torch.int32, device="cuda") for _ in range(2)))
    assert [f"{int(word) % 2**32:08x}" for word in words] == ["1cb996fc", "bb002be7"]


@pytest.mark.parametrize("size", [10, 100_000])
def test_draws_are_those_of_the_cpu(size):
    on_cpu, on_gpu = (random.key(3, device=device) for device in ("cpu", "cuda"))
    assert torch.equal(random.bits(on_gpu, (size,)).cpu(), random.bits(on_cpu, (size,)))
    for draw in (random.normal, random.uniform, random.exponential):
        torch.testing.assert_close(draw(on_gpu, (size,)).cpu(), draw(on_cpu, (size,)), rtol=1e-4, atol=1e-5)
    keys = random.split(on_gpu, 100)
    many = vmap(lambda key: random.normal(key, (3,)))(keys)
    torch.testing.assert_close(many.cpu(), vmap(lambda key: random.normal(key, (3,)))(keys.cpu()), rtol=1e-4, atol=1e-5)


# -- chains -------------------------------------------------------------------------------------------------------


def _sample(name: str, device: str, jit: bool) -> Any:
    positions = 0.5 * random.normal(random.key(1), (5, 3), dtype=torch.float64)
    sampler = SAMPLERS[name](quartic, positions[0])
    params = tree.map(lambda leaf: leaf.to(device), quartic_params(torch.float64))
    options = {"num_samples": 24, "chunk_size": 6, "jit": jit}  # four parts of six: plain, recorded, replayed twice
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*CUDA graph")
        return ebm.sample(random.key(2), sampler, params, positions.to(device), **options)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_eager_chains_are_those_of_the_cpu(name):
    got, expected = _sample(name, "cuda", jit=False), _sample(name, "cpu", jit=False)
    _assert_close((got.draws, got.info, got.state), (expected.draws, expected.info, expected.state))


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_chains_are_those_of_the_cpu(name, monkeypatch):
    counts = _count_replays(monkeypatch)
    got, expected = _sample(name, "cuda", jit=True), _sample(name, "cpu", jit=False)
    _assert_close((got.draws, got.info, got.state), (expected.draws, expected.info, expected.state))
    if name in ("hmc", "langevin", "mala"):
        assert counts[0] == 3


def test_many_parameterisations_in_one_compiled_call():
    stiffness = torch.linspace(0.5, 2.0, 16, dtype=torch.float64)
    positions = random.normal(random.key(1), (8, 3), dtype=torch.float64)
    sampler = SAMPLERS["hmc"](quartic, positions[0])

    def draws(k: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        params = {"k": k, "tilt": torch.full_like(k, 0.4)}
        return ebm.sample(random.key(2), sampler, params, positions, num_samples=5, jit=False).draws

    compiled = ebm.jit(vmap(draws, (0, None)))
    expected = vmap(draws, (0, None))(stiffness, positions)
    for _ in range(3):
        _assert_close(compiled(stiffness.cuda(), positions.cuda()), expected)


@pytest.mark.parametrize("name", ["hmc", "nuts", "mclmc"])
def test_a_warm_up_finds_what_it_finds_on_the_cpu(name):
    positions = random.normal(random.key(1), (16, 3), dtype=torch.float64)
    sampler, params = SAMPLERS[name](quartic, positions[0]), quartic_params(torch.float64)
    options = {"num_steps": 60, "jit": False}
    expected = ebm.warm_up(random.key(3), sampler, params, positions, **options)[1]
    for jit in (False, True):
        options["jit"] = jit
        got = ebm.warm_up(random.key(3), sampler, _cuda(params), positions.cuda(), **options)[1]
        # chaotic: on the CPU too, 1e-15 has grown to 2e-6 here, and to 0.2 in 120 steps
        _assert_close(got, expected, 1e-4)


def test_a_compiled_chunk_does_not_wait_for_the_host(monkeypatch):
    """A run makes the calls of its loops by itself; what is watched here are those calls."""
    calls = []

    def watched(loop: Any, *arguments: Any, **options: Any) -> Any:
        calls.append((loop, arguments))
        return call(loop, *arguments, **options)

    call = transforms.CompiledLoop.__call__
    monkeypatch.setattr(transforms.CompiledLoop, "__call__", watched)
    positions = torch.zeros(64, 3, device="cuda")
    sampler, params = SAMPLERS["mala"](quartic, positions[0].cpu()), _cuda(quartic_params())
    ebm.sample(random.key(0), sampler, params, positions, num_samples=4, jit=True)
    loop, arguments = calls[-1]
    for _ in range(2):
        loop(*arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop(*arguments)
        transforms.use_cuda_graphs(False)
        loop(*arguments)
    finally:
        transforms.use_cuda_graphs(True)
        torch.cuda.set_sync_debug_mode("default")


# -- replays ------------------------------------------------------------------------------------------------------


def _count_replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts = [0]
    replay = cuda_graphs._Recording.replay

    def counted(self: Any, inputs: Any) -> Any:
        counts[0] += 1
        return replay(self, inputs)

    monkeypatch.setattr(cuda_graphs._Recording, "replay", counted)
    return counts


def _growth(start: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    return ebm.loops.scan(lambda x, _: (x + rate * x, x.sum()), start, torch.zeros(7, device=start.device))[1]


def test_replays_read_new_numbers_and_leave_old_results_alone(monkeypatch):
    counts = _count_replays(monkeypatch)
    compiled = ebm.jit(_growth)
    starts = [torch.full((3,), float(i), device="cuda") for i in range(6)]
    rate = torch.tensor(0.1, device="cuda")
    results = [compiled(start, rate) for start in starts]
    for start, result in zip(starts, results, strict=True):
        torch.testing.assert_close(result, _growth(start, rate))
    assert counts[0] == 5  # all but the first
    compiled(torch.ones(9, device="cuda"), rate)  # another shape is not taken for the recorded one
    assert counts[0] == 5


def test_large_inputs_are_read_where_they_lie(monkeypatch):
    counts = _count_replays(monkeypatch)
    data = torch.ones(2**24, device="cuda")
    compiled = ebm.jit(lambda data, x: data[:3] * x)
    for i in range(5):
        data.fill_(i)
        torch.testing.assert_close(compiled(data, torch.ones(3, device="cuda")), torch.full((3,), float(i)).cuda())
    assert counts[0] == 4
    torch.testing.assert_close(compiled(data + 1, torch.ones(3, device="cuda")), torch.full((3,), 5.0).cuda())
    assert counts[0] == 4


def test_what_a_function_closes_over_may_change(monkeypatch):
    counts = _count_replays(monkeypatch)
    scale = {"value": torch.ones(3, device="cuda")}
    compiled = ebm.jit(lambda x: scale["value"] * x)
    for i in range(4):
        scale["value"] = torch.full((3,), float(i), device="cuda")
        torch.testing.assert_close(compiled(torch.ones(3, device="cuda")), scale["value"])
    assert counts[0] > 0


def test_a_loop_that_asks_the_numbers_is_not_recorded(monkeypatch):
    counts = _count_replays(monkeypatch)
    compiled = ebm.jit(lambda x: ebm.loops.while_loop(lambda x: x < 10, lambda x: 2 * x, x))
    for start, end in ((1, 16), (3, 12), (50, 50), (1, 16)):
        assert int(compiled(torch.tensor(start, device="cuda"))) == end
    assert counts[0] == 0


# -- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_and_gradients_are_those_of_the_cpu(name):
    def evaluate(device: str) -> Any:
        inputs = (cases_losses.params(torch.float64), cases_losses.with_labels(name, cases_losses.batch(torch.float64)))
        params, batch = tree.map(lambda leaf: leaf.to(device), inputs)
        key_init, key_draw = random.split(random.key(5, device=device))
        loss = LOSSES[name]()
        memory, noise = loss.init(key_init, params, batch), loss.draw(key_draw, batch)
        gradients, (value, aux) = grad_and_value(loss.value, has_aux=True)(params, memory, batch, noise)
        return gradients, value, aux

    _assert_close(evaluate("cuda"), evaluate("cpu"))


def _train(name: str, device: str, **options: Any) -> Any:
    params, data = (
        cases_losses.params(torch.float64),
        0.5 * random.normal(random.key(40), (37, 3), dtype=torch.float64),
    )
    params, data = tree.map(lambda leaf: leaf.to(device), (params, data))
    optimizer = optimizers.chain(optimizers.clip_by_global_norm(5.0), optimizers.adam(0.02))
    settings = {
        "optimizer": optimizer,
        "num_steps": 20,
        "batch_size": 8,
        "ema_decay": 0.9,
        "chunk_size": 5,
        "jit": True,
        **options,
    }
    return ebm.fit(random.key(41), LOSSES[name](), params, data, **settings)


@pytest.mark.parametrize("name", TRAINED)
def test_training_is_that_of_the_cpu(name):
    expected = _train(name, "cpu", jit=False)
    for jit in (False, True):
        got = _train(name, "cuda", jit=jit)
        _assert_close(
            (got.params, got.ema_params, got.metrics), (expected.params, expected.ema_params, expected.metrics), 1e-5
        )


def test_training_goes_on_from_a_file_on_another_device(tmp_path):
    whole = _train("denoising", "cuda")
    training.save(_train("denoising", "cuda", num_steps=10), tmp_path / "run")
    loaded = training.load(tmp_path / "run", _cuda(cases_losses.params(torch.float64)))
    resumed = _train("denoising", "cuda", num_steps=10, resume=loaded)
    for a, b in zip(
        tree.leaves((resumed.params, resumed.metrics)), tree.leaves((whole.params, whole.metrics)), strict=True
    ):
        assert torch.equal(a, b)
    on_cpu = training.load(tmp_path / "run", cases_losses.params(torch.float64))
    assert {leaf.device.type for leaf in tree.leaves(on_cpu.params)} == {"cpu"}


def test_an_ensemble_trains_as_on_the_cpu():
    energy, params = ebm.energies.mlp(random.key(0), 2, hidden=(8, 8), dtype=torch.float64)
    scales = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
    many = vmap(lambda scale: tree.map(lambda leaf: scale * leaf, params))(scales)
    data = random.normal(random.key(1), (64, 2), dtype=torch.float64)
    loss, optimizer = losses.denoising_score_matching(energy, 0.3), optimizers.adam(1e-2)
    options = {"optimizer": optimizer, "num_steps": 20, "batch_size": 16, "chunk_size": 5}
    expected = training.fit_ensemble(random.key(2), loss, many, data, jit=False, **options).params
    for jit in (False, True):
        got = training.fit_ensemble(random.key(2), loss, _cuda(many), data.cuda(), jit=jit, **options).params
        _assert_close(got, expected, 1e-5)


def test_networks_are_those_of_the_cpu():
    image = torch.linspace(-1, 1, 64).reshape(8, 8)
    convolution = ebm.energies.conv(random.key(0), (8, 8), channels=(4, 8), hidden=(16,))
    residual = ebm.energies.resnet(random.key(0), (8, 8), channels=(2, 3), hidden=(4,))
    for energy, params in (convolution, residual):
        both = torch.func.grad_and_value(energy, argnums=1)
        _assert_close(both(_cuda(params), image.cuda()), both(params, image), 1e-3)


# -- judging ------------------------------------------------------------------------------------------------------


def _discrepancies(x: torch.Tensor, y: torch.Tensor) -> Any:
    d, key = ebm.diagnostics, random.key(1, device=x.device)
    scores = vmap(ebm.fields.score(quartic), (None, 0))(tree.cast_like(quartic_params(), x), x)
    return (
        d.mmd(x, y),
        tuple(d.mmd_test(key, x, y)),
        d.energy_distance(x, y),
        d.sliced_wasserstein(key, x, y),
        d.auroc(x[:, 0], y[:, 0]),
        d.kernel_stein_discrepancy(x, scores),
    )


def test_diagnostics_are_those_of_the_cpu():
    d = ebm.diagnostics
    draws = random.normal(random.key(0), (4, 100, 2), dtype=torch.float64)
    for name in ("rhat", "ess_bulk", "ess_tail", "mcse_mean", "mcse_sd"):
        _assert_close(getattr(d, name)(draws.cuda()), getattr(d, name)(draws))
    assert str(d.summary(draws.cuda())) == str(d.summary(draws))
    x, y = draws.flatten(0, 1)[:150], draws.flatten(0, 1)[150:] + 0.1
    _assert_close(_discrepancies(x.cuda(), y.cuda()), _discrepancies(x, y))


def test_a_log_normalizer_is_that_of_the_cpu():
    def estimate(device: str, jit: bool) -> Any:
        start = ebm.energies.gaussian.params(torch.zeros(2), torch.eye(2))
        params, start = tree.cast_like((quartic_params(), start), torch.zeros((), dtype=torch.float64, device=device))
        options = {"reference": ebm.energies.gaussian, "reference_params": start, "num_temperatures": 20, "jit": jit}
        estimate = ebm.normalizers.annealed_importance_sampling(
            random.key(0), quartic, params, num_particles=64, **options
        )
        return estimate.log_normalizer

    expected = estimate("cpu", False)
    for jit in (False, True):
        _assert_close(estimate("cuda", jit), expected, 1e-3)
