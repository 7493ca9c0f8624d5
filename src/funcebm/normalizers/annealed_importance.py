"""Annealed importance sampling, forwards and in reverse."""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor

from .. import checks, random, tree
from ..distributed.agreement import check_equal, digest, failing_together, together
from ..distributed.mesh import Mesh, bounds, single
from ..energies.exact import ExactEnergy
from ..types import Energy, Key, Params, Position
from ._path import AnnealedPath, MakeSampler, Particles, TemperatureLadder, inverse_temperatures, make_path
from .pareto import khat_or_nan

__all__ = [
    "AnnealedImportance",
    "annealed_importance_sampling",
    "check_keys",
    "log_mean_exp",
    "reference_log_normalizer",
    "reverse_annealed_importance_sampling",
]


class AnnealedImportance(NamedTuple):
    r"""What annealed importance sampling returns, of N particles and T temperatures.

    Attributes:
        log_normalizer: the estimate of :math:`\log Z`. ``()``.
        standard_error: of ``log_normalizer``, by the jackknife. ``()``.
        effective_sample_size: :math:`(\sum w)^2 / \sum w^2`, of N; below some tens neither the estimate nor its error bar can be
            trusted. ``()``.
        log_weights: :math:`\log w`. Forwards, the mean of :math:`w` times the reference's normalizer is an unbiased estimate of
            :math:`Z`; in reverse, its mean over that normalizer one of :math:`1/Z`. ``(N,)``.
        positions: where the particles end: with the weights, draws of the target; in reverse, of the reference; with a mesh
            those of the particles of this rank. ``(N, *event)``.
        acceptance_rate: of the kernels, in the order in which they ran. ``(T,)``.
        pareto_khat: of the weights, see :func:`pareto_khat`; above 0.7 the estimate is too low and its error bar too small,
            as where the reference does not reach a tail of the target. NaN for fewer than 25 particles. ``()``.
    """

    log_normalizer: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    log_weights: Tensor
    positions: Position
    acceptance_rate: Tensor
    pareto_khat: Tensor


# -- the public functions -----------------------------------------------------------------------------------------


def annealed_importance_sampling(
    key: Key,
    energy: Energy,
    params: Params,
    *,
    reference: ExactEnergy,
    reference_params: Params,
    num_particles: int = 500,
    num_temperatures: int = 1000,
    schedule: TemperatureLadder = "sigmoid",
    sampler: MakeSampler | None = None,
    event_shape: Sequence[int] | None = None,
    jit: bool | None = None,
    mesh: Mesh = single,
) -> AnnealedImportance:
    r"""Annealed importance sampling: the normalizer of an energy, with an error bar.

    Particles start as exact draws of the reference, :math:`x_0 \sim e^{-E_0} / Z_0`, and go along the path
    :math:`E_\beta = (1 - \beta) E_0 + \beta E`, :math:`0 = \beta_0 < \dots < \beta_T = 1`:

    .. math:: \log w \mathrel{+}= (\beta_t - \beta_{t-1}) \bigl(E_0(x_{t-1}) - E(x_{t-1})\bigr), \qquad
        x_t \sim K_t(x_{t-1}, \cdot),

    with a kernel :math:`K_t` that leaves :math:`e^{-E_{\beta_t}}` invariant. Then :math:`\mathrm{E}\,w = Z / Z_0` exactly, and

    .. math:: \widehat{\log Z} = \log Z_0 + \log \tfrac1N \textstyle\sum_i w_i

    lies below :math:`\log Z` in expectation, by about half the square of its standard error.
    :func:`reverse_annealed_importance_sampling` bounds it from above. A mode that no particle finds is missing from the
    estimate, and no error bar shows it.

    A short pilot run with particles of its own finds a step size for each temperature, if the kernel has one and an acceptance
    rate to aim at; the step sizes are fixed before the run that counts, which so stays unbiased.

    Args:
        key: ``(2,)``.
        energy: ``(params, x) -> ()``.
        params: of the energy.
        reference: :math:`E_0`, an energy ``(reference_params, x) -> ()`` with exact ``log_normalizer`` and ``sample``, such as
            ``energies.gaussian``; best with the mean and the covariance of the target or of the data, and no narrower.
        reference_params: its params.
        num_particles: N.
        num_temperatures: T, how many steps the path has.
        schedule: ``"sigmoid"`` (slow at both ends), ``"linear"``, or the :math:`\beta_0 = 0, \dots, \beta_T = 1` themselves,
            ``(T + 1,)``, which then say T.
        sampler: ``energy -> sampler``, makes the kernels; it must leave ``exp(-energy)`` invariant (no unadjusted Langevin).
            By default MALA.
        event_shape: of a position, where the reference's params do not fix it.
        jit: compile the path as one loop; None decides as for :func:`funcebm.sample`.
        mesh: of ranks that share the particles, each of which makes this call with the same arguments; the weights of all are
            put together at the end.

    Returns:
        :class:`AnnealedImportance`.

    Raises:
        ValueError: a bad count, key or schedule, a reference without normalizer or exact draws; an energy that is not a scalar.

    Reference: Neal (2001), Statistics and Computing 11:125-139; the sigmoid schedule, Grosse, Ghahramani and Adams (2015),
    arXiv:1511.02543.

    >>> from funcebm import energies
    >>> energy = lambda params, x: params * (x**2).sum() / 2  # log Z = log(2 pi / params) in two dimensions
    >>> result = annealed_importance_sampling(random.key(0), energy, torch.tensor(4.0), reference=energies.gaussian,
    ...     reference_params=energies.gaussian.params([0.0, 0.0]), num_particles=200, num_temperatures=30, jit=False)
    >>> error = result.log_normalizer - math.log(2 * math.pi / 4)
    >>> bool(error.abs() < 4 * result.standard_error), bool(result.standard_error < 0.1)
    (True, True)
    """
    with together(mesh):
        checks.positive_int("num_particles", num_particles, minimum=2)
        log_z0 = reference_log_normalizer(reference, reference_params, event_shape)
        key_start, key_pilot, key_run = check_keys(key, tree.first(reference_params)).unbind(0)
        shape = () if event_shape is None else (tuple(event_shape),)
        positions = reference.sample(key_start, reference_params, num_particles, *shape)
        betas = inverse_temperatures(schedule, num_temperatures)
        path = make_path(energy, reference, sampler, (params, reference_params), betas, positions, jit)
        sizes = path.pilot(key_pilot, positions)
    particles, rates = _on_ranks(mesh, path, key, positions, lambda own, rows: own.forwards(key_run, rows, sizes))
    estimate = log_mean_exp(particles.log_weights)
    return AnnealedImportance(log_z0.to(estimate[0]) + estimate[0], *estimate[1:], *_ends(particles, rates))


def reverse_annealed_importance_sampling(
    key: Key,
    energy: Energy,
    params: Params,
    positions: Position,
    *,
    reference: ExactEnergy,
    reference_params: Params,
    num_temperatures: int = 1000,
    schedule: TemperatureLadder = "sigmoid",
    sampler: MakeSampler | None = None,
    event_shape: Sequence[int] | None = None,
    jit: bool | None = None,
    mesh: Mesh = single,
) -> AnnealedImportance:
    r"""Annealed importance sampling from the target to the reference: :math:`\log Z` from above.

    Particles start as draws of the target and go down the path of :func:`annealed_importance_sampling`, each kernel before its
    weight. With :math:`v = Z_0 / Z` in expectation for the products :math:`v` of all the inverse weights,

    .. math:: \widehat{\log Z} = \log Z_0 - \log \tfrac1N \textstyle\sum_i v_i

    lies above :math:`\log Z` in expectation. Forwards and in reverse make a sandwich: where the two agree, both are right. That
    needs exact draws, or those of a run that has long converged; from draws that miss a mode it says nothing.

    Args:
        key: ``(2,)``.
        energy: ``(params, x) -> ()``.
        params: of the energy.
        positions: draws of :math:`e^{-E} / Z`, ``(N, *event)``.
        reference: as in :func:`annealed_importance_sampling`.
        reference_params: its params.
        num_temperatures: T.
        schedule: as in :func:`annealed_importance_sampling`.
        sampler: as in :func:`annealed_importance_sampling`; kernels must be reversible (HMC, MALA, random walk are).
        event_shape: of a position, where the reference's params do not fix it.
        jit: compile the path as one loop; None decides as for :func:`funcebm.sample`.
        mesh: of ranks that share the particles, each of which makes this call with the same arguments; the weights of all are
            put together at the end.

    Returns:
        :class:`AnnealedImportance`, with :math:`\log v` as ``log_weights``.

    Raises:
        ValueError: as of :func:`annealed_importance_sampling`.

    Reference: Grosse, Ghahramani and Adams (2015), arXiv:1511.02543.

    >>> from funcebm import energies
    >>> params = energies.gaussian.params([1.0, 0.0], [[0.25, 0.0], [0.0, 0.25]])
    >>> result = reverse_annealed_importance_sampling(random.key(0), energies.gaussian, params,
    ...     energies.gaussian.sample(random.key(1), params, 200), reference=energies.gaussian,
    ...     reference_params=energies.gaussian.params([0.0, 0.0]), num_temperatures=30, jit=False)
    >>> error = result.log_normalizer - energies.gaussian.log_normalizer(params)
    >>> bool(error.abs() < 4 * result.standard_error)
    True
    """
    with together(mesh):
        checks.positive_int("the number of positions", tree.batch_size(positions), minimum=2)
        log_z0 = reference_log_normalizer(reference, reference_params, event_shape)
        key_start, key_pilot, key_run = check_keys(key, tree.first(positions)).unbind(0)
        shape = () if event_shape is None else (tuple(event_shape),)
        betas = inverse_temperatures(schedule, num_temperatures)
        path = make_path(energy, reference, sampler, (params, reference_params), betas, positions, jit)
        starts = reference.sample(key_start, reference_params, tree.batch_size(positions), *shape)
        sizes = path.pilot(key_pilot, starts)
    particles, rates = _on_ranks(mesh, path, key, positions, lambda own, rows: own.backwards(key_run, rows, sizes))
    estimate = log_mean_exp(particles.log_weights)
    return AnnealedImportance(log_z0.to(estimate[0]) - estimate[0], *estimate[1:], *_ends(particles, rates))


def log_mean_exp(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The log of the mean of weights, its standard error by the jackknife, and the effective sample size.

    The jackknife leaves each weight out once, :math:`\theta_i = \log \tfrac1{N-1} \sum_{j \ne i} w_j`, and takes
    :math:`\tfrac{N-1}{N} \sum_i (\theta_i - \bar\theta)^2`. For many even weights that is the delta method; where one
    weight is nearly the whole sum it grows without bound, while the delta method never says more than 1.

    Args:
        log_weights: ``(N,)``, two or more.

    Returns:
        Three numbers ``()``.

    >>> value, error, size = log_mean_exp(torch.zeros(8))
    >>> bool(value.abs() < 1e-6), error, bool((size - 8).abs() < 1e-4)
    (True, tensor(0.), True)
    """
    num = log_weights.shape[0]
    total = torch.logsumexp(log_weights, 0)
    left_out = torch.log1p(-torch.exp(log_weights - total).clamp(max=1))
    spread = (left_out - left_out.mean()).square().mean()
    error = torch.where(torch.isfinite(left_out).all(), ((num - 1) * spread).sqrt(), torch.inf)
    size = torch.exp(2 * total - torch.logsumexp(2 * log_weights, 0))
    return total - math.log(num), error, size


def _ends(particles: Particles, rates: Tensor) -> tuple[Any, ...]:
    """The last entries of a result."""
    return particles.log_weights, particles.positions, rates, khat_or_nan(particles.log_weights)


def _on_ranks(
    mesh: Mesh, path: AnnealedPath, key: Key, positions: Position, walk: Callable[[AnnealedPath, Position], Any]
) -> tuple[Particles, Tensor]:
    """The particles of this rank at the end, with the log weights of all of them, and the acceptance rates over all."""
    if mesh.size == 1:
        particles, rates = walk(path, positions)
        return particles, rates
    num = tree.batch_size(positions)
    first, last = bounds(num, mesh.rank, mesh.size)
    news: dict[str, Any] = {}
    with failing_together(mesh):
        with together(mesh, news) as found:
            must = "each rank must have a particle"
            checks.require(num >= mesh.size and last > first, must, f"{num} for {mesh.size} ranks", "Take more.")
            given = {"key": key, "params": path.both_params, "temperatures": path.betas, "positions": positions}
            news.update(digests={name: digest(value) for name, value in given.items()})
        check_equal(mesh, found)
        rows = tree.map(lambda leaf: leaf[first:last], positions)
        particles, rates = walk(path._replace(first=first), rows)
        rates = mesh.sum(rates * (last - first)) / num
        return particles._replace(log_weights=mesh.gather(particles.log_weights)), rates


# -- checks at the door -------------------------------------------------------------------------------------------


def check_keys(key: Key, like: Tensor) -> Key:
    """Three keys, on the device of ``like``."""
    random.check_key(key)
    return random.split(key.to(like.device), 3)


def reference_log_normalizer(reference: Any, params: Params, shape: Sequence[int] | None) -> Tensor:
    """That of a reference, which must have one, and draws."""
    exact = callable(getattr(reference, "log_normalizer", None)) and callable(getattr(reference, "sample", None))
    must = "reference must have an exact log_normalizer and sample"
    got = getattr(reference, "__name__", type(reference).__name__)
    checks.require(exact, must, got, "Use funcebm.energies.gaussian, for example.")
    return reference.log_normalizer(params) if shape is None else reference.log_normalizer(params, tuple(shape))
