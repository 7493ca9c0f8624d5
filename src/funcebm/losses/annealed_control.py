"""The training of a control for escorted annealing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, random, tree
from ..normalizers._path import TemperatureLadder, inverse_temperatures
from ..normalizers.annealed_importance import log_mean_exp
from ..normalizers.escorted_annealing import controlled_path
from ..paths import Field
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._staged import staged, without_memory
from ._transport import like_x

__all__ = ["annealed_control"]


def annealed_control(
    energy: Energy,
    reference: Energy,
    control: Field,
    objective: str = "log_variance",
    *,
    energy_params: Params = (),
    reference_params: Params = (),
    diffusion: float | Tensor = 1.0,
    num_steps: int = 20,
    schedule: TemperatureLadder = "linear",
) -> Loss:
    r"""A control for :func:`funcebm.normalizers.escorted_annealing`, by the spread of its log weights.

    .. math:: L = \mathrm{Var}(\log w) \quad\text{or}\quad L = -\overline{\log w}

    The variance is taken over paths of the control as it is, through which no gradient flows: it is zero for the control that
    carries the densities of the annealing along, and no mode is preferred. The other one, ``"reverse_kl"``, differentiates
    through the whole path; it is the divergence from the paths forwards to those backwards, up to a constant, and seeks modes.

    Args:
        energy: ``(energy_params, x) -> ()``.
        reference: :math:`E_0`, ``(reference_params, x) -> ()``.
        control: a field ``(params, t, x) -> like x``, whose params are trained.
        objective: ``"log_variance"`` or ``"reverse_kl"``.
        energy_params: of the energy.
        reference_params: of the reference.
        diffusion: as for :func:`funcebm.normalizers.escorted_annealing`. ``()``.
        num_steps: of the path.
        schedule: as for :func:`funcebm.normalizers.escorted_annealing`.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)`` of exact draws of the reference, with the metrics
        ``log_normalizer_ratio``, the estimate of :math:`\log Z / Z_0`, and ``effective_share``, the effective sample size over B.

    Raises:
        ValueError: an unknown objective, a bad count or schedule, a diffusion that is not positive.

    Reference: Vargas et al. (2024), arXiv:2307.01050; log variance, Richter and Berner (2024), arXiv:2307.01198.

    >>> start, end = lambda params, x: (x**2).sum() / 2, lambda params, x: ((x - 1) ** 2).sum() / 2
    >>> loss = annealed_control(end, start, lambda params, t, x: params * torch.ones_like(x), num_steps=50)
    >>> batch = random.normal(random.key(1), (64, 1))
    >>> right, wrong = (loss(random.key(0), torch.tensor(value), batch)[0] for value in (1.0, 0.0))
    >>> bool(right < 0.05 < wrong)
    True
    """
    known = objective in ("log_variance", "reverse_kl")
    checks.require(known, "objective must be log_variance or reverse_kl", objective, 'Write "log_variance".')
    checks.positive("diffusion", diffusion, "Try 1.0.")
    checks.function("control", control, "Write lambda params, t, x: ...")
    betas = inverse_temperatures(schedule, num_steps)
    num = len(betas) - 1
    path = controlled_path(energy, reference, control)

    def draw(key: Key, batch: Batch) -> Tree:
        keys = random.split(key, num)
        return vmap(tree.normal_like, (0, None))(keys, batch)

    def walk(params: Params, batch: Batch, noise: Tree) -> tuple[Tree, Tree, Tensor]:
        """Walkers before each step and at the end, and their log weights."""
        like = tree.first(batch)
        shared = (
            energy_params,
            reference_params,
            params,
            torch.as_tensor(diffusion, dtype=like.dtype, device=like.device),
        )
        times = torch.linspace(0, 1, num + 1, dtype=like.dtype, device=like.device)
        steps = (times[:-1], times[1:], betas[1:].to(like), noise)
        many = vmap(path.step, (None, 0, (None, None, None, 0)))
        walkers = vmap(path.start, (None, 0))(shared, batch)
        last, along = loops.scan(lambda carry, x: (many(shared, carry, x)[0], carry), walkers, steps)
        return along, last, vmap(path.final, (None, 0))(shared, last)

    def report(log_weights: Tensor) -> dict[str, Tensor]:
        value, _, size = log_mean_exp(log_weights.detach())
        return {"log_normalizer_ratio": value, "effective_share": size / len(log_weights)}

    def value(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tensor, LossAux]:
        log_weights = walk(params, batch, noise)[2]
        return -log_weights.mean(), LossAux((), report(log_weights))

    if objective == "reverse_kl":
        return Loss(without_memory, draw, value)

    def prepare(params: Params, memory: Tree, batch: Batch, noise: Tree) -> Tree:
        along, last, _ = walk(params, batch, noise)
        stacked = tree.map(lambda a, b: torch.cat([a, b[None]]), along, last)
        ends = vmap(energy, (None, 0))(energy_params, last.position)
        starts = vmap(reference, (None, 0))(reference_params, batch)
        return stacked.position, stacked.slope, stacked.reference_slope, starts - ends

    def variance(params: Params, prepared: Tree) -> tuple[Tensor, LossAux]:
        positions, slopes, reference_slopes, constant = prepared
        like = tree.first(positions)
        w = torch.as_tensor(diffusion, dtype=like.dtype, device=like.device)
        times = torch.linspace(0, 1, num + 1, dtype=like.dtype, device=like.device)
        pushes = vmap(vmap(like_x(control), (None, None, 0)), (None, 0, 0))(params, times, positions)
        beta, h = betas[1:].to(like), times.diff()

        def ratio(before: Tree, after: Tree, beta: Tensor, h: Tensor) -> Tensor:
            """One particle, one step."""
            x, slope, reference_slope, push = before
            y, next_slope, next_reference_slope, next_push = after

            def residual(x: Position, y: Position, a: Position, b: Position, u: Position, sign: float) -> Tensor:
                pull = tree.map(lambda a, b: beta * a + (1 - beta) * b, a, b)
                moved = tree.map(lambda y, x, g, u: y - x + h * (w * g - sign * u), y, x, pull, u)
                return tree.squared_norm(moved)

            forth = residual(x, y, slope, reference_slope, push, 1.0)
            back = residual(y, x, next_slope, next_reference_slope, next_push, -1.0)
            return (forth - back) / (4 * w * h)

        everything = (positions, slopes, reference_slopes, pushes)
        before = tree.map(lambda leaf: leaf[:-1], everything)
        after = tree.map(lambda leaf: leaf[1:], everything)
        ratios = vmap(vmap(ratio, (0, 0, None, None)))(before, after, beta, h)
        log_weights = constant + ratios.sum(0)
        return log_weights.var(), LossAux((), report(log_weights))

    return staged(without_memory, draw, prepare, variance)
