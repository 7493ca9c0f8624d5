"""The main job behind ``python -m funcebm``: data, an energy, training, chains, a report and a picture.

The energy is that of the data *with normal noise of scale sigma on them*, a density that is smooth everywhere, so that
denoising score matching learns it and chains move about in it; what a chain visits is denoised in one step:

.. math:: E_\\theta(y) = \\frac{|y|^2 / 2 - f_\\theta(y)}{\\sigma^2}, \\qquad
    \\hat x(y) = y - \\sigma^2 \\nabla E_\\theta(y) = \\nabla f_\\theta(y)

Reference: Saremi and Hyvarinen (2019), "Neural Empirical Bayes", JMLR 20(181), walk-jump sampling.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import chains, diagnostics, energies, fields, losses, optimizers, random, samplers, schedules
from ..distributed.mesh import Mesh, single
from ..training import fit
from ..tree import leaves
from ..types import Energy, Key, Params
from .picture import draw
from .tasks import TASKS, Task

__all__ = ["TASKS", "Result", "Task", "run", "run_on"]

_NUM_CHAINS = 64
_NUM_LEAPFROG = 12
_BATCH_SIZE = 128
_REPORTS = 8  # lines of training progress


class Result(NamedTuple):
    """What :func:`run` found.

    Attributes:
        samples: new examples: the last draw of each chain, then up to 7 earlier ones, denoised. ``(S, D)``.
        positions: where the chains were, with noise. ``(64, draws, D)``.
        summary: of all coordinates of the positions and of the energy, by :func:`funcebm.diagnostics.summary`.
        auroc: of held-out against corrupted examples, by name of the corruption.
        seconds: ``compile``, ``training`` and ``sampling``.
    """

    samples: Tensor
    positions: Tensor
    summary: diagnostics.Summary
    auroc: dict[str, float]
    seconds: dict[str, float]


def run(
    name: str,
    *,
    seed: int,
    out: str | os.PathLike[str],
    num_steps: int,
    num_draws: int,
    jit: bool = True,
    device: torch.device | str = "cpu",
    mesh: Mesh = single,
) -> Result | None:
    """Trains, samples, reports on stdout and draws the picture.

    Args:
        name: one of :data:`TASKS`.
        seed: of all random numbers.
        out: the PNG file to write.
        num_steps: of training.
        num_draws: kept of each chain, after half as many that are dropped.
        jit: compile.
        device: where everything runs.
        mesh: of the ranks that share the batches and the chains.

    Returns:
        :class:`Result`; None on ranks but the first, whose part ends with the chains.

    Raises:
        ImportError: matplotlib or, for the digits, scikit-learn is not installed.
        KeyboardInterrupt: Ctrl-C.
    """
    began = time.perf_counter()
    keys = random.split(random.key(seed, device=device), 6)
    key_data, key_params, key_fit, key_start, key_chains, key_score = keys.unbind(0)
    task = TASKS[name](key_data)
    energy, params = _energy(key_params, task)
    size = task.train.shape[1]
    _say("data", f"{name}, {len(task.train):,} to train on, {len(task.held_out):,} held out, {size} numbers each")
    num_params = sum(leaf.numel() for leaf in leaves(params))
    _say("energy", f"of the data with noise {task.noise_scale:g}: a network of {num_params:,} parameters")

    params, seconds = _train(key_fit, task, energy, params, num_steps, jit, mesh)
    samples, sampling_seconds = _sample(key_start, key_chains, task, energy, params, num_draws, jit, mesh)
    if mesh.rank > 0:
        return None
    seconds = {name: seconds.get(name, 0.0) + sampling_seconds.get(name, 0.0) for name in (*seconds, "sampling")}
    positions = samples.draws["position"]
    summary = diagnostics.summary(samples)
    _report_chains(summary, num_draws)

    sets = _score(key_score, task, energy, params, positions)
    auroc = {name: float(diagnostics.auroc(sets["held-out data"], sets[name])) for name in list(sets)[2:]}
    _say("scoring", "AUROC of the energy, held-out data against (1 is best, 0.5 is chance)")
    for name_of_set, value in auroc.items():
        _say("", f"{name_of_set:<24}{value:.3f}")

    chosen = range(num_draws - 1, -1, -max(1, num_draws // 8))[:8]
    drawn = vmap(_denoiser(energy, task), (None, 0))(params, torch.cat([positions[:, index] for index in chosen]))
    nearest = [float(torch.cdist(examples, task.train).amin(1).mean()) for examples in (drawn, task.held_out)]
    _say(
        "novelty", f"distance to the nearest training example: samples {nearest[0]:.3f}, held-out data {nearest[1]:.3f}"
    )
    draw(out, task, energy, params, drawn, sets)
    timed = ", ".join(f"{what} {value:.1f} s" for what, value in seconds.items())
    _say("time", f"{timed}, all {time.perf_counter() - began:.1f} s")
    _say("picture", os.fspath(out))
    return Result(drawn, positions, summary, auroc, seconds)


def run_on(mesh: Mesh, name: str, options: dict[str, Any]) -> None:
    """What one rank does of :func:`run`; the first one reports."""
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        if mesh.rank > 0:
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        run(name, **options, mesh=mesh)


def _energy(key: Key, task: Task) -> tuple[Energy, Params]:
    """The energy of the noisy data; at most as curved as the noise alone where f is convex, and confining everywhere."""
    mean, variance = task.train.mean(0), task.noise_scale**2
    network, params = energies.mlp(key, task.train.shape[1], task.hidden, dtype=task.train.dtype)

    def energy(params: Params, y: Tensor) -> Tensor:
        return (0.5 * (y * y).sum() - network(params, y - mean)) / variance

    return energy, params


def _denoiser(energy: Energy, task: Task) -> Callable[[Params, Tensor], Tensor]:
    gradient = fields.gradient(energy)
    return lambda params, y: y - task.noise_scale**2 * gradient(params, y)


def _train(
    key: Key, task: Task, energy: Energy, params: Params, num_steps: int, jit: bool, mesh: Mesh
) -> tuple[Params, dict[str, float]]:
    loss = losses.denoising_score_matching(energy, task.noise_scale)
    optimizer = optimizers.adam(schedules.cosine(2e-3, 2e-5, num_steps))
    _say("training", f"denoising score matching, {num_steps:,} steps of {_BATCH_SIZE} examples")
    size, ema_decay = task.train.shape[1], max(0.0, min(0.995, 1 - 20 / num_steps))

    def error(value: Tensor) -> float:  # the loss is |denoised - clean|^2 / (2 sigma^4)
        return float((2 * task.noise_scale**4 * value / size).sqrt())

    def progress(step: int, params: Params, metrics: dict[str, Tensor]) -> None:
        value = metrics["loss"].mean()
        _say("", f"step {step:>7,}   loss {float(value):8.3f}   error of the denoised {error(value):.3f}")

    def train(num_steps: int, **options: Any) -> Any:
        result = fit(
            key,
            loss,
            params,
            task.train,
            optimizer=optimizer,
            num_steps=num_steps,
            batch_size=_BATCH_SIZE,
            jit=jit,
            ema_decay=ema_decay,
            mesh=mesh,
            **options,
        )
        if not result.is_complete:
            raise KeyboardInterrupt
        return result

    seconds = {"compile": _seconds(lambda: train(min(num_steps, 2)))[1] if jit else 0.0}
    chunk_size = min(500, -(-num_steps // _REPORTS))
    result, seconds["training"] = _seconds(lambda: train(num_steps, callback=progress, chunk_size=chunk_size))
    key_held_out = random.fold_in(key, num_steps)
    value, _ = loss(key_held_out, result.ema_params, task.held_out)
    skipped = int(result.metrics["skipped"].sum())
    note = f"   ({skipped:,} steps were not finite and were skipped)" if skipped else ""
    _say(
        "",
        f"held-out data  loss {float(value.detach()):8.3f}   error of the denoised {error(value.detach()):.3f}{note}",
    )
    return result.ema_params, seconds


def _sample(
    key_start: Key, key: Key, task: Task, energy: Energy, params: Params, num_draws: int, jit: bool, mesh: Mesh
) -> tuple[chains.Samples, dict[str, float]]:
    """Chains of HMC from plain noise."""
    size = task.train.shape[1]
    # the energy is nowhere much more curved than the noise, 1 / sigma^2
    sampler = samplers.hmc(energy, step_size=0.8 * task.noise_scale, num_leapfrog=_NUM_LEAPFROG, jitter=0.2)
    start = task.train.mean(0) + random.normal(key_start, (_NUM_CHAINS, size), dtype=task.train.dtype)

    def collect(state: Any, info: Any) -> dict[str, Tensor]:
        return {"position": state.position, "energy": info.energy}

    def sample(num_samples: int, num_burn_in: int) -> chains.Samples:
        samples = chains.sample(
            key,
            sampler,
            params,
            start,
            num_samples=num_samples,
            num_burn_in=num_burn_in,
            collect=collect,
            jit=jit,
            mesh=mesh,
            gather="draws",
        )
        if not samples.is_complete:
            raise KeyboardInterrupt
        return samples

    seconds = {"compile": _seconds(lambda: sample(2, 0))[1] if jit else 0.0}
    num_burn_in = max(num_draws // 2, 1)
    samples, seconds["sampling"] = _seconds(lambda: sample(num_draws, num_burn_in))
    how = "compiled" if jit else "eager"
    where = "" if mesh.size == 1 else f" on {mesh.size} ranks"
    _say(
        "sampling",
        f"HMC, {_NUM_CHAINS} {how} chains{where} from noise, {num_burn_in:,} + {num_draws:,} steps of {_NUM_LEAPFROG} gradients",
    )
    return samples, seconds


def _report_chains(summary: diagnostics.Summary, num_draws: int) -> None:
    of_energy = summary.names.index("energy")
    others = [index for index in range(len(summary.names)) if index != of_energy]
    rhat, ess = summary.rhat, summary.ess
    total = _NUM_CHAINS * num_draws
    _say("", f"acceptance rate {summary.acceptance_rate:.3f}, divergences {summary.num_divergent:,} of {total:,} draws")
    _say("", f"R-hat   worst coordinate {rhat[others].max():.3f}, energy {rhat[of_energy]:.3f}")
    _say(
        "", f"ESS     least {ess[others].min():,.0f}, median {ess[others].median():,.0f}, energy {ess[of_energy]:,.0f}"
    )
    if float(rhat.max()) > 1.05:
        _say("", "R-hat above 1.05: the chains have not all seen every mode; the samples are one from each chain")


def _score(key: Key, task: Task, energy: Energy, params: Params, positions: Tensor) -> dict[str, Tensor]:
    """Energies by name. The energy is of noisy data, so everything gets the noise; what chains visit has it."""
    key_corrupt, key_noise = random.split(key)
    examples = {"held-out data": task.held_out, **task.corrupt(key_corrupt, task.held_out)}
    keys = random.split(key_noise, len(examples))
    values = vmap(energy, (None, 0))
    noisy = {
        name: values(params, examples[name] + task.noise_scale * random.normal(keys[index], examples[name].shape))
        for index, name in enumerate(examples)
    }
    drawn = values(params, positions[:, :: max(1, positions.shape[1] // 10)].flatten(0, 1))
    return {"held-out data": noisy.pop("held-out data"), "samples": drawn, **noisy}


def _say(topic: str, text: str) -> None:
    print(f"{topic:<10} {text}", flush=True)


def _seconds(function: Callable[[], Any]) -> tuple[Any, float]:
    """A result, and how long it took to be there; on a GPU too, since all that is called reads its results."""
    began = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - began
