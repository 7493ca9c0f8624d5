r"""Velocity, data, noise, score and energy: one thing in five forms, where the noise is normal and independent of the data."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from .. import checks, fields, tree
from ..types import Params, Position, Tree
from .path import Coefficients, Field, Path, TimeEnergy, at, at_time, has_latent

__all__ = [
    "check_regular",
    "convert",
    "energy_of",
    "factors_of",
    "negative_gradient",
    "potential_of",
    "velocity_of_energy",
]

_SLACK = 1e-3  # of times, which solvers round
_FORMS = ("velocity", "data", "noise", "score")
_Pair = tuple[Tensor, Tensor]


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The quotient; 0 where the denominator is infinite and the numerator is not."""
    is_infinite = torch.isinf(below)
    return torch.where(is_infinite, torch.zeros_like(above), above / torch.where(is_infinite, 1.0, below))


def _from_velocity(c: Coefficients, target: str) -> _Pair:
    if target == "data":
        per = _ratio(c.sigma, c.wronskian)
        # where the slope of sigma is infinite, -d_sigma / D is (1 - d_alpha sigma / D) / alpha
        is_infinite = torch.isinf(c.d_sigma)
        plain = -torch.where(is_infinite, 0.0, c.d_sigma) / torch.where(is_infinite, 1.0, c.wronskian)
        return torch.where(is_infinite, (1 - c.d_alpha * per) / c.alpha, plain), per
    if target == "noise":
        return _ratio(c.d_alpha, c.wronskian), -_ratio(c.alpha, c.wronskian)
    return -c.d_alpha / c.sigma_wronskian, c.alpha / c.sigma_wronskian


def _from_data(c: Coefficients, target: str) -> _Pair:
    if target == "velocity":
        return c.d_sigma / c.sigma, c.wronskian / c.sigma
    if target == "noise":
        return 1 / c.sigma, -c.alpha / c.sigma
    return -1 / c.sigma**2, c.alpha / c.sigma**2


def _from_noise(c: Coefficients, target: str) -> _Pair:
    if target == "velocity":
        return c.d_alpha / c.alpha, -c.wronskian / c.alpha
    if target == "data":
        return 1 / c.alpha, -c.sigma / c.alpha
    return torch.zeros_like(c.sigma), -1 / c.sigma


def _from_score(c: Coefficients, target: str) -> _Pair:
    if target == "velocity":
        return c.d_alpha / c.alpha, c.sigma_wronskian / c.alpha
    if target == "data":
        return 1 / c.alpha, c.sigma**2 / c.alpha
    return torch.zeros_like(c.sigma), -c.sigma


_TABLE: dict[str, Callable[[Coefficients, str], _Pair]] = {
    "velocity": _from_velocity,
    "data": _from_data,
    "noise": _from_noise,
    "score": _from_score,
}


def factors_of(c: Coefficients, source: str, target: str) -> _Pair:
    """``(p, q)`` with ``target = p x + q source``, from the coefficients of a path at a time."""
    return _TABLE[source](c, target)


def convert(path: Path, field: Field | TimeEnergy, source: str = "velocity", target: str = "score") -> Field:
    r"""One prediction as another, at the same point and time.

    With :math:`\hat x^1 = E[x_1 | x_t]`, :math:`\hat x^0 = E[x_0 | x_t]`, the marginal velocity u, the score S and
    :math:`D = \dot\alpha\sigma - \alpha\dot\sigma`,

    .. math:: \hat x^1 = \frac{\sigma u - \dot\sigma x}{D}, \quad \hat x^0 = \frac{\dot\alpha x - \alpha u}{D}, \quad
        S = -\frac{\hat x^0}{\sigma}, \quad u = \frac{\dot\alpha}{\alpha} x + \frac{\sigma D}{\alpha} S,
        \quad x = \alpha \hat x^1 + \sigma \hat x^0.

    From the velocity, data and noise divide by D alone, so they are regular at both ends of most paths. The velocity from
    noise or score divides by :math:`\alpha` (nothing at t = 0), that from data by :math:`\sigma` (nothing at t = 1), and so
    does the score of clean data.

    Args:
        path: without further noise; on paths with :math:`\gamma`, only ``"noise"`` (then :math:`E[z | x_t]`) and ``"score"``
            follow from each other, by :math:`S = -E[z | x_t]/\gamma`, for any coupling.
        field: ``(params, t, x, ...) -> like x``; for ``source="energy"``, ``(params, t, x, ...) -> ()``.
        source: what the field is: ``"velocity"``, ``"data"``, ``"noise"``, ``"score"``, or ``"energy"``.
        target: the first four. An energy of a field that is a gradient: :func:`energy_of`.

    Returns:
        ``(params, t, x, ...) -> like x``. Positions may be trees.

    Raises:
        ValueError: unknown forms, or a path that does not determine one by the other; when called with a time that can be
            looked at, one at which the conversion divides by zero.

    Score and noise need ``x0`` standard normal and independent of ``x1``: after a coupling by optimal transport, :math:`-\hat x^0
    / \sigma` is not the score.

    >>> from funcebm import paths
    >>> velocity = lambda params, t, x: x  # of N(0, e^2) data, say
    >>> data = convert(paths.linear(), velocity, "velocity", "data")
    >>> data((), torch.tensor(1.0), torch.tensor([3.0]))
    tensor([3.])
    """
    fix = f"Use one of {', '.join(_FORMS)}; energy_of(potential, path) gives an energy."
    checks.require(source in (*_FORMS, "energy"), "source must name a prediction, or energy", source, fix)
    checks.require(target in _FORMS, "target must name a prediction", target, fix)
    is_latent = has_latent(path)
    checks.function("field", field, "Write lambda params, t, x: ...")
    if source == "energy":
        return convert(path, negative_gradient(field), "score", target)
    if source == target:
        return field
    right = not is_latent or {source, target} == {"noise", "score"}
    must = "on a path with further noise, only noise and score follow from each other"
    checks.require(right, must, f"{source} to {target}", "Learn each of them, or take a path without it.")

    def factors(t: Tensor) -> _Pair:
        c = at(path, t)
        return factors_of(c._replace(sigma=c.gamma) if is_latent else c, source, target)

    def converted(params: Params, t: Tensor, x: Position, *condition: Tree) -> Position:
        like = tree.first(x)
        time = torch.as_tensor(t, dtype=like.dtype, device=like.device)
        of_position, of_field = factors(time)
        check_regular(time, of_position, of_field, source, target)
        value = field(params, t, x, *condition)
        return tree.map(lambda at, part: of_position * at + of_field * part, x, value)

    return converted


def check_regular(t: Tensor, of_position: Tensor, of_field: Tensor, source: str, target: str) -> None:
    """At a time that can be looked at, one form must follow from another without a division by zero."""
    if t.device.type != "cpu" or not (checks.is_concrete(of_position) and checks.is_concrete(of_field)):
        return
    right = bool(((t >= -_SLACK) & (t <= 1 + _SLACK)).all())
    checks.require(right, "a time must be in [0, 1]", f"t = {t.tolist()}", "t = 0 is noise, t = 1 is data.")
    right = bool((torch.isfinite(of_position) & torch.isfinite(of_field)).all())
    must = f"{target} must follow from {source} at the time t"
    fix = "It divides by zero there: keep t away from that end, or predict the velocity, which is regular at both."
    checks.require(right, must, f"t = {t.tolist()}", fix)


def negative_gradient(energy: TimeEnergy) -> Field:
    r"""The field :math:`-\nabla_x E_t(x)`: the score of an energy, or the velocity of a potential.

    Args:
        energy: ``(params, t, x, ...) -> ()``, or one without a time, ``(params, x) -> ()``.

    Returns:
        ``(params, t, x, ...) -> like x``, or without a time ``(params, x) -> like x``, which :func:`static` makes a field of.

    Raises:
        ValueError: when called, an energy that is not a scalar.

    >>> negative_gradient(lambda params, t, x: t * (x**2).sum())((), torch.tensor(0.5), torch.tensor([1.0, 2.0]))
    tensor([-1., -2.])
    >>> from funcebm import paths
    >>> paths.static(negative_gradient(lambda params, x: (x**2).sum()))((), torch.tensor(0.5), torch.tensor([1.0]))
    tensor([-2.])
    """

    def field(params: Params, *given: Tree) -> Position:
        if len(given) == 1:
            return fields.force(energy)(params, given[0])
        t, x, *condition = given
        return fields.force(lambda params, x: energy(params, t, x, *condition))(params, x)

    return field


def velocity_of_energy(energy: TimeEnergy, path: Path) -> Field:
    r"""An energy as a flow: :math:`u = \frac{\dot\alpha}{\alpha} x - \frac{\sigma D}{\alpha} \nabla E_t(x)`.

    Args:
        energy: ``(params, t, x, ...) -> ()``, with :math:`e^{-E_t}` the density of the path at t, from any loss.
        path: whose :math:`\alpha` is not 0 where it is asked: on most, start at a small t > 0.

    Returns:
        ``(params, t, x, ...) -> like x``, as by :func:`convert`.

    >>> from funcebm import paths
    >>> normal = lambda params, t, x: (x**2).sum() / 2 / (t**2 + (1 - t)**2)  # N(0, 1) data on the linear path
    >>> velocity_of_energy(normal, paths.linear())((), torch.tensor(0.5), torch.tensor([3.0]))
    tensor([0.])
    """
    return convert(path, energy, "energy", "velocity")


def energy_of(potential: TimeEnergy, path: Path) -> TimeEnergy:
    r"""A flow as an energy: where the velocity is :math:`u = -\nabla V_t`, the marginal density is :math:`e^{-E_t}/Z_t` with

    .. math:: E_t(x) = \frac{\alpha_t V_t(x) + \dot\alpha_t |x|^2/2}{\sigma_t D_t}.

    The marginal velocity of a path with normal, independent noise is always a gradient, so a velocity in this form loses
    nothing. At t slightly below 1 this is the energy of the data smoothed by noise of scale :math:`\sigma_t/\alpha_t`.

    Args:
        potential: ``V``, ``(params, t, x, ...) -> ()``.
        path: without further noise. After a coupling by optimal transport, what comes out is no energy of the data.

    Returns:
        ``(params, t, x, ...) -> ()``; :func:`at_time` makes an :data:`~funcebm.types.Energy` of it. Its constant depends on t.

    Raises:
        ValueError: a path with further noise; when called, a time at which there is no noise, where it is infinite.

    >>> from funcebm import paths
    >>> potential = lambda params, t, x: -(x**2).sum() / 2
    >>> energy_of(potential, paths.linear())((), torch.tensor(0.5), torch.tensor([2.0]))
    tensor(2.)
    """
    _without_latent(path)

    def energy(params: Params, t: Tensor, x: Position, *condition: Tree) -> Tensor:
        c, value = _with_value(path, potential, params, t, x, condition)
        _check_positive(c.sigma_wronskian, t, "an energy needs some noise", "Take a time a little below 1.")
        return (c.alpha * value + c.d_alpha * tree.squared_norm(x) / 2) / c.sigma_wronskian

    return energy


def potential_of(energy: TimeEnergy, path: Path) -> TimeEnergy:
    r"""The inverse of :func:`energy_of`: :math:`V_t(x) = (\sigma_t D_t E_t(x) - \dot\alpha_t |x|^2/2)/\alpha_t`.

    Args:
        energy: ``(params, t, x, ...) -> ()``.
        path: without further noise, and with some data at the time (:math:`\alpha_t > 0`).

    Returns:
        ``V``, ``(params, t, x, ...) -> ()``, whose negative gradient is the velocity.

    Raises:
        ValueError: a path with further noise; when called, a time without data.

    >>> from funcebm import paths
    >>> potential_of(lambda params, t, x: (x**2).sum() / 2, paths.linear())((), torch.tensor(0.5), torch.tensor([2.0]))
    tensor(-2.)
    """
    _without_latent(path)

    def potential(params: Params, t: Tensor, x: Position, *condition: Tree) -> Tensor:
        c, value = _with_value(path, energy, params, t, x, condition)
        _check_positive(c.alpha, t, "a potential needs some data", "Take a time a little above 0.")
        return (c.sigma_wronskian * value - c.d_alpha * tree.squared_norm(x) / 2) / c.alpha

    return potential


def _without_latent(path: Path) -> None:
    must = "energy and potential follow from each other on paths without further noise"
    checks.require(not has_latent(path), must, "a path with gamma", "Take linear() or another affine path.")


def _check_positive(share: Tensor, t: Tensor, must: str, fix: str) -> None:
    if checks.is_concrete(share) and share.device.type == "cpu":
        checks.require(bool((share != 0).all()), f"{must} at the time t", f"t = {t}", fix)


def _with_value(
    path: Path, function: TimeEnergy, params: Params, t: Tensor, x: Position, condition: tuple[Tree, ...]
) -> tuple[Coefficients, Tensor]:
    like = tree.first(x)
    time = torch.as_tensor(t, dtype=like.dtype, device=like.device)
    return at(path, time), fields.require_scalar(at_time(function, time)(params, x, *condition), x)
