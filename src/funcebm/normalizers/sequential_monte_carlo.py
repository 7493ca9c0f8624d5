"""Sequential Monte Carlo samplers: tempering with resampling, whose temperatures and moves adapt."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, metrics, random, tree
from .._chunks import weight_of
from ..chains._loop import draw_noise
from ..distributed.agreement import check_same, failing_together, together
from ..distributed.mesh import Mesh, single
from ..distributed.pool import Pool, make_pool
from ..transforms import is_worth_it
from ..transforms import jit as compiled
from ..types import Energy, Key, Params, Position, Sampler, Tree, step_of_chains
from ._path import MakeSampler, TemperatureLadder, inverse_temperatures, make_annealing
from .annealed_importance import check_keys, log_mean_exp, reference_log_normalizer

__all__ = ["SequentialMonteCarlo", "sequential_monte_carlo", "systematic_resampling"]


class SequentialMonteCarlo(NamedTuple):
    r"""What :func:`sequential_monte_carlo` returns, of N particles in G groups and T temperatures.

    Attributes:
        log_normalizer: the estimate of :math:`\log Z`, the log of the mean of those of the groups. ``()``.
        standard_error: of ``log_normalizer``, by the jackknife over the groups, which never meet. ``()``.
        effective_sample_size: of N, as far as the groups agree: :math:`N (\sum_g Z_g)^2 / (G \sum_g Z_g^2)`. ``()``.
        log_weights: of the particles, the log of the evidence of their group; all are the same within a group. ``(N,)``.
        positions: with the weights, draws of the target. ``(N, *event)``.
        betas: the inverse temperatures, from 0 to 1. ``(T + 1,)``.
        acceptance_rate: of the moves at each temperature. ``(T,)``.
        group_log_normalizers: one estimate from each group. ``(G,)``.
        is_finished: whether the target was reached. ``()`` bool.
    """

    log_normalizer: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    log_weights: Tensor
    positions: Position
    betas: Tensor
    acceptance_rate: Tensor
    group_log_normalizers: Tensor
    is_finished: Tensor


def sequential_monte_carlo(
    key: Key,
    energy: Energy,
    params: Params,
    *,
    reference: Any,
    reference_params: Params,
    num_particles: int = 1024,
    num_groups: int = 16,
    num_moves: int = 10,
    sampler: MakeSampler | None = None,
    schedule: TemperatureLadder = "adaptive",
    threshold: float = 0.5,
    max_temperatures: int = 200,
    event_shape: Sequence[int] | None = None,
    jit: bool | None = None,
    mesh: Mesh = single,
) -> SequentialMonteCarlo:
    r"""A sequential Monte Carlo sampler with tempering: weighted draws of an energy, and its normalizer with an error bar.

    From exact draws of the reference, along :math:`E_\beta = (1 - \beta) E_0 + \beta E`: each step weights the particles by
    :math:`w = e^{(\beta' - \beta)(E_0 - E)}`, resamples them by these weights (systematically, within each group), and moves
    them by a kernel that leaves :math:`e^{-E_{\beta'}}` invariant, any of our samplers. The product over the steps of the mean
    weights of a group estimates :math:`Z / Z_0` without bias for fixed temperatures and moves. With ``"adaptive"``,
    :math:`\beta'` is as large as keeps the effective sample size of the weights at ``threshold`` of all particles; the step
    size of the moves follows their acceptance rate, and their metric the variances of the particles. Adaptation costs a bias
    of order 1/N.

    Unlike annealed importance sampling it gives up particles that are lost, and wants fewer temperatures. Modes that no
    particle sits in any more are missing, and so are tails that the reference does not reach, such as the mouth of a funnel; no
    error bar shows it: compare with twice as many particles, and with a wider reference.

    Args:
        key: ``(2,)``.
        energy: ``(params, x) -> ()``.
        params: of the energy.
        reference: :math:`E_0`, with exact ``log_normalizer`` and ``sample``; see :func:`annealed_importance_sampling`.
        reference_params: its params.
        num_particles: N, a multiple of ``num_groups``.
        num_groups: G, independent but for temperatures and step sizes: their spread is the error bar.
        num_moves: steps of the sampler at each temperature.
        sampler: ``energy -> sampler``, makes the moves; it must leave ``exp(-energy)`` invariant. By default MALA.
        schedule: ``"adaptive"``, or as for :func:`annealed_importance_sampling`; ``"sigmoid"`` and ``"linear"`` make
            ``max_temperatures`` steps.
        threshold: of the effective sample size, in (0, 1), over N: larger makes more temperatures.
        max_temperatures: at most; beyond, ``is_finished`` is False and the estimate belongs to the last temperature.
        event_shape: of a position, where the reference's params do not fix it.
        jit: compile the moves; None decides as for :func:`funcebm.sample`.
        mesh: of ranks that share the moves, each of which makes this call with the same arguments: after those of a temperature
            one message shows all ranks where all particles are, and each resamples them alike.

    Returns:
        :class:`SequentialMonteCarlo`.

    Raises:
        ValueError: a bad count, key, schedule or threshold; a reference without normalizer or draws; an energy that is not a
            scalar, or NaN where particles are.
        TypeError: something that makes no sampler.

    Not inside of ``vmap`` or ``jit``: how many temperatures there are depends on the numbers.

    Reference: Del Moral, Doucet and Jasra (2006), Journal of the Royal Statistical Society B 68(3):411-436; adaptive tempering,
    Jasra et al. (2011), Scandinavian Journal of Statistics 38(1):1-22.

    >>> from funcebm import energies
    >>> energy = lambda params, x: params * ((x - 2) ** 2).sum() / 2  # log Z = log(2 pi / params)
    >>> result = sequential_monte_carlo(random.key(0), energy, torch.tensor(4.0), reference=energies.gaussian,
    ...     reference_params=energies.gaussian.params([0.0, 0.0]), num_particles=512, jit=False)
    >>> error = result.log_normalizer - math.log(2 * math.pi / 4)
    >>> bool(error.abs() < 4 * result.standard_error), bool(result.is_finished)
    (True, True)
    """
    with together(mesh):
        _check_numbers(num_particles, num_groups, num_moves, max_temperatures, threshold)
        log_z0 = reference_log_normalizer(reference, reference_params, event_shape)
        key_start, key_resample, key_move = check_keys(key, tree.first(reference_params)).unbind(0)
        shape = () if event_shape is None else (tuple(event_shape),)
        positions = reference.sample(key_start, reference_params, num_particles, *shape)
        like = tree.first(positions)
        is_adaptive = isinstance(schedule, str) and schedule == "adaptive"
        betas = None if is_adaptive else inverse_temperatures(schedule, max_temperatures).tolist()
        annealing = make_annealing(energy, reference, sampler)
    size = num_particles // num_groups
    counts, schedule_of_all = (num_particles, num_groups, num_moves), (threshold, max_temperatures, betas)
    same = {"counts": counts, "the schedule": schedule_of_all}
    check_same(mesh, {"key": key, "params": params, "reference_params": reference_params, **same})
    pool = make_pool(num_particles, mesh, device=like.device)
    moves, tuning = make_moves(annealing.sampler, pool), tree.cast_like(annealing.sampler.tuning, like)
    weight = num_moves * weight_of(annealing.sampler)
    run = compiled(moves) if is_worth_it(jit, 20, weight) else moves
    log_step_size = torch.as_tensor(getattr(tuning, "step_size", 1.0)).to(like).log()
    keys = pool.split(key_move)
    rates: list[Tensor] = []
    totals, used, beta = like.new_zeros(num_groups), [0.0], 0.0
    with failing_together(mesh):
        while beta < 1 and len(rates) < (max_temperatures if betas is None else len(betas) - 1):
            step = len(rates)
            differences = annealing.differences(params, reference_params, positions)
            must = f"the energy must be a number where the particles are, at the inverse temperature {beta:.4g}"
            is_number = not bool(torch.isnan(differences).any())
            checks.require(is_number, must, "NaN", "Return infinity outside of the support.")
            following = next_beta(differences, beta, threshold) if betas is None else betas[step + 1]
            log_weights = (following - beta) * differences.reshape(num_groups, size)
            totals = totals + torch.logsumexp(log_weights, 1) - math.log(size)
            offset = random.uniform(random.fold_in(key_resample, step), (num_groups,), dtype=like.dtype)
            indices = vmap(systematic_resampling)(log_weights, offset)
            chosen = (indices + size * torch.arange(num_groups, device=like.device)[:, None]).reshape(-1)
            positions = tree.map(lambda leaf: leaf[chosen], positions)  # noqa: B023
            beta = following
            scaled, positions = _with_metric(tuning, positions), pool.take(positions)
            places = torch.arange(step * num_moves, (step + 1) * num_moves, device=like.device, dtype=torch.int32)
            noise = draw_noise(annealing.sampler, keys, positions, places)
            at = (params, reference_params, torch.tensor(beta, dtype=like.dtype, device=like.device))
            positions, log_step_size, rate = run(at, scaled, positions, log_step_size, noise)
            positions = pool.gather(positions)
            rates.append(rate)
            used.append(beta)
    value, error, agreement = log_mean_exp(totals)
    return SequentialMonteCarlo(
        log_z0.to(value) + value,
        error,
        agreement * size,
        totals.repeat_interleave(size),
        positions,
        torch.tensor(used, dtype=like.dtype, device=like.device),
        torch.stack(rates),
        log_z0.to(value) + totals,
        torch.tensor(beta >= 1, device=like.device),
    )


# -- parts --------------------------------------------------------------------------------------------------------


def _check_numbers(
    num_particles: int, num_groups: int, num_moves: int, max_temperatures: int, threshold: float
) -> None:
    for name, count in (("num_particles", num_particles), ("num_groups", num_groups)):
        checks.positive_int(name, count, minimum=2)
    checks.positive_int("num_moves", num_moves)
    checks.positive_int("max_temperatures", max_temperatures)
    fix = "Write num_particles=1024, num_groups=16, for example."
    size = num_particles // num_groups
    right = num_particles == size * num_groups and size >= 2
    checks.require(right, "groups must share the particles evenly, two or more each", f"{num_groups} groups", fix)
    checks.require(0 < threshold < 1, "threshold must be in (0, 1)", threshold, "Write 0.5.")


def systematic_resampling(log_weights: Tensor, offset: Tensor) -> Tensor:
    """Indices of M particles drawn by their weights, with one uniform number: each as often as its share, rounded up or down.

    Args:
        log_weights: ``(M,)``.
        offset: uniform on [0, 1). ``()``.

    Returns:
        ``(M,)`` int64, in order.

    Reference: Kitagawa (1996), Journal of Computational and Graphical Statistics 5(1):1-25.

    >>> systematic_resampling(torch.tensor([0.5, 0.0, 0.25, 0.25]).log(), torch.tensor(0.5))
    tensor([0, 0, 2, 3])
    """
    num = log_weights.shape[0]
    shares = torch.softmax(log_weights, 0).cumsum(0)
    # the last share is one but for rounding, and no place lies behind it
    places = (torch.arange(num, dtype=shares.dtype, device=shares.device) + offset) / num * shares[-1]
    return (shares[None, :] <= places[:, None]).sum(1).clamp(max=num - 1)


def next_beta(differences: Tensor, beta: float, threshold: float) -> float:
    """The largest next inverse temperature that keeps the effective sample size, by bisection."""
    values = differences.double()

    def share(step: float) -> float:
        log_weights = step * values
        log_size = 2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0)
        return float(log_size.exp()) / len(values)

    low, high = 0.0, 1 - beta
    if share(high) >= threshold:
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) >= threshold else (low, middle)
    return beta + high  # above beta, however small


def make_moves(sampler: Sampler, pool: Pool) -> Any:
    """``(path params, tuning, positions, log step size, noise) -> (positions, log step size, acceptance rate)``."""
    start, step = vmap(sampler.init, (None, 0)), step_of_chains(sampler)
    target = sampler.target_acceptance
    is_tunable = target is not None and hasattr(sampler.tuning, "step_size")

    def moves(at: Tree, tuning: Tree, positions: Position, log_step_size: Tensor, noise: Tree) -> Tree:
        def body(carry: Tree, one: Tree) -> tuple[Tree, Tensor]:
            state, log_size = carry
            current = tuning._replace(step_size=log_size.exp()) if is_tunable else tuning
            state, info = step(at, current, state, one)
            rate = pool.mean(info.acceptance_rate)
            log_size = log_size + (rate - target if is_tunable else torch.zeros_like(rate))
            return (state, log_size), rate

        carry = (start(at, positions), log_step_size.clone())
        (state, log_size), rates = loops.scan(body, carry, noise)
        return state.position, log_size, rates.mean()

    return moves


def _with_metric(tuning: Tree, positions: Position) -> Tree:
    """The variances of the particles as the metric of a sampler that takes one and was given none."""
    metric = getattr(tuning, "metric", None)
    if not isinstance(metric, metrics.Diagonal) or not metrics.is_scalar(metric):
        return tuning
    variances = tree.map(lambda leaf: leaf.var(0), positions)
    return tuning._replace(metric=metrics.Diagonal(tree.map(lambda v: v.clamp(min=1e-12), variances)))
