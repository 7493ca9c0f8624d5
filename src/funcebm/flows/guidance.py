"""Guidance: fields that push towards a condition, or down an energy."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, paths, tree
from ..paths import Field, Path, TimeEnergy
from ..paths.path import has_latent
from ..types import Params, Position, Tree

__all__ = ["energy_guided", "guided"]


def guided(
    field: Field,
    null: Tree | Field,
    scale: float | Tensor,
    interval: tuple[float | Tensor, float | Tensor] | None = None,
    rescale: float | Tensor = 0.0,
) -> Field:
    r"""Classifier-free guidance, :math:`u_0 + g\,(u_c - u_0)`, of any prediction that is affine in the score.

    With :math:`g = 1` it is the conditional field, with :math:`g = 0` the unconditional one; larger :math:`g` trades diversity
    for agreement with the condition. It is asked at every stage of every solver, and both parts are one batched call.

    Args:
        field: ``(params, t, x, condition) -> like x``.
        null: the condition that stands for none, like one condition; or a field ``(params, t, x) -> like x`` in its place,
            such as a smaller, worse one (autoguidance), for a second call.
        scale: :math:`g`. ``()``; may be traced.
        interval: times ``(low, high)``; outside of [low, high) the scale is 1. None is everywhere.
        rescale: :math:`\phi` in [0, 1]: so much of the result is scaled to the standard deviation of the conditional field over
            the numbers of a particle, against overexposure. ``()``.

    Returns:
        ``(params, t, x, condition) -> like x``.

    Raises:
        ValueError: a guidance scale without a null condition, a scale that is not finite, an interval that is not two times in
            [0, 1] in order, a rescale outside of [0, 1]; when called, a null that is not like the condition.
        TypeError: a field that is no function.

    It does not sample :math:`p_c^g p_0^{1-g}`: for Gaussians on the linear path the guided flow ends with the standard deviation
    :math:`s_c^g s_0^{1-g}`, which is narrower. Weights correct it: ``normalizers.escorted_annealing``.

    Reference: Ho and Salimans (2022), arXiv:2207.12598; interval, Kynkäänniemi et al. (2024), arXiv:2404.07724; rescale, Lin
    et al. (2024), arXiv:2305.08891; autoguidance, Karras et al. (2024), arXiv:2406.02507.

    >>> field = lambda params, t, x, label: label * torch.ones_like(x)
    >>> both = guided(field, torch.tensor(0.0), 3.0)
    >>> both((), torch.tensor(0.5), torch.zeros(2), torch.tensor(1.0))
    tensor([3., 3.])
    """
    checks.function("field", field, "Write lambda params, t, x, condition: ...")
    checks.finite("scale", scale, "Try 2.0.")
    _check_interval(interval)
    checks.finite("rescale", rescale, "Try 0.7.")
    if not isinstance(rescale, Tensor):
        checks.require(0 <= rescale <= 1, "rescale must be in [0, 1]", rescale, "Try 0.7.")
    right = callable(null) or bool(tree.leaves(null))
    fix = "Give the condition that stands for none, as in training with dropped conditions, or another field."
    checks.require(right, "guidance needs a null condition", "none", fix)

    def both(params: Params, t: Tensor, x: Position, condition: tuple[Tree, ...]) -> tuple[Position, Position]:
        if callable(null):
            return field(params, t, x, *condition), null(params, t, x)
        fix = "Call it with a condition, or pass conditions to flows.sample."
        checks.require(len(condition) == 1, "a guided field takes one condition", f"{len(condition)}", fix)
        checks.one_structure("null", null, "the condition", condition[0])
        one = tree.map(torch.as_tensor, null)
        checks.same_shapes("null", one, tree.map(torch.as_tensor, condition[0]), "Give it like one condition.")
        pair = tree.map(lambda a, b: torch.stack([a, torch.as_tensor(b).to(a)]), condition[0], null)
        values = vmap(lambda one: field(params, t, x, one))(pair)
        return tree.map(lambda leaf: leaf[0], values), tree.map(lambda leaf: leaf[1], values)

    def function(params: Params, t: Tensor, x: Position, *condition: Tree) -> Position:
        towards, plain = both(params, t, x, condition)
        strength = tree.number(scale).to(tree.first(x))
        if interval is not None:
            is_inside = (t >= interval[0]) & (t < interval[1])
            strength = torch.where(is_inside, strength, 1.0)
        mixed = tree.map(lambda a, b: b + strength * (a - b), towards, plain)
        if not isinstance(rescale, Tensor) and rescale == 0:
            return mixed
        wide = _deviation(mixed)
        factor = torch.where(wide > 0, _deviation(towards) / torch.where(wide > 0, wide, 1.0), 1.0)
        return tree.scale(rescale * factor + (1 - rescale), mixed)

    return function


def energy_guided(
    field: Field,
    energy: TimeEnergy,
    path: Path,
    scale: float | Tensor = 1.0,
    *,
    of: str = "position",
) -> Field:
    r"""A velocity pushed down an energy: :math:`u - g\,\frac{\sigma D}{\alpha} \nabla_x E_t(x)`.

    With :math:`E_t = -\log p_t(y | x)` of a classifier that was trained on noisy positions and :math:`g = 1` it carries to
    :math:`p(x | y)`.

    Args:
        field: the velocity, ``(params, t, x, ...) -> like x``.
        energy: ``(params, t, x) -> ()``, with the params of the field: give both in one tree.
        path: of the field.
        scale: :math:`g`. ``()``; may be traced.
        of: ``"position"``, the energy of :math:`x_t`; or ``"data"``, the energy of the data :math:`\hat x^1` that the field
            predicts, which needs an energy of clean data only, at the cost of a gradient through the field. It is an
            approximation.

    Returns:
        ``(params, t, x, ...) -> like x``. Where the path has no data yet (:math:`\alpha_t = 0`) it is the field.

    Raises:
        ValueError: an unknown ``of``, or a path with further noise; when called, an energy that is not a scalar.

    Reference: Dhariwal and Nichol (2021), arXiv:2105.05233; of data, Chung et al. (2023), arXiv:2209.14687.

    >>> still = lambda params, t, x: 0 * x
    >>> push = energy_guided(still, lambda params, t, x: (x**2).sum() / 2, paths.linear(), 2.0)
    >>> push((), torch.tensor(0.5), torch.tensor([1.0]))
    tensor([-2.])
    """
    checks.require(of in ("position", "data"), 'of must be "position" or "data"', of, 'Write of="data".')
    checks.function("field", field, "Write lambda params, t, x: ...")
    checks.function("energy", energy, "Write lambda params, t, x: ...")
    checks.finite("scale", scale, "Try 1.0.")
    must = "the path must have no further noise gamma"
    checks.require(not has_latent(path), must, "one that has", "Take linear() or another affine path.")
    predicted = paths.convert(path, field, "velocity", "data")

    def function(params: Params, t: Tensor, x: Position, *condition: Tree) -> Position:
        c = paths.at(path, t)
        is_data = c.alpha > 0
        size = (
            torch.as_tensor(scale, dtype=t.dtype, device=t.device)
            * c.sigma_wronskian
            / torch.where(is_data, c.alpha, 1.0)
        )
        size = torch.where(is_data, size, 0.0)

        def downhill(params: Params, x: Position) -> Tensor:
            return energy(params, t, predicted(params, t, x, *condition) if of == "data" else x)

        slope = fields.gradient(downhill)(params, x)
        return tree.map(lambda u, g: u - size * g, field(params, t, x, *condition), slope)

    return function


def _check_interval(interval: tuple[float | Tensor, float | Tensor] | None) -> None:
    fix = "Write (0.2, 0.8), say: t = 0 is noise, t = 1 is data."
    must = "interval must be two times in [0, 1], the lower first"
    if interval is not None:
        checks.require(isinstance(interval, (tuple, list)) and len(interval) == 2, must, interval, fix)
        low, high = (torch.as_tensor(end) for end in interval)
        if checks.is_concrete(low) and checks.is_concrete(high):
            checks.require(bool((low >= 0) & (low < high) & (high <= 1)), must, interval, fix)


def _deviation(value: Tree) -> Tensor:
    """The standard deviation over all numbers. ``()``."""
    vector, _ = tree.ravel(value)
    return vector.std(unbiased=False)
