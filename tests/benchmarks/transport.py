"""Flows beside torchdiffeq, flow_matching, TorchEBM and diffrax: ``python -m tests.benchmarks.transport`` prints the table.

One velocity field, a network of 2 x 64 SiLU on (t, x), for 1,000 particles x 2-D, float32. Three rows are the whole of a solve
from noise to data: 100 steps of RK4; adaptive Dormand-Prince with rtol 1e-4, atol 1e-5 (torchdiffeq, flow_matching and TorchEBM
take one step for all particles, ours and diffrax under ``vmap`` one for each); 100 steps of Euler-Maruyama with its noise, for
the peers a loop that their users write. The last row is 500 steps of flow matching with Adam on batches of 256; the targets of
torchdiffeq's column are torchcfm's. Contenders are processes of their own, one after the other; times are medians after a first
call.
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
TRAINING, BATCH = 500, 256
ROWS = {
    "rk4": "RK4, 100 steps",
    "dopri5": "adaptive Dormand-Prince",
    "sde": "Euler-Maruyama, 100 steps",
    "train": f"flow matching, {TRAINING} training steps",
}
CONTENDERS = ("funcebm", "torchdiffeq", "flow_matching", "torchebm", "diffrax")


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
    data = ebm.random.normal(ebm.random.key(2), (10_000, DIM))
    loss, optimizer = ebm.losses.flow_matching(field), ebm.optimizers.adam(1e-3)
    settings = {"optimizer": optimizer, "num_steps": TRAINING, "batch_size": BATCH, "jit": True}
    return {
        "train": lambda: ebm.fit(ebm.random.key(3), loss, params, data, **settings).metrics["loss"],
        "rk4": lambda: flows.integrate(field, params, starts, solver=solvers.rk4(), num_steps=STEPS, jit=True).value,
        "dopri5": lambda: flows.integrate(field, params, starts, rtol=RTOL, atol=ATOL, jit=True).value,
        "sde": lambda: compiled(params, starts, keys, times),
    }


def _torch_parts() -> tuple[Any, Any, Callable[..., Any]]:
    """Starts, the field ``(t, x)`` of a batch, and the loop that users of torch write, of targets ``x1 -> (t, x, u)``."""
    import torch

    weights = [torch.tensor(layer) for layer in _weights()]
    starts, silu = torch.randn(NUM, DIM), torch.nn.functional.silu

    def field(t: Any, x: Any, layers: Any = weights) -> Any:
        first, second, third = layers
        inputs = torch.cat([x, t.expand(len(x)).reshape(-1, 1)], 1)
        return silu(silu(inputs @ first.T) @ second.T) @ third.T

    def train(targets: Callable[[Any], Any]) -> Any:
        layers = [layer.clone().requires_grad_() for layer in weights]
        optimizer, data = torch.optim.Adam(layers, 1e-3), torch.randn(10_000, DIM)
        for _ in range(TRAINING):
            t, x, u = targets(data[torch.randint(len(data), (BATCH,))])
            optimizer.zero_grad()
            value = (field(t, x, layers) - u).square().sum(1).mean()
            value.backward()
            optimizer.step()
        return value.detach()

    return starts, field, train


def _torch_sde(starts: Any, field: Any) -> Callable[[], Any]:
    """A loop that users of libraries without SDEs write."""
    import torch

    grid = torch.linspace(0, 1, STEPS + 1)

    @torch.no_grad()
    def sde() -> Any:
        x, h = starts, 1 / STEPS
        for i in range(STEPS):
            x = x + h * field(grid[i], x) + (0.1 * h) ** 0.5 * torch.randn_like(x)
        return x

    return sde


def _torchdiffeq() -> dict[str, Callable[[], Any]]:
    import torch
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchdiffeq import odeint

    starts, field, train = _torch_parts()
    ends, matcher = torch.tensor([0.0, 1.0]), ConditionalFlowMatcher(sigma=0.0)
    fixed = {"method": "rk4", "options": {"step_size": 1 / STEPS}}
    with_no_grad = torch.no_grad()
    return {
        "rk4": with_no_grad(lambda: odeint(field, starts, ends, **fixed)[-1]),
        "dopri5": with_no_grad(lambda: odeint(field, starts, ends, method="dopri5", rtol=RTOL, atol=ATOL)[-1]),
        "sde": _torch_sde(starts, field),
        "train": lambda: train(lambda x: matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)),
    }


def _flow_matching() -> dict[str, Callable[[], Any]]:
    import torch
    from flow_matching.path import CondOTProbPath
    from flow_matching.solver import ODESolver
    from flow_matching.utils import ModelWrapper

    starts, field, train = _torch_parts()

    class Wrapped(ModelWrapper):
        def forward(self, x: Any, t: Any, **extras: Any) -> Any:
            return field(t, x)

    solver, path = ODESolver(Wrapped(torch.nn.Identity())), CondOTProbPath()
    adaptive = {"method": "dopri5", "step_size": None, "rtol": RTOL, "atol": ATOL}

    def targets(x: Any) -> Any:
        sample = path.sample(x_0=torch.randn_like(x), x_1=x, t=torch.rand(len(x)))
        return sample.t, sample.x_t, sample.dx_t

    return {
        "rk4": lambda: solver.sample(starts, step_size=1 / STEPS, method="rk4"),
        "dopri5": lambda: solver.sample(starts, **adaptive),
        "sde": _torch_sde(starts, field),
        "train": lambda: train(targets),
    }


def _torchebm() -> dict[str, Callable[[], Any]]:
    import torch
    from torchebm.integrators import RK4Integrator

    starts, field, _ = _torch_parts()
    integrator, size = RK4Integrator(), torch.tensor(1 / STEPS)
    grid = torch.linspace(0, 1, STEPS + 1)
    with_no_grad = torch.no_grad()
    return {
        "rk4": with_no_grad(
            lambda: integrator.integrate({"x": starts}, size, STEPS, drift=lambda x, t: field(t, x), t=grid)["x"]
        ),
        "sde": _torch_sde(starts, field),
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

    def train() -> Callable[[], Any]:
        data = jax.random.normal(jax.random.key(2), (10_000, DIM))

        def loss(params: Any, t: Any, x0: Any, x1: Any) -> Any:
            predicted = jax.vmap(field, (0, 0, None))(t, x0 + t[:, None] * (x1 - x0), params)
            return ((predicted - (x1 - x0)) ** 2).sum(1).mean()

        def body(carry: Any, key: Any) -> Any:
            params, first, second, step = carry
            key_rows, key_noise, key_time = jax.random.split(key, 3)
            x1 = data[jax.random.randint(key_rows, (BATCH,), 0, len(data))]
            noise, t = jax.random.normal(key_noise, (BATCH, DIM)), jax.random.uniform(key_time, (BATCH,))
            value, slopes = jax.value_and_grad(loss)(params, t, noise, x1)
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slopes)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, slopes)
            scale = 1e-3 * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            params = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) + 1e-8), params, first, second)
            return (params, first, second, step + 1), value

        zeros = jax.tree.map(jnp.zeros_like, params)
        run = jax.jit(lambda params, keys: jax.lax.scan(body, (params, zeros, zeros, 1.0), keys)[1])
        keys = jax.random.split(jax.random.key(3), TRAINING)
        return lambda: run(params, keys).block_until_ready()

    return {
        "train": train(),
        "rk4": solved(Rk4(), diffrax.ConstantStepSize(), dt0=1 / STEPS, max_steps=STEPS + 8),
        "dopri5": solved(diffrax.Dopri5(), diffrax.PIDController(rtol=RTOL, atol=ATOL), dt0=None),
        "sde": sde(),
    }


def _work(name: str) -> None:
    """One contender: milliseconds of each row, and its mean square at the end."""
    runs = {
        "funcebm": _funcebm,
        "torchdiffeq": _torchdiffeq,
        "flow_matching": _flow_matching,
        "torchebm": _torchebm,
        "diffrax": _diffrax,
    }[name]()
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
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter with the peers on torch")
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
        python = {"funcebm": sys.executable, "diffrax": options.jax_python}.get(name, options.peers_python)
        command = [python, "-m", "tests.benchmarks.transport", "--worker", name]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        results[name] = json.loads(done.stdout.strip().splitlines()[-1])
    print("| milliseconds | " + " | ".join(results) + " |\n|---|" + "---:|" * len(results))
    for row, title in ROWS.items():
        cells = [
            f"{found[row]['ms']:.2f} (first {found[row]['first']:.1f} s)" if row in found else "-"
            for found in results.values()
        ]
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
