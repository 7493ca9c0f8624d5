"""One table of losses, for the sweeps: name to factory, over one small energy that takes any tree of positions."""

from __future__ import annotations

import functools
import math
from typing import Callable

import torch
from torch import Tensor

from funcebm import couplings, energies, flows, losses, paths, random, samplers, solvers, tree
from funcebm.types import Loss, Sampler, Tree


def energy(params: Tree, x: Tree) -> Tensor:
    """A quadratic, a slope and a smooth bump; every one of the params matters to every loss."""
    squared = tree.squared_norm(x)
    total = sum(leaf.sum() for leaf in tree.leaves(x))
    return params["k"] * squared / 2 + params["slope"] * torch.sin(total) + params["bump"] * torch.exp(-squared / 2)


def conditional_energy(params: Tree, x: Tree, scale: Tensor) -> Tensor:
    """The same, told a scale."""
    return energy(params, x) / scale


def time_energy(params: Tree, t: Tensor, x: Tree) -> Tensor:
    """The same, told a time."""
    return (1 + t) * energy(params, x)


def field(params: Tree, t: Tensor, x: Tree) -> Tree:
    """Its negative gradient."""
    return paths.negative_gradient(time_energy)(params, t, x)


def params(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=dtype) for name, value in (("k", 1.5), ("slope", 0.3), ("bump", 0.7))}


def batch(dtype: torch.dtype = torch.float32, num: int = 6) -> Tensor:
    return random.normal(random.key(77), (num, 3), dtype=dtype)


def batch_of_dicts(dtype: torch.dtype = torch.float32, num: int = 6) -> dict[str, Tensor]:
    key_a, key_b = random.split(random.key(78))
    return {"a": random.normal(key_a, (num, 3), dtype=dtype), "b": random.normal(key_b, (num, 2, 2), dtype=dtype)}


def _langevin() -> Sampler:
    return samplers.langevin(energy, step_size=0.05)


def _pcd() -> Loss:
    return losses.persistent_contrastive_divergence(energy, _langevin(), 2, buffer_size=10, restart_probability=0.3)


def _with_noise(make: Callable[[losses.NoiseModel], Loss]) -> Loss:
    """A loss whose noise has the shape of the batch, whatever that is."""

    def of(batch: Tree) -> Loss:
        return make(losses.gaussian_noise(tree.map(lambda leaf: torch.zeros_like(leaf[0]), batch), 2.0))

    return Loss(
        lambda key, params, batch: (),
        lambda key, batch: of(batch).draw(key, batch),
        lambda params, memory, batch, noise: of(batch).value(params, memory, batch, noise),
    )


def _with_normalizer(loss: Loss) -> Loss:
    """Noise-contrastive estimation whose log normalizer is one of the params of the sweeps."""

    def value(params: Tree, memory: Tree, batch: Tree, noise: Tree) -> tuple[Tensor, Tree]:
        return loss.value(losses.NormalizedParams(params, params["bump"]), memory, batch, noise)

    return loss._replace(value=value)


def classifier(params: Tree, x: Tree) -> Tensor:
    """Three logits."""
    value = energy(params, x)[..., None]
    return value * torch.tensor([-1.0, 0.3, 0.5]).to(value) + params["bump"] * torch.tensor([0.0, 1.0, 0.0]).to(value)


LABELLED = ("joint_energy",)
"""The losses whose batches are pairs with labels."""


def with_labels(name: str, batch: Tree) -> Tree:
    return (batch, torch.arange(tree.batch_size(batch)) % 3) if name in LABELLED else batch


def _joint() -> Loss:
    of_data = losses.persistent_contrastive_divergence(
        energies.energy_of_logits(classifier),
        lambda energy: samplers.langevin(energy, step_size=0.05),
        2,
        buffer_size=10,
    )
    return losses.joint_energy(classifier, of_data, weight=0.7, label_smoothing=0.1, data_noise=0.05)


def _rung(energy: Callable[[Tree, Tree], Tensor], beta: float) -> Sampler:
    return samplers.mala(energy, step_size=0.1 / beta)


class _Normal:
    """The standard normal energy of positions like one, with its normalizer and its draws."""

    def __init__(self, one: Tree) -> None:
        self.one, self.size = one, sum(leaf.numel() for leaf in tree.leaves(one))

    def __call__(self, params: Tree, x: Tree) -> Tensor:
        return tree.squared_norm(x) / 2

    def log_normalizer(self, params: Tree) -> Tensor:
        return torch.tensor(self.size * math.log(2 * math.pi) / 2)

    def sample(self, key: Tensor, params: Tree, num: int) -> Tree:
        return tree.normal_like(key, tree.broadcast(self.one, num))


def _with_reference(make: Callable[..., Loss]) -> Loss:
    """A loss that starts from a normal reference with the shape of the batch, whatever that is."""

    def of(like: Tree) -> Loss:
        reference = _Normal(tree.map(lambda leaf: leaf[0], like))
        return make(energy, reference=reference, reference_params=(), num_temperatures=3)

    return Loss(
        lambda key, params, batch: of(batch).init(key, params, batch),
        lambda key, batch: of(batch).draw(key, batch),
        lambda params, memory, batch, noise: of(batch).value(params, memory, batch, noise),
        lambda params, memory, batch, noise: of(batch).prepare(params, memory, batch, noise),
        lambda params, prepared: of(batch()).objective(params, prepared),
    )


LOSSES: dict[str, Callable[[], Loss]] = {
    "cd_data": lambda: losses.contrastive_divergence(energy, _langevin(), 3),
    "cd_noise": lambda: losses.contrastive_divergence(
        energy, samplers.mala(energy, step_size=0.1), 2, start="noise", regularization=0.1, data_noise=0.05
    ),
    "cd_hmc": lambda: losses.contrastive_divergence(energy, samplers.hmc(energy, step_size=0.1, num_leapfrog=2), 2),
    "cd_descent": lambda: losses.contrastive_divergence(energy, samplers.gradient_descent(energy, step_size=0.1), 2),
    "cd_options": lambda: losses.contrastive_divergence(
        energy, _langevin(), 2, regularization=0.1, gradient_penalty=0.2, trim=0.4, clamp=50.0
    ),
    "pcd": _pcd,
    "tempered_cd": lambda: losses.parallel_tempering_contrastive_divergence(
        energy, _rung, [0.3, 0.6, 1.0], 2, buffer_size=10, restart_probability=0.3
    ),
    "improved_cd": lambda: losses.improved_contrastive_divergence(
        energy, _langevin(), 3, buffer_size=20, bank_size=9, num_differentiated=2, entropy_weight=0.3
    ),
    "maximum_likelihood": lambda: _with_reference(functools.partial(losses.maximum_likelihood, num_particles=8)),
    "jarzynski": lambda: _with_reference(
        functools.partial(losses.jarzynski_maximum_likelihood, num_walkers=8, num_steps=2, resample_below=0.9)
    ),
    "joint_energy": _joint,
    "score_matching": lambda: losses.score_matching(energy),
    "hutchinson": lambda: losses.score_matching(energy, "hutchinson", num_probes=2),
    "sliced": lambda: losses.sliced_score_matching(energy, num_probes=2, probe="normal"),
    "sliced_raw": lambda: losses.sliced_score_matching(energy, variance_reduction=False, probe="sphere"),
    "finite_difference": lambda: losses.finite_difference_score_matching(energy, step_size=0.1),
    "nce": lambda: _with_noise(lambda q: _with_normalizer(losses.noise_contrastive_estimation(energy, q, num_noise=2))),
    "ranking_nce": lambda: _with_noise(lambda q: losses.ranking_noise_contrastive_estimation(energy, q, num_noise=3)),
    "conditional_nce": lambda: losses.conditional_noise_contrastive_estimation(energy, 0.5, num_noise=2),
    "energy_discrepancy": lambda: losses.energy_discrepancy(energy, 0.5, num_negatives=3),
    "kernel_stein": lambda: losses.kernel_stein_discrepancy(energy),
    "denoising": lambda: losses.denoising_score_matching(energy, 0.5),
    "annealed_denoising": lambda: losses.annealed_denoising_score_matching(
        conditional_energy, losses.geometric_noise_scales(1.0, 0.2, 4)
    ),
    "flow_likelihood": lambda: losses.flow_likelihood(flows.flow(field, solvers.midpoint(), 2, "exact")),
    "flow_matching": lambda: losses.flow_matching(field),
    "flow_matching_transport": lambda: losses.flow_matching(
        field, paths.trigonometric(), coupling=couplings.optimal_transport(), time=losses.stratified_times()
    ),
    "flow_matching_score": lambda: losses.flow_matching(
        field, paths.variance_preserving(), prediction="score", weight=lambda t: 1 + t
    ),
    "flow_matching_edm": lambda: losses.flow_matching(
        losses.edm_preconditioned(field, paths.linear()),
        prediction="data",
        time=losses.log_snr_times(paths.linear()),
        weight=losses.edm_weight(paths.linear()),
    ),
    "flow_matching_bridge": lambda: losses.flow_matching(
        field, paths.brownian_bridge(0.5), prediction="noise", coupling=couplings.sinkhorn(0.5)
    ),
    "equilibrium_matching": lambda: losses.equilibrium_matching(energy),
    "action_matching": lambda: losses.action_matching(time_energy),
    "energy_matching": lambda: losses.energy_matching(energy, contrastive_weight=0.7, num_steps=3, step_size=0.05),
    "bridge_matching": lambda: losses.bridge_matching(field, 0.7),
    "bridge_matching_backward": lambda: losses.bridge_matching(field, 0.7, "backward"),
    "recovery_likelihood": lambda: losses.diffusion_recovery_likelihood(
        time_energy, paths.trigonometric(), torch.tensor([0.2, 0.6, 1.0]), num_steps=3
    ),
    "weighted_sum": lambda: losses.weighted_sum(
        {"pcd": _pcd(), "denoising": losses.denoising_score_matching(energy, 0.5)}, {"pcd": 0.5, "denoising": 2.0}
    ),
    "penalised": lambda: losses.penalised(_pcd(), lambda params, batch: tree.squared_norm(params), 0.1),
}
