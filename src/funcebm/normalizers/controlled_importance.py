"""Importance sampling with a controlled diffusion from a point, the sampler of adjoint matching."""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, loops, random, tree
from ..paths import Field
from ..solvers.integrator import evaluate
from ..transforms import is_worth_it
from ..transforms import jit as compiled
from ..types import Energy, Key, Params, Position, Schedule, Tree
from .annealed_importance import AnnealedImportance, log_mean_exp
from .pareto import khat_or_nan

__all__ = ["ControlledEnds", "check_scale", "controlled_ends", "controlled_importance", "diffusion_grid"]


class ControlledEnds(NamedTuple):
    r"""The end of a controlled diffusion ``(*event)``, and the log ratio of the free to the controlled path ``()``."""

    position: Position
    log_ratio: Tensor


def check_scale(scale: float | Tensor | Schedule) -> None:
    """A number above zero, or a function of times."""
    if not callable(scale):
        checks.positive("scale", scale, "Give the standard deviation of the widest part of the target.")


def diffusion_grid(scale: float | Tensor | Schedule, num_steps: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Times ``(N + 1,)``, the scale c of each step ``(N,)``, the variance :math:`\sum c^2 h` up to each time ``(N + 1,)``."""
    times = torch.linspace(0, 1, num_steps + 1, dtype=like.dtype, device=like.device)
    scales = (
        scale(times[:-1]) if callable(scale) else torch.as_tensor(scale, dtype=like.dtype, device=like.device)
    ).expand(num_steps)
    checks.positive("the scale of each step", scales, "It must fall from one number above zero to another.")
    variances = torch.cat([times.new_zeros(1), (scales.square() * times.diff()).cumsum(0)])
    return times, scales, variances


def controlled_ends(
    control: Field, control_params: Params, zero: Position, noise: Tree, times: Tensor, scales: Tensor
) -> ControlledEnds:
    r"""One particle along :math:`dX = c^2 k\,dt + c\,dW` from ``zero``, by Euler's steps; noise ``(N, *event)``."""

    def body(carry: tuple[Position, Tensor], xs: Tree) -> tuple[tuple[Position, Tensor], Tree]:
        x, log_ratio = carry
        time, end, c, z = xs
        h = end - time
        push = tree.scale(c, evaluate(control, control_params, time, x, name="a control"))
        x = tree.map(lambda a, u, n: a + c * (h * u + torch.sqrt(h) * n), x, push, z)
        return (x, log_ratio - h / 2 * tree.squared_norm(push) - torch.sqrt(h) * tree.dot(push, z)), ()

    start = (tree.map(torch.clone, zero), torch.zeros((), dtype=times.dtype, device=times.device))
    return ControlledEnds(*loops.scan(body, start, (times[:-1], times[1:], scales, noise))[0])


def controlled_importance(
    key: Key,
    energy: Energy,
    params: Params,
    *,
    control: Field,
    control_params: Params = (),
    scale: float | Tensor | Schedule = 1.0,
    num_particles: int = 500,
    num_steps: int = 100,
    event_shape: Sequence[int],
    jit: bool | None = None,
) -> AnnealedImportance:
    r"""Weighted draws of an energy from a controlled diffusion that starts at a point, and its normalizer.

    With :math:`X_{k+1} = X_k + c_k^2 h\, k(X_k, t_k) + c_k \sqrt h\, \xi_k`, :math:`X_0 = 0`, and :math:`\nu = \sum_k c_k^2 h`,

    .. math:: \log w = -E(X_N) - \log N(X_N; 0, \nu I)
        - \sum_k \Bigl(\tfrac h2 |c_k k|^2 + \sqrt h\, c_k k \cdot \xi_k\Bigr),

    the density of the free diffusion over that of the controlled one (Girsanov), exact on the grid: :math:`\mathrm{E}\,w = Z`
    for every control. :func:`funcebm.losses.adjoint_matching` trains one for which the weights are nearly all the same.

    Args:
        key: ``(2,)``.
        energy: ``(params, x) -> ()``.
        params: of the energy.
        control: :math:`k`, a field ``(control_params, t, x) -> like x``.
        control_params: its params.
        scale: :math:`c`, a number, or a function of times ``(N,)``; as in the training. :math:`\nu` must cover the target.
        num_particles: N.
        num_steps: of the diffusion; the weights are exact for any number.
        event_shape: of one particle.
        jit: compile; None decides as for :func:`funcebm.sample`.

    Returns:
        :class:`AnnealedImportance`; its acceptance rates are 1.

    Raises:
        ValueError: a bad count or key, a scale that is not positive; an energy that is not a scalar, a control that is not like
            ``x``.

    Reference: Havens et al. (2025), "Adjoint sampling: highly scalable diffusion samplers via adjoint matching",
    arXiv:2504.11713; Zhang and Chen (2022), "Path integral sampler", arXiv:2111.15141.

    >>> energy = lambda params, x: (x**2).sum() / 2  # what the free diffusion reaches: no control is needed
    >>> result = controlled_importance(random.key(0), energy, (), control=lambda params, t, x: 0 * x, event_shape=(2,),
    ...     num_particles=50, num_steps=10, jit=False)
    >>> bool((result.log_normalizer - math.log(2 * math.pi)).abs() < 1e-5)
    True
    """
    random.check_key(key)
    checks.function("control", control, "Write lambda params, t, x: ...")
    check_scale(scale)
    checks.positive_int("num_particles", num_particles, minimum=2)
    checks.positive_int("num_steps", num_steps)
    known = [leaf for leaf in tree.leaves((control_params, params)) if isinstance(leaf, Tensor)]
    floating = [leaf for leaf in known if leaf.is_floating_point()]
    like = floating[0] if floating else torch.zeros((), device=key.device)
    noise = random.normal(key.to(like.device), (num_particles, num_steps, *event_shape), dtype=like.dtype)
    zero = torch.zeros(tuple(event_shape), dtype=like.dtype, device=like.device)
    fields.require_scalar(energy(params, zero), zero)
    grid = diffusion_grid(scale, num_steps, zero)

    def one(params: Params, control_params: Params, noise: Tree, grid: Tree) -> tuple[Position, Tensor]:
        times, scales, variances = grid
        ends = controlled_ends(control, control_params, zero, noise, times, scales)
        x, variance = ends.position, variances[-1]
        free = -x.square().sum() / (2 * variance) - x.numel() / 2 * torch.log(2 * math.pi * variance)
        return x, ends.log_ratio - energy(params, x) - free

    many = vmap(one, (None, None, 0, None))
    run = compiled(many) if is_worth_it(jit, num_steps) else many
    positions, log_weights = run(params, control_params, noise, grid)
    value, error, size = log_mean_exp(log_weights)
    khat = khat_or_nan(log_weights)
    return AnnealedImportance(value, error, size, log_weights, positions, torch.ones_like(grid[1]), khat)
