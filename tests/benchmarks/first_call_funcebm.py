"""funcebm: what each row of ``first_call`` does, as a user writes it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Callable

from . import first_call


def load() -> tuple[str, dict[str, Any], Callable[..., first_call.Program]]:
    """Imports torch and funcebm, and gives what :func:`first_call.serve` needs."""
    import torch

    import funcebm as ebm

    def import_compiler() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch._inductor.compile_fx  # noqa: F401

    namespace: dict[str, Any] = {"xp": torch, "import_compiler": import_compiler}

    def metropolis(row: first_call.Row, energy: Any, collect: Any) -> first_call.Program:
        """``sample`` with MALA or HMC."""
        if row.name == "mala":
            sampler = ebm.samplers.mala(energy, step_size=first_call.STEP_SIZE)
        else:
            sampler = ebm.samplers.hmc(energy, step_size=first_call.STEP_SIZE, num_leapfrog=first_call.NUM_LEAPFROG)
        params = {"variance": torch.tensor(first_call.VARIANCE)}

        def call(setting: first_call.Setting) -> float:
            samples = ebm.sample(
                ebm.random.key(0),
                sampler,
                params,
                torch.zeros(setting.chains, 2),
                num_samples=setting.draws,
                num_burn_in=first_call.NUM_BURN_IN,
                thin=setting.thin,
                collect=collect,
                jit=setting.jit,
            )
            return float(samples.draws.square().mean())

        return call

    def nuts(row: first_call.Row, energy: Any, collect: Any) -> first_call.Program:
        """``warm_up``, then ``sample``."""
        params = {"effects": torch.tensor(first_call.EFFECTS), "errors": torch.tensor(first_call.ERRORS)}
        sampler = ebm.samplers.nuts(energy)
        adaptation = ebm.adaptation.window_adaptation(target=first_call.TARGET)

        def call(setting: first_call.Setting) -> float:
            key_warm_up, key_run = ebm.random.split(ebm.random.key(0))
            zeros = torch.zeros(setting.chains)
            starts = {"mean": zeros, "log_scale": zeros, "z": torch.zeros(setting.chains, len(first_call.EFFECTS))}
            options: dict[str, Any] = {"num_steps": first_call.NUM_WARM_UP, "adaptation": adaptation}
            positions, tuning, _ = ebm.warm_up(key_warm_up, sampler, params, starts, **options, jit=setting.jit)
            options = {"num_samples": setting.draws, "tuning": tuning, "collect": collect}
            samples = ebm.sample(key_run, sampler, params, positions, **options, jit=setting.jit)
            return float(samples.draws["z"].square().mean())

        return call

    def training(row: first_call.Row, energy: Any, collect: Any) -> first_call.Program:
        """``fit`` with denoising score matching; the energy finds ``network`` among the globals of its text."""
        size, *hidden, _ = first_call.WIDTHS
        if "network" not in namespace:
            namespace["network"], namespace["start"] = ebm.energies.mlp(ebm.random.key(1), size, hidden)
        loss = ebm.losses.denoising_score_matching(energy, first_call.NOISE_SCALE)
        optimizer = ebm.optimizers.adam(first_call.LEARNING_RATE)
        data = ebm.random.normal(ebm.random.key(2), (first_call.NUM_DATA, size))

        def call(setting: first_call.Setting) -> float:
            options: dict[str, Any] = {"optimizer": optimizer, "batch_size": setting.chains, "jit": setting.jit}
            key = ebm.random.key(0)
            fit = ebm.fit(key, loss, namespace["start"], data, num_steps=setting.draws, **options)
            return float(fit.metrics["loss"][-1])

        return call

    def many(row: first_call.Row, energy: Any, collect: Any) -> first_call.Program:
        """``jit(vmap(sample))``, one compiled function for each number of draws."""
        sampler = ebm.samplers.langevin(energy, step_size=first_call.WELL_STEP_SIZE)
        heights = torch.linspace(*first_call.BARRIERS, first_call.NUM_WELLS)
        mapped: dict[tuple[int, bool], Callable[..., Any]] = {}

        def make(draws: int, jit: bool) -> Callable[..., Any]:
            def run(key: Any, height: Any, starts: Any) -> Any:
                return ebm.sample(key, sampler, height, starts, num_samples=draws, collect=collect, jit=False).draws

            function = torch.func.vmap(run, (None, 0, None))
            return ebm.jit(function) if jit else function

        def call(setting: first_call.Setting) -> float:
            kind = (setting.draws, setting.jit)
            if kind not in mapped:
                mapped[kind] = make(*kind)
            return float(mapped[kind](ebm.random.key(0), heights, torch.zeros(setting.chains, 2)).square().mean())

        return call

    builds = {"mala": metropolis, "hmc": metropolis, "nuts": nuts, "dsm": training, "vmap": many}
    description = f"torch {torch.__version__}, funcebm of {Path(ebm.__file__).parent}"
    return description, namespace, lambda row, energy, collect: builds[row.name](row, energy, collect)


if __name__ == "__main__":
    first_call.serve(load)
