"""Maximum likelihood with weighted particles from annealed importance sampling."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Sequence

import torch

from .. import checks, random, tree
from ..energies.exact import ExactEnergy
from ..normalizers import log_mean_exp
from ..normalizers._path import MakeSampler, Particles, Step, TemperatureLadder, inverse_temperatures, make_annealing
from ..types import Batch, Energy, Key, Loss, Params, Tree
from ._constrained import of_densities
from ._contrast import draw_chain, energies_of
from ._staged import staged, without_memory
from ._weighted import Weighted, weighted_objective

__all__ = ["LikelihoodNoise", "maximum_likelihood"]


class LikelihoodNoise(NamedTuple):
    """Where the particles start, draws of the reference ``(num_particles, *event)``, and the noise of their steps."""

    start: Tree
    chain: Tree


@of_densities
def maximum_likelihood(
    energy: Energy,
    *,
    reference: ExactEnergy,
    reference_params: Params,
    num_particles: int = 256,
    num_temperatures: int = 50,
    schedule: TemperatureLadder = "sigmoid",
    sampler: MakeSampler | None = None,
    event_shape: Sequence[int] | None = None,
) -> Loss[tuple[()]]:
    r"""Maximum likelihood: the negative log likelihood itself, by annealed importance sampling.

    .. math:: L = \overline{E_\theta(x^+)} + \widehat{\log Z_\theta}, \qquad
        \nabla_\theta L = \overline{\nabla_\theta E_\theta(x^+)} - \textstyle\sum_i W_i\, \nabla_\theta E_\theta(x_i)

    Each evaluation anneals fresh particles from the reference to the present energy, as in
    :func:`funcebm.normalizers.annealed_importance_sampling`, and weights them by :math:`W_i \propto w_i`, which corrects for
    chains that have not arrived. The bias is of the order of one over the effective number of particles. The value can be
    compared between models, which that of contrastive divergence cannot; it costs ``num_temperatures`` steps.

    Args:
        energy: ``(params, x) -> ()``.
        reference: :math:`E_0`, with exact ``log_normalizer`` and ``sample``, such as ``energies.gaussian``; best with the mean
            and the covariance of the data, and no narrower. Of a constrained energy it is one of the free numbers.
        reference_params: its params, constants.
        num_particles: static.
        num_temperatures: T, static.
        schedule: as in :func:`funcebm.normalizers.annealed_importance_sampling`.
        sampler: ``energy -> sampler``, which leaves ``exp(-energy)`` invariant. By default MALA
            with steps of 0.1. Its step size is used as it is, at all temperatures.
        event_shape: of a position, where the reference's params do not fix it.

    Returns:
        A :class:`~funcebm.types.Loss` with the metrics ``positive_energy``, ``negative_energy`` (weighted), ``energy_gap``
        (negative minus positive), ``log_normalizer``, ``effective_sample_size`` (of ``num_particles``; a small one says
        more temperatures or a larger step), ``acceptance_rate``.

    Raises:
        ValueError: a bad count or schedule; when called, an energy that is not a scalar.

    Reference: Neal (2001), Statistics and Computing 11:125-139, for the weights.

    >>> from funcebm import energies
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> loss = maximum_likelihood(energy, reference=energies.gaussian, reference_params=energies.gaussian.params([0.0, 0.0]),
    ...     num_temperatures=5)
    >>> value, aux = loss(random.key(0), torch.tensor(1.0), torch.zeros(4, 2))  # the path stands still: no variance
    >>> value, aux.metrics["effective_sample_size"]
    (tensor(1.8379), tensor(256.))
    """
    checks.positive_int("num_particles", num_particles, minimum=2)
    betas = inverse_temperatures(schedule, num_temperatures)
    annealing = make_annealing(energy, reference, sampler)
    energies = energies_of(energy)
    shape = () if event_shape is None else (tuple(event_shape),)
    num_steps = len(betas) - 1

    def draw(key: Key, batch: Batch) -> LikelihoodNoise:
        key_start, key_chain = random.split(key)
        start = reference.sample(key_start, tree.cast_like(reference_params, tree.first(batch)), num_particles, *shape)
        return LikelihoodNoise(start, draw_chain(annealing.sampler, key_chain, start, num_steps))

    def prepare(params: Params, memory: Tree, batch: Batch, noise: LikelihoodNoise) -> Weighted:
        first = tree.first(noise.start)
        path, start_params = betas.to(first), tree.cast_like(reference_params, first)
        tuning = tree.cast_like(annealing.sampler.tuning, first)
        log_step_size = getattr(tuning, "step_size", torch.ones_like(path[0])).log()
        zeros = torch.zeros_like(path[1:])
        steps = Step(path.diff(), path[1:], log_step_size.expand(num_steps), zeros, noise.chain)
        begin = Particles(noise.start, first.new_zeros(num_particles), log_step_size)
        particles, (rates, _) = annealing.run((params, start_params), tuning, begin, steps)
        weights = torch.softmax(particles.log_weights, 0)
        ratio, _, size = log_mean_exp(particles.log_weights)
        log_normalizer = reference.log_normalizer(start_params, *shape).to(ratio) + ratio
        constant = log_normalizer + (weights * energies(params, particles.positions)).sum()
        metrics = {
            "log_normalizer": log_normalizer,
            "effective_sample_size": size,
            "acceptance_rate": rates.mean(),
        }
        return Weighted(batch, particles.positions, weights, constant, (), metrics)

    return staged(without_memory, draw, prepare, partial(weighted_objective, energies))
