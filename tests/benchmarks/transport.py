"""Flows beside torchdiffeq and diffrax: ``python -m tests.benchmarks.transport`` prints the table, in Markdown.

One velocity field, a network of 2 x 64 SiLU on (t, x), for 1,000 particles x 2-D, float32. Each row is the whole of a solve from
noise to data: 100 steps of RK4; adaptive Dormand-Prince with rtol 1e-4, atol 1e-5 (torchdiffeq takes one step for all particles,
ours and diffrax under ``vmap`` one for each); 100 steps of Euler-Maruyama with its noise, for the peers a loop
that their users write. Contenders are processes of their own, one after the other; times are medians after a first call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
NUM, DIM, WIDTH, STEPS = 1_000, 2, 64, 100
RTOL, ATOL = 1e-4, 1e-5
ROWS = {"rk4": "RK4, 100 steps", "dopri5": "adaptive Dormand-Prince", "sde": "Euler-Maruyama, 100 steps"}
CONTENDERS = ("funcebm", "torchdiffeq", "diffrax")


def _weights() -> list[Any]:
    """The same numbers for all, from a small congruence: no library draws them."""
    state, layers = 1, []
    for fan_in, fan_out in ((DIM + 1, WIDTH), (WIDTH, WIDTH), (WIDTH, DIM)):
        rows = []
        for _ in range(fan_out):
            row = []
            for _ in range(fan_in):
                state = (1103515245 * state + 12345) % 2**31
                row.append((state / 2**30 - 1) * 2 / fan_in**0.5)
            rows.append(row)
        layers.append(rows)
    return layers


def _funcebm() -> dict[str, Callable[[], Any]]:
    import torch
    from torch.func import vmap

    import funcebm as ebm
    from funcebm import flows, solvers

    params = tuple(torch.tensor(layer) for layer in _weights())
    starts = ebm.random.normal(ebm.random.key(0), (NUM, DIM))
    silu = torch.nn.functional.silu

    def field(params: Any, t: Any, x: Any) -> Any:
        first, second, third = params
        return third @ silu(second @ silu(first @ torch.cat([x, t.reshape(1)])))

    keys = ebm.random.split(ebm.random.key(1), NUM)
    noisy = solvers.euler_maruyama(0.05)
    times = torch.linspace(0, 1, STEPS + 1)

    def along(params: Any, starts: Any, keys: Any, times: Any) -> Any:
        def one(x: Any, key: Any) -> Any:
            noise = solvers.draw_path(key, noisy, x, STEPS)
            return solvers.solve(noisy, field, params, x, times, noise).value

        return vmap(one)(starts, keys)

    compiled = ebm.jit(along)
    return {
        "rk4": lambda: flows.integrate(field, params, starts, solver=solvers.rk4(), num_steps=STEPS, jit=True).value,
        "dopri5": lambda: flows.integrate(field, params, starts, rtol=RTOL, atol=ATOL, jit=True).value,
        "sde": lambda: compiled(params, starts, keys, times),
    }


def _torchdiffeq() -> dict[str, Callable[[], Any]]:
    import torch
    from torchdiffeq import odeint

    first, second, third = (torch.tensor(layer) for layer in _weights())
    starts, silu = torch.randn(NUM, DIM), torch.nn.functional.silu

    def field(t: Any, x: Any) -> Any:
        inputs = torch.cat([x, t.expand(len(x), 1)], 1)
        return silu(silu(inputs @ first.T) @ second.T) @ third.T

    grid, ends = torch.linspace(0, 1, STEPS + 1), torch.tensor([0.0, 1.0])

    @torch.no_grad()
    def sde() -> Any:  # it has no SDEs: the loop that its users write
        x, h = starts, 1 / STEPS
        for i in range(STEPS):
            x = x + h * field(grid[i], x) + (0.1 * h) ** 0.5 * torch.randn_like(x)
        return x

    fixed = {"method": "rk4", "options": {"step_size": 1 / STEPS}}
    with_no_grad = torch.no_grad()
    return {
        "rk4": with_no_grad(lambda: odeint(field, starts, ends, **fixed)[-1]),
        "dopri5": with_no_grad(lambda: odeint(field, starts, ends, method="dopri5", rtol=RTOL, atol=ATOL)[-1]),
        "sde": sde,
    }


def _diffrax() -> dict[str, Callable[[], Any]]:
    import diffrax
    import jax
    import jax.numpy as jnp
    import numpy as np

    params = tuple(jnp.array(layer, jnp.float32) for layer in _weights())
    starts = jax.random.normal(jax.random.key(0), (NUM, DIM))

    def field(t: Any, x: Any, params: Any) -> Any:
        first, second, third = params
        return third @ jax.nn.silu(second @ jax.nn.silu(first @ jnp.concatenate([x, jnp.reshape(t, (1,))])))

    def solved(solver: Any, controller: Any, **options: Any) -> Callable[[], Any]:
        def one(x: Any, params: Any) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(field), solver, 0.0, 1.0, args=params, y0=x, stepsize_controller=controller, **options
            ).ys[0]

        run = jax.jit(jax.vmap(one, (0, None)))
        return lambda: run(starts, params).block_until_ready()

    class Rk4(diffrax.AbstractERK):
        tableau = diffrax.ButcherTableau(
            c=np.array([0.5, 0.5, 1.0]),
            a_lower=tuple(np.array(row) for row in ([0.5], [0.0, 0.5], [0.0, 0.0, 1.0])),
            b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
            b_error=np.zeros(4),
        )
        interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

        def order(self, terms: Any) -> int:
            return 4

    def sde() -> Callable[[], Any]:
        def one(x: Any, key: Any, params: Any) -> Any:
            noise = 0.1**0.5 * (1 / STEPS) ** 0.5 * jax.random.normal(key, (STEPS, DIM))

            def body(x: Any, step: Any) -> Any:
                t, z = step
                return x + field(t, x, params) / STEPS + z, None

            return jax.lax.scan(body, x, (jnp.arange(STEPS) / STEPS, noise))[0]

        run = jax.jit(jax.vmap(one, (0, 0, None)))
        keys = jax.random.split(jax.random.key(1), NUM)
        return lambda: run(starts, keys, params).block_until_ready()

    return {
        "rk4": solved(Rk4(), diffrax.ConstantStepSize(), dt0=1 / STEPS, max_steps=STEPS + 8),
        "dopri5": solved(diffrax.Dopri5(), diffrax.PIDController(rtol=RTOL, atol=ATOL), dt0=None),
        "sde": sde(),
    }


def _work(name: str) -> None:
    """One contender: milliseconds of each row, and its mean square at the end."""
    runs = {"funcebm": _funcebm, "torchdiffeq": _torchdiffeq, "diffrax": _diffrax}[name]()
    found = {}
    for row, run in runs.items():
        begin = time.perf_counter()
        check = float((run() ** 2).mean())
        first, seconds = time.perf_counter() - begin, []
        while sum(seconds) < 1 and len(seconds) < 50:
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
        found[row] = {"ms": 1e3 * statistics.median(seconds), "first": first, "check": check}
    print(json.dumps(found))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", choices=CONTENDERS)
    parser.add_argument("--jax-python", default=sys.executable, help="an interpreter with diffrax")
    parser.add_argument("--peers", nargs="*", default=list(CONTENDERS[1:]), choices=CONTENDERS[1:])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.worker is not None:
        _work(options.worker)
        return
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads))
    environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads={options.threads}"
    results = {}
    for name in ("funcebm", *options.peers):
        python = options.jax_python if name == "diffrax" else sys.executable
        command = [python, "-m", "tests.benchmarks.transport", "--worker", name]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        results[name] = json.loads(done.stdout.strip().splitlines()[-1])
    print("| milliseconds | " + " | ".join(results) + " |\n|---|" + "---:|" * len(results))
    for row, title in ROWS.items():
        cells = [f"{found[row]['ms']:.2f} (first {found[row]['first']:.1f} s)" for found in results.values()]
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
