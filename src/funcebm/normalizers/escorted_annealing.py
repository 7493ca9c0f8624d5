"""Annealed importance sampling with a control: an escorted Jarzynski estimate, unbiased for any control and any step."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, random, tree
from .._chunks import drive_all, make_loop
from ..chains._loop import chunks, draw_noise, draw_step
from ..paths import Field
from ..solvers.integrator import evaluate
from ..transforms import is_worth_it
from ..types import Energy, Key, Params, Position, Sampler, Tree
from ._path import TemperatureLadder, inverse_temperatures
from .annealed_importance import AnnealedImportance, check_keys, log_mean_exp, reference_log_normalizer
from .pareto import khat_or_nan

__all__ = ["ControlledPath", "controlled_path", "escorted_annealing", "no_control"]


def no_control(params: Params, t: Tensor, x: Position) -> Position:
    """The control that does nothing."""
    return tree.zeros_like(x)


class _Walker(NamedTuple):
    position: Position
    log_weight: Tensor
    slope: Position  # of the energy
    reference_slope: Position
    push: Position  # of the control


class ControlledPath(NamedTuple):
    """The steps of one walker, as pure functions; ``shared`` is ``(params, reference_params, control_params, diffusion)``.

    Attributes:
        start: ``(shared, x) -> walker``.
        step: ``(shared, walker, (time, end, beta, noise)) -> (walker, ())``.
        final: ``(shared, walker) -> log weight``.
    """

    start: Any
    step: Any
    final: Any


def controlled_path(energy: Energy, reference: Energy, control: Field) -> ControlledPath:
    """The steps of escorted annealing between two energies; one gradient of each, and one control, a step."""
    with_slope, reference_with_slope = fields.value_and_gradient(energy), fields.value_and_gradient(reference)

    def start(shared: Tree, x: Position) -> _Walker:
        params, reference_params, control_params, _ = shared
        value, reference_slope = reference_with_slope(reference_params, x)
        zero = torch.zeros((), dtype=value.dtype, device=value.device)
        slope = with_slope(params, x)[1]
        return _Walker(x, value, slope, reference_slope, evaluate(control, control_params, zero, x, name="a control"))

    def step(shared: Tree, walker: _Walker, xs: Tree) -> tuple[_Walker, Tree]:
        params, reference_params, control_params, diffusion = shared
        time, end, beta, noise = xs
        h = end - time

        def downhill(slope: Position, reference_slope: Position) -> Position:
            return tree.map(lambda a, b: diffusion * (beta * a + (1 - beta) * b), slope, reference_slope)

        spread = torch.sqrt(2 * diffusion * h)
        pull = downhill(walker.slope, walker.reference_slope)
        mean = tree.map(lambda x, g, u: x + h * (u - g), walker.position, pull, walker.push)
        position = tree.add_scaled(mean, spread, noise)
        slope = with_slope(params, position)[1]
        reference_slope = reference_with_slope(reference_params, position)[1]
        push = evaluate(control, control_params, end, position, name="a control")
        pull = downhill(slope, reference_slope)
        back = tree.map(lambda x, y, g, u: x - (y - h * (g + u)), walker.position, position, pull, push)
        change = (tree.squared_norm(noise) * spread.square() - tree.squared_norm(back)) / (4 * diffusion * h)
        return _Walker(position, walker.log_weight + change, slope, reference_slope, push), ()

    def final(shared: Tree, walker: _Walker) -> Tensor:
        return walker.log_weight - energy(shared[0], walker.position)

    return ControlledPath(start, step, final)


def escorted_annealing(
    key: Key,
    energy: Energy,
    params: Params,
    *,
    reference: Any,
    reference_params: Params,
    control: Field | None = None,
    control_params: Params = (),
    diffusion: float | Tensor = 1.0,
    num_particles: int = 500,
    num_steps: int = 100,
    schedule: TemperatureLadder = "linear",
    event_shape: Sequence[int] | None = None,
    jit: bool | None = None,
) -> AnnealedImportance:
    r"""Annealed importance sampling whose particles are pushed along by a control, without bias for any control and any step.

    Along :math:`E_k = (1 - \beta_k) E_0 + \beta_k E` from an exact draw of the reference, with :math:`h = 1/N`,

    .. math:: x_{k+1} &= x_k + h\,(u_k(x_k) - w \nabla E_{k+1}(x_k)) + \sqrt{2 w h}\,\xi_k = m_k + \sqrt{2wh}\,\xi_k, \\
        \tilde m_k &= x_{k+1} - h\,(u_{k+1}(x_{k+1}) + w \nabla E_{k+1}(x_{k+1})), \\
        \log w &= E_0(x_0) - E(x_N) + \sum_k \frac{|x_{k+1} - m_k|^2 - |x_k - \tilde m_k|^2}{4 w h}.

    The sum is the log ratio of the backward and the forward transition, so :math:`\mathrm{E}\,e^{\log w} = Z / Z_0` exactly.
    Where :math:`u` carries the path's densities along, the weights are all the same as :math:`h \to 0`: a good control needs
    few steps and mixes modes that no Langevin move joins. ``losses.annealed_control`` trains one; a flow from data is another.
    Without control it is annealed importance sampling with Langevin transitions and no rejections.

    Args:
        key: ``(2,)``.
        energy: ``(params, x) -> ()``.
        params: of the energy.
        reference: :math:`E_0`, with exact ``log_normalizer`` and ``sample``; see :func:`annealed_importance_sampling`.
        reference_params: its params.
        control: :math:`u`, a field ``(control_params, t, x) -> like x`` with t from 0 (reference) to 1; None is no control.
        control_params: its params.
        diffusion: :math:`w > 0`, in squared units of ``x`` over time; ``w h`` is the step of a Langevin move. ``()``.
        num_particles: N.
        num_steps: of the path; one gradient of each energy, and one control, for each.
        schedule: of the :math:`\beta_k`, as for :func:`annealed_importance_sampling`; numbers then say ``num_steps``.
        event_shape: of a position, where the reference's params do not fix it.
        jit: compile the path as one loop; None decides as for :func:`funcebm.sample`.

    Returns:
        :class:`AnnealedImportance`; its acceptance rates are 1. Look at ``effective_sample_size`` and ``pareto_khat``: too large
        a step makes the weights uneven, and then the error bar is too small as well.

    Raises:
        ValueError: a bad count, key or schedule, a diffusion that is not positive, a reference without normalizer or draws, an
            energy that is not a scalar, a control that is not like ``x``.

    Reference: Vaikuntanathan and Jarzynski (2008), Physical Review Letters 100:190601; the ratio of transitions, Vargas et al.
    (2024), "Transport meets variational inference: controlled Monte Carlo diffusions", ICLR, arXiv:2307.01050; Albergo and
    Vanden-Eijnden (2024), arXiv:2410.02711.

    >>> from funcebm import energies
    >>> energy = lambda params, x: params * ((x - 2) ** 2).sum() / 2  # log Z = log(2 pi / params)
    >>> result = escorted_annealing(random.key(0), energy, torch.tensor(1.0), reference=energies.gaussian,
    ...     reference_params=energies.gaussian.params([0.0, 0.0]), control=lambda params, t, x: 2 + 0 * x,
    ...     num_particles=200, num_steps=20, jit=False)  # the control moves the density along
    >>> error = result.log_normalizer - torch.log(torch.tensor(2 * torch.pi))
    >>> bool(error.abs() < 4 * result.standard_error), bool(result.standard_error < 0.05)
    (True, True)
    """
    checks.positive_int("num_particles", num_particles, minimum=2)
    checks.positive("diffusion", diffusion, "Try 1.0.")
    if control is not None:
        checks.function("control", control, "Write lambda params, t, x: ...")
    log_z0 = reference_log_normalizer(reference, reference_params, event_shape)
    key_start, key_run, _ = check_keys(key, tree.first(reference_params)).unbind(0)
    shape = () if event_shape is None else (tuple(event_shape),)
    positions = reference.sample(key_start, reference_params, num_particles, *shape)
    like = tree.first(positions)
    betas = inverse_temperatures(schedule, num_steps).to(like)
    num = len(betas) - 1
    path = controlled_path(energy, reference, no_control if control is None else control)
    shared = (
        params,
        reference_params,
        control_params,
        torch.as_tensor(diffusion, dtype=like.dtype, device=like.device),
    )
    # the energies and the control are called once eagerly, so that their errors come out as they are
    walkers = vmap(path.start, (None, 0))(shared, positions)
    particle = tree.map(lambda leaf: leaf[0], positions)
    fields.require_scalar(energy(params, particle), particle)

    many = vmap(path.step, (None, 0, (None, None, None, 0)))
    is_jitted = is_worth_it(jit, num) and not checks.is_traced((shared, positions))
    source = Sampler(lambda *_: (), tree.normal_like, lambda *_: ((), ()), ())
    times = torch.linspace(0, 1, num + 1, dtype=like.dtype, device=like.device)

    def body(numbers_and_keys: Tree, walkers: _Walker, x: Tree) -> tuple[_Walker, Tree]:
        (numbers, keys), (index, times_and_beta, noise) = numbers_and_keys, x
        noise = noise if tree.leaves(noise) else draw_step(source, keys, walkers.position, index)
        return many(numbers, walkers, (*times_and_beta, noise))

    loop = make_loop(
        body,
        lambda shared, walkers, indices: draw_noise(source, shared[1], walkers.position, indices),
        jit=is_jitted,
        name=f"escorted annealing, {num_particles} particles",
    )
    keys, lines = random.split(key_run, num_particles), (times[:-1], times[1:], betas[1:])
    options: Any = {"like": keys, "given": lambda indices: tuple(line[indices.long()] for line in lines)}
    walkers, _ = drive_all(loop, (shared, keys), walkers, chunks(positions, num, jit=is_jitted), **options)
    log_weights = vmap(path.final, (None, 0))(shared, walkers)
    value, error, size_ = log_mean_exp(log_weights)
    return AnnealedImportance(
        log_z0.to(value) + value,
        error,
        size_,
        log_weights,
        walkers.position,
        torch.ones_like(betas[1:]),
        khat_or_nan(log_weights),
    )
