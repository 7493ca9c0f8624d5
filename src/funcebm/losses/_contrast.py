"""What the contrastive losses share: chains from where they start to the negatives, and the objective that compares."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, loops, random, tree
from .._torch.tracing import is_tracing, plain
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Sampler, Tree, step_of_chains
from ._buffer import BufferNoise, Starts
from ._staged import staged

__all__ = [
    "Contrast",
    "MakeSampler",
    "Options",
    "PersistentNoise",
    "check_energy",
    "compared",
    "draw_chain",
    "draw_data_noise",
    "energies_of",
    "explain_starts",
    "number_or_zero",
    "tuning_like",
    "options_of",
    "perturbed",
    "run_chain",
    "sampler_of",
    "value_and_metrics",
]

MakeSampler = Callable[[Energy], Sampler]


class Options(NamedTuple):
    """How positives and negatives are compared; as in :func:`funcebm.losses.contrastive_divergence`."""

    regularization: float | Tensor
    gradient_penalty: float | Tensor
    trim: float
    clamp: Tensor | None
    data_noise: float | Tensor


class PersistentNoise(NamedTuple):
    """Which chains continue and which restart, the noise of their steps, and that on the data (or ``()``)."""

    buffer: BufferNoise
    chain: Tree
    data: Tree


class Contrast(NamedTuple):
    """What the objective compares, the memory after it, the metrics of the chains, and what else the objective needs."""

    positives: Tree
    negatives: Tree
    memory: Tree
    metrics: dict[str, Tensor]
    constants: Tree


def options_of(
    regularization: float | Tensor,
    gradient_penalty: float | Tensor,
    trim: float,
    clamp: float | Tensor | None,
    data_noise: float | Tensor,
) -> Options:
    """Checks the options of a contrastive loss, and makes tensors of their numbers."""
    numbers = {"regularization": regularization, "gradient_penalty": gradient_penalty, "data_noise": data_noise}
    for name, number in {**numbers, "clamp": clamp}.items():
        if number is not None and not isinstance(number, Tensor):
            fix = "Give None for none." if name == "clamp" else "Give 0 for none."
            checks.require(0 <= number < float("inf"), f"{name} must not be negative", number, fix)
    right = not isinstance(trim, Tensor) and 0 <= trim < 1
    checks.require(right, "trim must be a fraction in [0, 1)", trim, "Try 0.1, or 0 for none.")
    limit = None if clamp is None else tree.number(clamp)
    tensors = {name: number_or_zero(number) for name, number in numbers.items()}
    return Options(trim=trim, clamp=limit, **tensors)


def number_or_zero(value: float | Tensor) -> float | Tensor:
    """A number as a tensor; but 0 as it is, which leaves its term out of the graph."""
    return 0.0 if _is_zero(value) else tree.number(value)


# -- the sampler ----------------------------------------------------------------------------------------------------


def sampler_of(energy: Energy, sampler: Sampler | MakeSampler, num_steps: int) -> Sampler:
    """A sampler of the energy: what a function makes of it, or one that was made before."""
    checks.positive_int("num_steps", num_steps)
    if not isinstance(sampler, Sampler):
        fix = "Write lambda energy: samplers.langevin(energy, step_size=0.1), for example."
        checks.require(callable(sampler), "sampler must be energy -> Sampler", type(sampler).__name__, fix, TypeError)
        checks.takes("sampler", sampler, ("energy",), fix)
        made = sampler(energy)
        checks.require(
            isinstance(made, Sampler), "sampler(energy) must be a Sampler", type(made).__name__, fix, TypeError
        )
        sampler = made
    checks.unweighted("a contrastive loss", sampler)
    return sampler


def check_energy(energy: Energy, sampler: Sampler, params: Params, positions: Tree) -> None:
    """The force of a sampler at the first example must be that of the energy, where its state shows it."""
    one = tree.index(positions, 0)
    if checks.is_traced((params, one)) or any(leaf.is_meta for leaf in tree.leaves((params, one))):
        return
    try:
        state = sampler.init(params, one)
    except ValueError:  # a position that is none of its kind: who draws or runs the chains says so in their words
        return
    name = next((name for name in ("gradient", "energy") if hasattr(state, name)), None)
    if name is None:
        return
    expected = fields.gradient(energy)(params, one) if name == "gradient" else energy(params, one)
    got = getattr(state, name)
    if tree.structure(expected) != tree.structure(got):
        return
    scale = tree.squared_norm(expected).sqrt() + tree.squared_norm(got).sqrt()
    distance = tree.squared_norm(tree.sub(expected, got)).sqrt()
    if bool(distance > 1e-2 * scale):
        raise ValueError(
            checks.message(
                "the sampler must be one of the energy that is trained",
                f"at the first example a {name} that differs by {float(distance):.2g}",
                "Give a function that makes it: lambda energy: samplers.langevin(energy, step_size=0.1).",
            )
        )


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
    explain_starts(sampler, params, starts, state)
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


def explain_starts(sampler: Sampler, params: Params, starts: Tree, state: Any) -> None:
    """Chains that start where the sampler has no energy, such as off the levels of its space: it may say why, one by one.

    In compiled code, and where energies are mapped over more than the chains, nothing is said.
    """
    energy = getattr(state, "energy", None)
    if is_tracing() or not isinstance(energy, Tensor) or plain(energy).ndim != 1 or plain(energy).is_meta:
        return
    missing = torch.isnan(plain(energy))
    if bool(missing.any()):
        index = int(missing.long().argmax())
        sampler.init(tree.map(plain, params), tree.map(lambda leaf: plain(leaf[index]), starts))


def tuning_like(sampler: Sampler, tuning: Tree | None, like: Position) -> Tree:
    """The tuning of the sampler, in the dtype of the positions."""
    return tree.cast_like(sampler.tuning if tuning is None else tuning, tree.first(like))


# -- noise on the data --------------------------------------------------------------------------------------------


def _is_zero(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) and value == 0


def draw_data_noise(key: Key, batch: Batch, data_noise: float | Tensor) -> Tree:
    """Standard normals like the batch, ``()`` where they have no use."""
    return () if _is_zero(data_noise) else tree.normal_like(key, batch)


def perturbed(batch: Batch, noise: Tree, data_noise: float | Tensor) -> Batch:
    """The batch with its noise."""
    if _is_zero(data_noise):
        return batch
    assert isinstance(data_noise, Tensor)
    return tree.map(lambda leaf, z: leaf + data_noise.to(leaf) * z, batch, noise)


# -- the objective ------------------------------------------------------------------------------------------------


def energies_of(energy: Energy) -> Callable[[Params, Tree], Tensor]:
    """``(params, positions) -> (B,)``."""

    return vmap(fields.value(energy), (None, 0))


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
        value = torch.maximum(value, -options.clamp.to(value))
    if not _is_zero(options.regularization):
        value = value + _like(options.regularization, value) * (positive.square().mean() + negative.square().mean())
    if not _is_zero(options.gradient_penalty):
        slopes = vmap(fields.gradient(energy), (None, 0))(params, positives)
        value = value + _like(options.gradient_penalty, value) * vmap(tree.squared_norm)(slopes).mean()
    metrics = {
        "positive_energy": positive.mean().detach(),
        "negative_energy": kept.mean().detach(),
        "energy_gap": (kept.mean() - positive.mean()).detach(),
    }
    return value, metrics


def _like(number: float | Tensor, value: Tensor) -> Tensor:
    return tree.number(number).to(value)


def compared(
    energy: Energy,
    kernel: Sampler,
    num_steps: int,
    options: Options,
    tuning: Tree | None,
    starts: Starts,
    make_noise: Callable[..., Any],
    *,
    is_checked: bool,
    run: Callable[..., tuple[Any, dict[str, Tensor], Tree]] | None = None,
    term: Callable[[Params, Any], tuple[Tensor, dict[str, Tensor]]] | None = None,
) -> Loss[Any]:
    """A contrastive loss: data against where chains end.

    Args:
        energy: what is trained.
        kernel: a sampler of it.
        num_steps: of each chain, in each evaluation.
        options: how positives and negatives are compared.
        tuning: the tuning of the sampler, or None for its own.
        starts: where chains start, and where their ends go.
        make_noise: from the parts of ``starts``, then the noise of the chains and that on the data, to the noise, whose fields
            ``chain`` and ``data`` these two are.
        is_checked: whether the sampler may be one of another energy, and ``init`` has to look.
        run: ``(params, memory, positions, noise) -> (state, metrics, constants)``; by default all steps of the chains.
        term: ``(params, contrast) -> (value, metrics)``, what is added to the value.
    """

    def init(key: Key, params: Params, batch: Batch) -> Any:
        memory = starts.init(key, batch)
        is_known = not checks.is_traced((params, batch)) and not tree.first(batch).is_meta
        if (starts.are_data or starts.are_given) and is_known:
            first = begun(key, memory, batch)  # compiled chains say nothing
            explain_starts(kernel, params, first, vmap(kernel.init, (None, 0))(params, first))
        if is_checked:
            check_energy(energy, kernel, params, batch)
        return memory

    def begun(key: Key, memory: Tree, batch: Batch) -> Tree:
        """Where the chains of a first evaluation start."""
        if starts.are_data:
            return batch
        parts, _ = starts.draw(list(random.split(key, starts.num_keys + 2)[: starts.num_keys]), batch)
        return starts.begin(starts.read(memory, batch, make_noise(*parts, (), ())))

    def draw(key: Key, batch: Batch) -> Any:
        *keys, key_chain, key_data = random.split(key, starts.num_keys + 2)
        parts, positions = starts.draw(keys, batch)
        noise = draw_chain(kernel, key_chain, positions, num_steps)
        return make_noise(*parts, noise, draw_data_noise(key_data, batch, options.data_noise))

    def all_steps(params: Params, memory: Tree, positions: Tree, noise: Any) -> tuple[Any, dict[str, Tensor], Tree]:
        state, metrics = run_chain(
            kernel, tuning_like(kernel, tuning, positions), num_steps, params, positions, noise.chain
        )
        return state, metrics, ()

    def prepare(params: Params, memory: Tree, batch: Batch, noise: Any) -> Contrast:
        chains = starts.read(memory, batch, noise)
        state, metrics, constants = (run or all_steps)(params, memory, starts.begin(chains), noise)
        memory, more = starts.write(memory, noise, chains, state)
        positives = perturbed(batch, noise.data, options.data_noise)
        return Contrast(positives, state.position, memory, {**metrics, **more}, constants)

    def objective(params: Params, contrast: Contrast) -> tuple[Tensor, LossAux]:
        value, metrics = value_and_metrics(energy, options, params, contrast.positives, contrast.negatives)
        metrics = {**metrics, **contrast.metrics}
        if term is not None:
            more, its_metrics = term(params, contrast)
            value, metrics = value + more, {**metrics, **its_metrics}
        return value, LossAux(contrast.memory, metrics)

    return staged(init, draw, prepare, objective)
