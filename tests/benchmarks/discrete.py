"""Discrete states beside JAX and THRML: ``python -m tests.benchmarks.discrete`` prints three tables, in Markdown.

*Sweeps.* Gibbs sweeps of an Ising torus by two colours at the critical coupling, in spin updates a nanosecond, and of an RBM, in
microseconds a sweep of one chain; the peers are THRML where it is installed, and the loop that users of JAX write by hand. *ESS.*
Samplers of general energies on Ising, Potts and an RBM, in the manner of DISCS, but timed after a first call, on results that
are ready, with step sizes that stay: effective draws a second, and a thousand energies (one gradient counts as one), of the
energy and of the distance to a random state, which hardly sees the slow mode of a symmetric model. *Compiled.* Each
discrete sampler eager and compiled. Contenders are processes of their own, one after the other; times are the best of three.

Reference: Goshvadi et al. (2023), NeurIPS Datasets and Benchmarks, for DISCS.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

__all__ = ["main"]

_clock = time.perf_counter
ROOT = Path(__file__).parents[2]
CRITICAL = math.log1p(math.sqrt(2)) / 2
LATTICES = {64: (64, 100), 128: (64, 25), 256: (64, 10), 512: (16, 10), 1024: (16, 3)}  # side: chains, sweeps
MACHINES = {(784, 16): (100, 100), (784, 500): (100, 10)}  # units: chains, sweeps
WORKERS = ("funcebm", "ess", "compiled", "jax", "thrml")


def _best(run: Callable[[], Any], num: int = 4) -> float:
    """Seconds, the least of some calls; a first one compiles."""
    seconds = []
    for _ in range(num):
        begin = _clock()
        run()
        seconds.append(_clock() - begin)
    return min(seconds)


# -- sweeps -------------------------------------------------------------------------------------------------------


def _funcebm() -> dict[str, float]:
    import funcebm as ebm
    from funcebm import energies, random, samplers, spaces

    found = {}

    def add(name: str, sampler: Any, params: Any, start: Any, num: int, unit: float) -> None:
        keep = lambda state, info: info.energy  # noqa: E731
        options = {"num_samples": 1, "thin": num, "collect": keep, "jit": True}
        found[name] = unit / _best(lambda: ebm.sample(random.key(0), sampler, params, start, **options))

    for side, (chains, num) in LATTICES.items():
        lattice = energies.ising_torus((side, side))
        start = spaces.sample(random.key(1), lattice.space, chains)
        params = lattice.params(coupling=CRITICAL)
        add(f"Ising {side}", samplers.ising_gibbs(lattice), params, start, num, chains * num * side**2 * 1e-9)
        if side == 64:
            generic = samplers.gibbs(lattice, lattice.blocks)
            add("Ising 64, any energy", generic, params, start, num // 4, chains * (num // 4) * side**2 * 1e-9)
    for (visible, hidden), (chains, num) in MACHINES.items():
        machine = energies.rbm(visible, hidden)
        params, start = machine.init(random.key(1)), spaces.sample(random.key(2), machine.space, chains)
        add(f"RBM {visible}-{hidden}", samplers.rbm_gibbs(machine), params, start, num, chains * num * 1e-6)
    return found


def _jax() -> dict[str, float]:
    """Loops by hand: the colours apart as (H, W / 2), chains under ``vmap``."""
    import jax
    import jax.numpy as jnp

    found = {}
    for side, (chains, num) in LATTICES.items():
        rows = (jnp.arange(side) % 2 == 0)[:, None]

        def draw(key: Any, other: Any, first: bool, rows: Any = rows) -> Any:
            beside = jnp.where(rows == first, jnp.roll(other, 1, 1), jnp.roll(other, -1, 1))
            total = other + jnp.roll(other, 1, 0) + jnp.roll(other, -1, 0) + beside
            up = jax.random.uniform(key, other.shape) < jax.nn.sigmoid(2 * CRITICAL * total)
            return jnp.where(up, 1.0, -1.0)

        def sweep(colours: Any, key: Any, draw: Any = draw) -> Any:
            key_first, key_second = jax.random.split(key)
            first = draw(key_first, colours[1], True)
            return (first, draw(key_second, first, False)), None

        def one(key: Any, colours: Any, sweep: Any = sweep, num: int = num) -> Any:
            return jax.lax.scan(sweep, colours, jax.random.split(key, num))[0]

        run = jax.jit(jax.vmap(one))
        keys = jax.random.split(jax.random.key(0), chains)
        half = jnp.where(jax.random.uniform(jax.random.key(1), (chains, side, side // 2)) < 0.5, 1.0, -1.0)
        seconds = _best(lambda: jax.block_until_ready(run(keys, (half, half))))  # noqa: B023
        found[f"Ising {side}"] = chains * num * side**2 * 1e-9 / seconds
    for (visible, hidden), (chains, num) in MACHINES.items():
        weight = 0.01 * jax.random.normal(jax.random.key(1), (visible, hidden))

        def gibbs(v: Any, key: Any, weight: Any = weight) -> Any:
            key_hidden, key_visible = jax.random.split(key)
            logits = v @ weight
            h = (jax.random.uniform(key_hidden, logits.shape) < jax.nn.sigmoid(logits)).astype(jnp.float32)
            logits = h @ weight.T
            v = (jax.random.uniform(key_visible, logits.shape) < jax.nn.sigmoid(logits)).astype(jnp.float32)
            return v, -jax.nn.softplus(v @ weight).sum(-1)

        run = jax.jit(lambda key, v, num=num: jax.lax.scan(gibbs, v, jax.random.split(key, num)))
        start = (jax.random.uniform(jax.random.key(2), (chains, visible)) < 0.5).astype(jnp.float32)
        seconds = _best(lambda: jax.block_until_ready(run(jax.random.key(0), start)))  # noqa: B023
        found[f"RBM {visible}-{hidden}"] = chains * num * 1e-6 / seconds
    return found


def _thrml() -> dict[str, float]:
    import jax
    import jax.numpy as jnp
    from thrml.block_management import Block
    from thrml.block_sampling import SamplingSchedule, sample_states
    from thrml.models.ising import IsingEBM, IsingSamplingProgram, hinton_init
    from thrml.pgm import SpinNode

    found = {}
    for side, (chains, num) in LATTICES.items():
        if side > 256:  # its set-up goes node by node
            continue
        nodes = [[SpinNode() for _ in range(side)] for _ in range(side)]
        every = [(i, j) for i in range(side) for j in range(side)]
        edges = [(nodes[i][j], nodes[(i + 1) % side][j]) for i, j in every]
        edges += [(nodes[i][j], nodes[i][(j + 1) % side]) for i, j in every]
        colours = [Block([nodes[i][j] for i, j in every if (i + j) % 2 == colour]) for colour in (0, 1)]
        flat = [node for row in nodes for node in row]
        model = IsingEBM(flat, edges, jnp.zeros(side**2), jnp.ones(len(edges)), jnp.array(CRITICAL))
        program = IsingSamplingProgram(model, colours, [])
        start = hinton_init(jax.random.key(0), model, colours, (chains,))
        schedule = SamplingSchedule(n_warmup=num - 1, n_samples=1, steps_per_sample=1)

        def one(key: Any, start: Any, program: Any = program, schedule: Any = schedule, colours: Any = colours) -> Any:
            return sample_states(key, program, schedule, start, [], [colours[0]])

        run = jax.jit(jax.vmap(one))
        keys = jax.random.split(jax.random.key(0), chains)
        seconds = _best(lambda: jax.block_until_ready(run(keys, start)))  # noqa: B023
        found[f"Ising {side}"] = chains * num * side**2 * 1e-9 / seconds
    return found


# -- general energies ---------------------------------------------------------------------------------------------


def _targets() -> dict[str, tuple[Any, Any, Any]]:
    """Names to energies, spaces and params."""
    from funcebm import energies, graphs, random

    lattice = energies.ising_torus((16, 16))
    potts = energies.potts(graphs.torus((10, 10)), 4)
    machine = energies.rbm(64, 16)
    weight = 0.3 * random.normal(random.key(5), (64, 16))
    return {
        "Ising 16 x 16, K = 0.35": (lattice, lattice.space, lattice.params(coupling=0.35)),
        "Potts 10 x 10, 4 values, K = 0.8": (potts, potts.space, potts.params(coupling=0.8)),
        "RBM 64-16": (machine.free_energy, machine.space, machine.params(weight)),
    }


def _kernels(energy: Any, space: Any) -> dict[str, Any]:
    from funcebm import samplers

    found = {
        "Gibbs, site by site": samplers.gibbs(energy, space=space, scan="random"),
        "Gibbs with gradients": samplers.gibbs_with_gradients(energy, space),
        "discrete Langevin": samplers.discrete_langevin(energy, space, step_size=0.5),
        "continuous time (DLMC)": samplers.dlmc(energy, space),
        "path auxiliary": samplers.path_auxiliary(energy, space, num_flips=3.0),
    }
    if getattr(energy, "blocks", None) is not None:
        found["Gibbs, by colours"] = samplers.gibbs(energy, energy.blocks, space=space)
    return found


def _ess(
    chains: int = 32, draws: int = 500, thin: int = 20, num_burn_in: int = 4000, jit: bool = True
) -> dict[str, list[float]]:
    """Effective draws a second and a thousand energies, of the energy and of the distance to a random state."""
    import torch

    import funcebm as ebm
    from funcebm import random, spaces

    found = {}
    for target, (energy, space, params) in _targets().items():
        start = spaces.sample(random.key(1), space, chains)
        other = spaces.sample(random.key(2), space, 1)[0]
        for name, sampler in _kernels(energy, space).items():
            keep = lambda state, info: torch.stack([info.energy, (state.position != other).float().sum()])  # noqa: B023, E731
            warm = ebm.sample(random.key(3), sampler, params, start, num_samples=1, num_burn_in=num_burn_in, jit=jit)
            options = {"num_samples": draws, "thin": thin, "collect": keep, "jit": jit}
            begin = warm.draws[:, 0]
            run = lambda: ebm.sample(random.key(4), sampler, params, begin, **options)  # noqa: B023, E731
            samples, seconds = run(), _best(run, 1)
            ess = [float(ebm.diagnostics.ess(samples.draws[..., i])) for i in range(2)]
            calls = float(samples.info.num_gradients.double().mean()) * chains * draws * thin / 1000
            rate = float(samples.info.acceptance_rate.mean())
            rhat = float(ebm.diagnostics.rhat(samples.draws[..., 0]))
            found[f"{target}|{name}"] = [
                ess[0] / seconds,
                ess[1] / seconds,
                ess[0] / calls if calls else math.nan,
                rate,
                rhat,
            ]
            print(f"{target}, {name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return found


def _compiled(
    chains: int = 64, num_most: int = 20, kinds: tuple[bool, ...] = (False, True), num_calls: int = 4
) -> dict[str, list[float]]:
    """Milliseconds a step of many chains, eager and compiled."""
    import torch

    import funcebm as ebm
    from funcebm import energies, random, samplers, spaces

    lattice = energies.ising_torus((16, 16))
    params, start = lattice.params(coupling=0.4), spaces.sample(random.key(1), lattice.space, chains)
    coupling = lambda params: params["coupling"]  # noqa: E731
    cases = {name: (sampler, params, start, 20) for name, sampler in _kernels(lattice, lattice.space).items()}
    cases |= {
        "Ising by colours": (samplers.ising_gibbs(lattice), params, start, 20),
        "Gibbs, systematic": (samplers.gibbs(lattice), params, start, 3),
        "Metropolis": (samplers.single_site_metropolis(lattice), params, start, 3),
        "metropolised Gibbs": (samplers.metropolised_gibbs(lattice), params, start, 3),
        "locally balanced": (samplers.locally_balanced(lattice), params, start, 20),
        "Swendsen-Wang": (samplers.swendsen_wang(lattice.edges, coupling, space=lattice.space), params, start, 20),
        "Wolff": (samplers.wolff(lattice.edges, coupling, space=lattice.space), params, start, 20),
    }
    machine = energies.rbm(784, 16)
    images = spaces.sample(random.key(2), machine.space, chains)
    cases["RBM Gibbs, 784-16"] = (samplers.rbm_gibbs(machine), machine.init(random.key(3)), images, 20)
    mixed = {"x": spaces.real(8), "z": spaces.binary(8)}
    both = {"x": torch.zeros(chains, 8), "z": torch.zeros(chains, 8)}
    energy = lambda params, x: ((x["x"] - params * x["z"]) ** 2).sum() / 2  # noqa: E731
    cases["mixed HMC"] = (samplers.mixed_hmc(energy, mixed), torch.tensor(1.5), both, 20)
    found = {}
    for name, (sampler, own, begin, num) in cases.items():
        keep = lambda state, info: info.energy  # noqa: E731
        for jit in kinds:
            num = min(num, num_most)
            options = {"num_samples": num, "collect": keep, "jit": jit}
            run = lambda: ebm.sample(random.key(0), sampler, own, begin, **options)  # noqa: B023, E731
            found.setdefault(name, []).append(1e3 * _best(run, num_calls) / num)
    return found


# -- the tables ---------------------------------------------------------------------------------------------------


def _tables(results: dict[str, Any]) -> None:
    peers = [name for name in ("funcebm", "jax", "thrml") if name in results]
    if peers:
        rows = dict.fromkeys(row for name in peers for row in results[name])
        print("| spins a nanosecond; sweeps of an RBM a microsecond | " + " | ".join(peers) + " |")
        print("|---|" + "---:|" * len(peers))
        for row in rows:
            cells = [f"{results[name][row]:.3g}" if row in results[name] else "" for name in peers]
            print(f"| {row} | " + " | ".join(cells) + " |")
    if "ess" in results:
        print("\n| ESS | a second, energy | a second, distance | a thousand gradients | acceptance | R-hat |")
        print("|---|" + "---:|" * 5)
        for row, (energy, distance, calls, rate, rhat) in results["ess"].items():
            cells = (f"{energy:,.0f}", f"{distance:,.0f}", f"{calls:.2f}", f"{rate:.2f}", f"{rhat:.3f}")
            print(f"| {row.replace('|', ': ')} | " + " | ".join(cells) + " |")
    if "compiled" in results:
        print("\n| milliseconds a step, 64 chains | eager | compiled | ratio |\n|---|---:|---:|---:|")
        for row, (eager, compiled) in results["compiled"].items():
            print(f"| {row} | {eager:.3g} | {compiled:.3g} | {eager / compiled:.1f} |")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", choices=WORKERS)
    parser.add_argument("--jax-python", default=sys.executable, help="an interpreter with JAX, and THRML")
    parser.add_argument("--only", nargs="*", default=list(WORKERS), choices=WORKERS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu", action="store_true", help="time of the process, not of the wall, for a machine that is busy"
    )
    options = parser.parse_args()
    if options.cpu:
        global _clock
        _clock = time.process_time
    if options.worker is not None:
        work = {"funcebm": _funcebm, "ess": _ess, "compiled": _compiled, "jax": _jax, "thrml": _thrml}
        print(json.dumps(work[options.worker]()))
        return
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads))
    if options.threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    results = {}
    for name in options.only:
        python = options.jax_python if name in ("jax", "thrml") else sys.executable
        command = [python, "-m", "tests.benchmarks.discrete", "--worker", name, *["--cpu"] * options.cpu]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{name}: left out", file=sys.stderr)
            continue
        results[name] = json.loads(done.stdout.strip().splitlines()[-1])
    _tables(results)


if __name__ == "__main__":
    main()
