"""BlackJAX: its window adaptation with NUTS, one adaptation a chain; its ChEES adaptation with dynamic HMC."""

from __future__ import annotations

from typing import Any, Callable

from . import effective_rows


def load() -> tuple[str, effective_rows.Build]:
    import blackjax
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    precision = jnp.asarray(np.linalg.inv(effective_rows.covariance()), jnp.float32)

    def logdensity(x: Any) -> Any:
        return -0.5 * x @ (precision @ x)

    def nuts(row: effective_rows.Row, key: Any, starts: Any) -> tuple[Any, Callable[..., Any]]:
        adapt = blackjax.window_adaptation(blackjax.nuts, logdensity, target_acceptance_rate=0.8)

        def one_chain(key: Any, start: Any) -> Any:
            (state, parameters), _ = adapt.run(key, start, row.num_warm_up)
            return state, parameters

        states, parameters = jax.jit(jax.vmap(one_chain))(jax.random.split(key, row.num_chains), starts)
        kernel = blackjax.nuts.build_kernel()

        def move(key: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
            state, info = kernel(key, state, logdensity, **parameters)
            return state, info.num_integration_steps

        keys_to_moves = jax.vmap(move)
        return states, lambda keys, states: keys_to_moves(keys, states, parameters)

    def chees(row: effective_rows.Row, key: Any, starts: Any) -> tuple[Any, Callable[..., Any]]:
        adapt = blackjax.chees_adaptation(logdensity, row.num_chains)
        (states, parameters), _ = adapt.run(key, starts, 0.1, optax.adam(0.025), row.num_warm_up)
        algorithm = blackjax.dynamic_hmc(logdensity, **parameters)

        def move(key: Any, state: Any) -> tuple[Any, Any]:
            state, info = algorithm.step(key, state)
            return state, info.num_integration_steps

        return states, jax.vmap(move)

    def build(row: effective_rows.Row) -> Callable[[int, int], tuple[Any, float]]:
        key_start, key_adapt = jax.random.split(jax.random.key(1))
        starts = jax.random.normal(key_start, (row.num_chains, effective_rows.DIM))
        states, moves = {"nuts": nuts, "chees": chees}[row.algorithm](row, key_adapt, starts)

        def draw(key: Any, states: Any, num_samples: int) -> tuple[Any, Any]:
            def one_step(states: Any, key: Any) -> tuple[Any, Any]:
                states, gradients = moves(jax.random.split(key, row.num_chains), states)
                return states, (states.position, gradients)

            return jax.lax.scan(one_step, states, jax.random.split(key, num_samples))[1]

        compiled = jax.jit(draw, static_argnums=2)

        def run(num_samples: int, seed: int) -> tuple[Any, float]:
            draws, gradients = jax.block_until_ready(compiled(jax.random.key(seed), states, num_samples))
            return np.asarray(draws).swapaxes(0, 1), float(gradients.sum())

        run(row.num_samples, 3)
        return run

    return f"BlackJAX {blackjax.__version__}, JAX {jax.__version__}", build


if __name__ == "__main__":
    effective_rows.serve(load)
