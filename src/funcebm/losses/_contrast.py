"""What the contrastive losses share: chains from where they start to the negatives, and the objective that compares."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, loops, random, tree
from ..fields import require_scalar
from ..types import Batch, Energy, Key, LossAux, Params, Position, Sampler, Tree, step_of_chains

__all__ = [
    "Contrast",
    "Options",
    "check",
    "draw_chain",
    "draw_data_noise",
    "energies_of",
    "make_objective",
    "numbers",
    "perturbed",
    "run_chain",
    "value_and_metrics",
]


class Options(NamedTuple):
    """How positives and negatives are compared; as in :func:`funcebm.losses.contrastive_divergence`."""

    regularization: float | Tensor = 0.0
    gradient_penalty: float | Tensor = 0.0
    trim: float = 0.0
    clamp: float | Tensor | None = None
    data_noise: float | Tensor = 0.0


class Contrast(NamedTuple):
    """What the objective compares, the memory after it, and the metrics of the chains."""

    positives: Tree
    negatives: Tree
    memory: Tree
    metrics: dict[str, Tensor]


def check(num_steps: int, options: Options) -> None:
    """Counts and numbers, at the door."""
    checks.positive_int("num_steps", num_steps)
    for name in ("regularization", "gradient_penalty", "data_noise", "clamp"):
        number = getattr(options, name)
        if number is not None and not isinstance(number, Tensor):
            fix = "Give None for none." if name == "clamp" else "Give 0 for none."
            checks.require(0 <= number < float("inf"), f"{name} must not be negative", number, fix)
    right = not isinstance(options.trim, Tensor) and 0 <= options.trim < 1
    checks.require(right, "trim must be a fraction in [0, 1)", options.trim, "Try 0.1, or 0 for none.")


# -- the chain ----------------------------------------------------------------------------------------------------


def draw_chain(sampler: Sampler, key: Key, positions: Position, num_steps: int) -> Tree:
    """The noise of a chain for each position, leaves ``(num_steps, B, ...)``; keys as in :func:`funcebm.chains.sample`."""
    keys = random.split(key, tree.batch_size(positions))
    steps = torch.arange(num_steps, device=key.device)
    keys = vmap(vmap(random.fold_in, (0, None)), (None, 0))(keys, steps)
    return vmap(vmap(sampler.draw), (0, None))(keys, positions)


def run_chain(
    sampler: Sampler, tuning: Tree, num_steps: int, params: Params, starts: Tree, noise: Tree
) -> tuple[Any, dict[str, Tensor]]:
    """The states in which the chains end, and the mean rates of acceptance, of divergence and of swaps.

    ``starts`` is what ``sampler.init`` takes, with a leading axis B; ``noise`` leads with the steps.
    """
    step = step_of_chains(sampler)
    steps = torch.arange(num_steps, device=tree.first(starts).device)

    def body(state: Any, x: Tree) -> tuple[Any, Tree]:
        state, info = step(params, tuning, state, x[1])
        rates = (info.acceptance_rate.mean(), info.is_divergent.to(info.acceptance_rate.dtype).mean())
        return state, rates + ((info.swap_rate.mean(0),) if hasattr(info, "swap_rate") else ())

    # the last step is not in the loop, so that compiled it takes no gradient for a step after it
    state = vmap(sampler.init, (None, 0))(params, starts)
    rates: tuple[Tensor, ...] = ()
    if num_steps > 1:
        state, rates = loops.scan(body, state, tree.map(lambda leaf: leaf[:-1], (steps, noise)))
    state, last = body(state, tree.map(lambda leaf: leaf[-1], (steps, noise)))
    last = tree.map(lambda rate: rate[None], last)
    rates = tree.map(lambda *parts: torch.cat(parts), rates, last) if rates else last
    metrics = {"acceptance_rate": rates[0].mean(), "divergence_rate": rates[1].mean()}
    if len(rates) > 2:
        swaps = rates[2].mean(0)
        metrics["swap_rate"] = swaps.mean()
        metrics.update({f"swap_rate/{index}": rate for index, rate in enumerate(swaps.unbind(0))})
    return state, metrics


def numbers(sampler: Sampler, tuning: Tree | None, like: Position) -> Tree:
    """The numbers of the sampler, in the dtype of the positions."""
    return tree.cast_like(sampler.tuning if tuning is None else tuning, tree.first(like))


# -- noise on the data --------------------------------------------------------------------------------------------


def _is_zero(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) and value == 0


def draw_data_noise(key: Key, batch: Batch, data_noise: float | Tensor) -> Tree:
    """Standard normals like the batch, ``()`` where they have no use."""
    return () if _is_zero(data_noise) else tree.normal_like(key, batch)


def perturbed(batch: Batch, noise: Tree, data_noise: float | Tensor) -> Batch:
    """The batch with its noise."""
    return batch if _is_zero(data_noise) else tree.add_scaled(batch, data_noise, noise)


# -- the objective ------------------------------------------------------------------------------------------------


def energies_of(energy: Energy) -> Callable[[Params, Tree], Tensor]:
    """``(params, positions) -> (B,)``."""

    def one(params: Params, position: Position) -> Tensor:
        return require_scalar(energy(params, position), position)

    return vmap(one, (None, 0))


def value_and_metrics(
    energy: Energy, options: Options, params: Params, positives: Tree, negatives: Tree
) -> tuple[Tensor, dict[str, Tensor]]:
    """The value of the contrastive losses, as :func:`funcebm.losses.contrastive_divergence` defines it."""
    energies = energies_of(energy)
    both = energies(params, tree.map(lambda *parts: torch.cat(parts), positives, negatives))
    positive, negative = both.tensor_split([tree.batch_size(positives)])
    num_left_out = int(options.trim * negative.shape[0])
    kept = negative.sort().values[: negative.shape[0] - num_left_out] if num_left_out else negative
    value = positive.mean() - kept.mean()
    if options.clamp is not None:
        value = torch.maximum(value, torch.as_tensor(-options.clamp).to(value))
    if not _is_zero(options.regularization):
        value = value + options.regularization * (positive.square().mean() + negative.square().mean())
    if not _is_zero(options.gradient_penalty):
        slopes = vmap(fields.gradient(energy), (None, 0))(params, positives)
        value = value + options.gradient_penalty * vmap(tree.squared_norm)(slopes).mean()
    metrics = {
        "positive_energy": positive.mean().detach(),
        "negative_energy": kept.mean().detach(),
        "energy_gap": (kept.mean() - positive.mean()).detach(),
    }
    return value, metrics


def make_objective(energy: Energy, options: Options) -> Callable[[Params, Contrast], tuple[Tensor, LossAux]]:
    """The part of a contrastive loss through which gradients flow."""

    def objective(params: Params, contrast: Contrast) -> tuple[Tensor, LossAux]:
        value, metrics = value_and_metrics(energy, options, params, contrast.positives, contrast.negatives)
        return value, LossAux(contrast.memory, {**metrics, **contrast.metrics})

    return objective
