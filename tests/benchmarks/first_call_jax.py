"""JAX with BlackJAX and optax: what each row of ``first_call`` does, as a user writes it, with jitted ``lax.scan`` loops."""

from __future__ import annotations

import itertools
from typing import Any, Callable

from . import first_call


def load() -> tuple[str, dict[str, Any], Callable[..., first_call.Program]]:
    """Imports JAX, BlackJAX and optax, and gives what :func:`first_call.serve` needs."""
    import blackjax
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    def network(params: Any, x: Any) -> Any:
        """A multilayer perceptron of one number, SiLU inside."""
        for weight, bias in params[:-1]:
            x = jax.nn.silu(x @ weight + bias)
        weight, bias = params[-1]
        return (x @ weight + bias)[0]

    def zeros(*shape: int) -> Any:
        return np.zeros(shape, np.float32)

    def metropolis(row: first_call.Row, energy: Any) -> first_call.Program:
        """MALA or HMC, burn-in and draws in one scan."""
        params = {"variance": np.float32(first_call.VARIANCE)}

        def run(key: Any, params: Any, starts: Any, draws: int, thin: int) -> Any:
            def logdensity(x: Any) -> Any:
                return -energy(params, x)

            if row.name == "mala":
                kernel = blackjax.mala(logdensity, first_call.STEP_SIZE)
            else:
                kernel = blackjax.hmc(logdensity, first_call.STEP_SIZE, jnp.ones(2), first_call.NUM_LEAPFROG)

            def one_step(states: Any, key: Any) -> tuple[Any, Any]:
                states, _ = jax.vmap(kernel.step)(jax.random.split(key, len(starts)), states)
                return states, states.position

            keys = jax.random.split(key, first_call.NUM_BURN_IN + draws * thin)
            positions = jax.lax.scan(one_step, jax.vmap(kernel.init)(starts), keys)[1]
            return positions[first_call.NUM_BURN_IN + thin - 1 :: thin]

        compiled = jax.jit(run, static_argnums=(3, 4))

        def call(setting: first_call.Setting) -> float:
            draws = compiled(jax.random.key(0), params, zeros(setting.chains, 2), setting.draws, setting.thin)
            return float(np.square(jax.block_until_ready(draws)).mean())

        return call

    def nuts(row: first_call.Row, energy: Any) -> first_call.Program:
        """The window adaptation of each chain, then the draws, each jitted."""
        params = {name: np.float32(getattr(first_call, name.upper())) for name in ("effects", "errors")}

        def warm_up(key: Any, params: Any, starts: Any) -> Any:
            adaptation = blackjax.window_adaptation(
                blackjax.nuts, lambda x: -energy(params, x), target_acceptance_rate=first_call.TARGET
            )

            def one_chain(key: Any, start: Any) -> Any:
                (state, tuning), _ = adaptation.run(key, start, first_call.NUM_WARM_UP)
                return state, tuning

            return jax.vmap(one_chain)(jax.random.split(key, len(starts["mean"])), starts)

        kernel = blackjax.nuts.build_kernel()

        def run(key: Any, params: Any, states: Any, tuning: Any, draws: int) -> Any:
            def one_chain(key: Any, state: Any, tuning: Any) -> Any:
                return kernel(key, state, lambda x: -energy(params, x), **tuning)[0]

            def one_step(states: Any, key: Any) -> tuple[Any, Any]:
                keys = jax.random.split(key, len(states.position["mean"]))
                states = jax.vmap(one_chain)(keys, states, tuning)
                return states, states.position

            return jax.lax.scan(one_step, states, jax.random.split(key, draws))[1]

        warm_up_compiled, compiled = jax.jit(warm_up), jax.jit(run, static_argnums=4)

        def call(setting: first_call.Setting) -> float:
            chains = setting.chains
            key_warm_up, key_run = jax.random.split(jax.random.key(0))
            starts = {"mean": zeros(chains), "log_scale": zeros(chains), "z": zeros(chains, len(first_call.EFFECTS))}
            states, tuning = warm_up_compiled(key_warm_up, params, starts)
            draws = jax.block_until_ready(compiled(key_run, params, states, tuning, setting.draws))
            return float(np.square(draws["z"]).mean())

        return call

    def training(row: first_call.Row, energy: Any) -> first_call.Program:
        """Denoising score matching with Adam, all steps in one scan."""
        generator = np.random.default_rng(0)
        sizes = itertools.pairwise(first_call.WIDTHS)
        normal = generator.standard_normal
        start = [(normal((m, n), np.float32) / np.float32(m**0.5), zeros(n)) for m, n in sizes]
        data = normal((first_call.NUM_DATA, first_call.WIDTHS[0]), np.float32)
        optimizer = optax.adam(first_call.LEARNING_RATE)
        slopes = jax.vmap(jax.grad(energy, 1), (None, 0))

        def loss(params: Any, batch: Any, key: Any) -> Any:
            noise = jax.random.normal(key, batch.shape)
            gradients = slopes(params, batch + first_call.NOISE_SCALE * noise)
            return 0.5 * ((gradients - noise / first_call.NOISE_SCALE) ** 2).sum(-1).mean()

        def run(key: Any, params: Any, data: Any, batch_size: int, num_steps: int) -> Any:
            def one_step(carry: Any, key: Any) -> tuple[Any, Any]:
                params, state = carry
                key_batch, key_noise = jax.random.split(key)
                batch = data[jax.random.randint(key_batch, (batch_size,), 0, len(data))]
                value, gradients = jax.value_and_grad(loss)(params, batch, key_noise)
                updates, state = optimizer.update(gradients, state, params)
                return (optax.apply_updates(params, updates), state), value

            return jax.lax.scan(one_step, (params, optimizer.init(params)), jax.random.split(key, num_steps))

        compiled = jax.jit(run, static_argnums=(3, 4))

        def call(setting: first_call.Setting) -> float:
            result = compiled(jax.random.key(0), start, data, setting.chains, setting.draws)
            return float(np.asarray(jax.block_until_ready(result)[1])[-1])

        return call

    def many(row: first_call.Row, energy: Any) -> first_call.Program:
        """``jit(vmap(...))`` over the heights, of Langevin chains."""
        heights = np.linspace(*first_call.BARRIERS, first_call.NUM_WELLS, dtype=np.float32)

        def run(key: Any, height: Any, starts: Any, draws: int) -> Any:
            kernel = blackjax.sgld(lambda x, minibatch: -jax.grad(energy, 1)(height, x))

            def one_chain(key: Any, position: Any) -> Any:
                return kernel.step(key, position, None, first_call.WELL_STEP_SIZE)

            def one_step(positions: Any, key: Any) -> tuple[Any, Any]:
                positions = jax.vmap(one_chain)(jax.random.split(key, len(starts)), positions)
                return positions, positions

            return jax.lax.scan(one_step, starts, jax.random.split(key, draws))[1]

        def mapped(key: Any, heights: Any, starts: Any, draws: int) -> Any:
            return jax.vmap(run, (None, 0, None, None))(key, heights, starts, draws)

        compiled = jax.jit(mapped, static_argnums=3)

        def call(setting: first_call.Setting) -> float:
            draws = compiled(jax.random.key(0), heights, zeros(setting.chains, 2), setting.draws)
            return float(np.square(jax.block_until_ready(draws)).mean())

        return call

    builds = {"mala": metropolis, "hmc": metropolis, "nuts": nuts, "dsm": training, "vmap": many}
    description = f"BlackJAX {blackjax.__version__}, JAX {jax.__version__}, optax {optax.__version__}"
    return description, {"xp": jnp, "network": network}, lambda row, energy, collect: builds[row.name](row, energy)


if __name__ == "__main__":
    first_call.serve(load)
