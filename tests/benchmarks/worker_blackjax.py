"""BlackJAX (sampling) and JAX with optax (training), each as one jitted ``lax.scan`` that keeps only the final state.

BlackJAX's public kernel of unadjusted Langevin dynamics is ``sgld``, which computes gradients and no energies. With the
argument ``energy`` the row runs on the Langevin diffusion inside BlackJAX's MALA, which has both, as funcebm's has.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any, Callable

from . import rows


def load() -> tuple[str, rows.Build]:
    import blackjax
    import jax
    import jax.numpy as jnp
    import optax
    from blackjax.mcmc.diffusions import DiffusionState, overdamped_langevin

    with_energy = "energy" in sys.argv[1:]

    def mlp(key: Any, sizes: tuple[int, ...]) -> list[tuple[Any, Any]]:
        keys = jax.random.split(key, len(sizes) - 1)
        shapes = list(itertools.pairwise(sizes))
        return [(jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n)) for k, (m, n) in zip(keys, shapes, strict=True)]

    def mlp_energy(params: Any, x: Any) -> Any:
        for weight, bias in params[:-1]:
            x = jax.nn.silu(x @ weight + bias)
        weight, bias = params[-1]
        return (x @ weight + bias)[0]

    def energy_of(row: rows.Row) -> tuple[Callable[[Any, Any], Any], Any]:
        if row.energy == "double_well":
            return lambda params, x: params * ((x**2 - 1) ** 2).sum(), jnp.asarray(2.0)
        if row.energy == "gaussian":
            return lambda params, x: 0.5 * (params * x * x).sum(), jnp.linspace(*rows.PRECISION, row.dim)
        return mlp_energy, mlp(jax.random.key(1), (row.dim, row.width, row.width, 1))

    def kernel_of(row: rows.Row, logdensity: Callable[[Any], Any], positions: Any) -> tuple[Any, Callable[..., Any]]:
        if row.algorithm == "hmc":
            hmc = blackjax.hmc(logdensity, row.step_size, jnp.ones(row.dim), rows.NUM_LEAPFROG)
            return jax.vmap(hmc.init)(positions), lambda key, state: hmc.step(key, state)[0]
        if with_energy:
            both = jax.value_and_grad(logdensity)
            diffusion = overdamped_langevin(both)
            states = jax.vmap(lambda x: DiffusionState(x, *both(x)))(positions)
            return states, lambda key, state: diffusion(key, state, row.step_size)
        sgld = blackjax.sgld(lambda x, minibatch: jax.grad(logdensity)(x))
        return positions, lambda key, state: sgld.step(key, state, None, row.step_size)

    def sampling(row: rows.Row) -> Callable[[int], float]:
        energy, params = energy_of(row)

        def run(params: Any, key: Any, positions: Any, num_steps: int) -> Any:
            def logdensity(x: Any) -> Any:
                return -energy(params, x)

            states, move = kernel_of(row, logdensity, positions)

            def one_step(states: Any, key: Any) -> tuple[Any, None]:
                return jax.vmap(move)(jax.random.split(key, row.num_chains), states), None

            states, _ = jax.lax.scan(one_step, states, jax.random.split(key, num_steps))
            return getattr(states, "position", states)

        compiled = jax.jit(run, static_argnums=3)
        positions = jax.random.normal(jax.random.key(2), (row.num_chains, row.dim))
        return lambda num_steps: float((compiled(params, jax.random.key(0), positions, num_steps) ** 2).mean())

    def training(row: rows.Row) -> Callable[[int], float]:
        energy, params = energy_of(row)
        data = jax.random.normal(jax.random.key(2), (rows.NUM_DATA, row.dim))
        optimizer = optax.adam(row.step_size)

        slopes = jax.vmap(jax.grad(energy, 1), (None, 0))

        def denoising(params: Any, batch: Any, key: Any) -> Any:
            noise = jax.random.normal(key, batch.shape)
            gradients = slopes(params, batch + rows.NOISE_SCALE * noise)
            return 0.5 * ((gradients - noise / rows.NOISE_SCALE) ** 2).sum(-1).mean()

        def sliced(params: Any, batch: Any, key: Any) -> Any:
            probes = jax.random.rademacher(key, batch.shape, batch.dtype)
            gradients, products = jax.jvp(lambda x: slopes(params, x), (batch,), (probes,))
            return (0.5 * (gradients**2).sum(-1) - (products * probes).sum(-1)).mean()

        def contrastive(params: Any, batch: Any, key: Any) -> Any:
            def move(x: Any, noise: Any) -> tuple[Any, None]:
                return x - rows.CD_STEP_SIZE * slopes(params, x) + (2 * rows.CD_STEP_SIZE) ** 0.5 * noise, None

            noise = jax.random.normal(key, (rows.CD_STEPS, *batch.shape))
            negatives = jax.lax.stop_gradient(jax.lax.scan(move, batch, noise)[0])
            energies = jax.vmap(energy, (None, 0))
            return energies(params, batch).mean() - energies(params, negatives).mean()

        loss = {"dsm": denoising, "sliced": sliced, "cd": contrastive}[row.algorithm]

        def one_step(carry: Any, key: Any) -> tuple[Any, Any]:
            params, state = carry
            key_batch, key_noise = jax.random.split(key)
            batch = data[jax.random.randint(key_batch, (row.num_chains,), 0, rows.NUM_DATA)]
            value, gradients = jax.value_and_grad(loss)(params, batch, key_noise)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), value

        def run(params: Any, key: Any, num_steps: int) -> Any:
            return jax.lax.scan(one_step, (params, optimizer.init(params)), jax.random.split(key, num_steps))

        compiled = jax.jit(run, static_argnums=2)

        def call(num_steps: int) -> float:
            _, losses = jax.block_until_ready(compiled(params, jax.random.key(0), num_steps))
            return float(losses[-1])

        return call

    description = f"BlackJAX {blackjax.__version__}, JAX {jax.__version__}, optax {optax.__version__}"
    return description, lambda row: training(row) if row.algorithm in rows.TRAINING else sampling(row)


if __name__ == "__main__":
    rows.serve(load)
