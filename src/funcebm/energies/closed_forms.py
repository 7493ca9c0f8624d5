"""What a ready-made energy carries beside itself: its parameters and, where known, its normalizer and exact draws."""

from __future__ import annotations

from typing import Any, Callable, Protocol, Sequence, Union, cast

import torch
from torch import Tensor

from .. import checks, random, tree
from ..types import Key, Params, Position

__all__ = ["AnalyticEnergy", "ExactEnergy", "analytic", "exact"]

Number = Union[float, Sequence[Any], Tensor]


class AnalyticEnergy(Protocol):
    """An energy ``(params, x) -> ()``, a plain function, with a builder of its parameters.

    Attributes:
        params: makes the parameter tree from numbers, with defaults; checks them.
        log_normalizer: ``None`` where the density has no known normalizer.
        sample: ``None`` where there is no exact sampler.
    """

    params: Callable[..., Params]
    log_normalizer: Any
    sample: Any

    def __call__(self, params: Params, x: Position, /) -> Tensor:
        """The energy of one particle. ``()``."""


class ExactEnergy(AnalyticEnergy, Protocol):
    """An energy with a known normalizer and an exact sampler.

    Attributes:
        log_normalizer: ``(params, shape=None) -> ()``, the log of ``Z``, the integral of ``exp(-E)``.
        sample: ``(key, params, num, shape=None) -> (num, *event)``, independent draws of ``exp(-E) / Z``.

    Where the parameters do not fix the event (a scalar stiffness serves any), ``shape`` is the event shape, by default
    ``(2,)``.
    """

    log_normalizer: Callable[..., Tensor]
    sample: Callable[..., Tensor]


def analytic(params: Callable[..., Params]) -> Callable[[Callable[..., Tensor]], AnalyticEnergy]:
    """Decorates an energy with the builder of its parameters."""

    def decorate(energy: Callable[..., Tensor]) -> AnalyticEnergy:
        energy.params, energy.log_normalizer, energy.sample = params, None, None  # type: ignore[attr-defined]
        return cast(AnalyticEnergy, energy)

    return decorate


def exact(
    params: Callable[..., Params], log_normalizer: Callable[..., Tensor], sample: Callable[..., Tensor]
) -> Callable[[Callable[..., Tensor]], ExactEnergy]:
    """Decorates an energy with the builder of its parameters, its log normalizer and its exact sampler."""

    def decorate(energy: Callable[..., Tensor]) -> ExactEnergy:
        energy.params, energy.log_normalizer, energy.sample = params, log_normalizer, sample  # type: ignore[attr-defined]
        return cast(ExactEnergy, energy)

    return decorate


def to_tensor(value: Number, like: Tensor | None = None) -> Tensor:
    """A number, nested list or tensor as a floating-point tensor, of the dtype of ``like`` for what is not a tensor."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else value.to(torch.get_default_dtype())
    dtype = torch.get_default_dtype() if like is None else like.dtype
    return torch.as_tensor(value, dtype=dtype, device=None if like is None else like.device)


def scalar(name: str, value: Number) -> Tensor:
    """A 0-d tensor, or an error."""
    number = to_tensor(value)
    checks.require(
        number.dim() == 0, f"{name} must be a number", f"the shape {tuple(number.shape)}", "Give one number."
    )
    return number


def positive_scalar(name: str, value: Number) -> Tensor:
    """A 0-d tensor above zero, or an error."""
    number = scalar(name, value)
    checks.positive(name, number)
    return number


def cast_params(params: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """The parameters in the dtype of the position, so that an energy keeps it."""
    return {name: leaf.to(x.dtype) for name, leaf in params.items()}


def event_shape(params: Params, shape: Sequence[int] | None) -> tuple[int, ...]:
    """The shape asked for; else that to which the parameters broadcast; else ``(2,)``."""
    own = torch.broadcast_shapes(*(leaf.shape for leaf in tree.leaves(params)))
    if shape is None:
        return tuple(own) or (2,)
    shape = tuple(shape)
    fits = len(own) <= len(shape) and all(a in (1, b) for a, b in zip(own[::-1], shape[::-1], strict=False))
    checks.require(fits, f"shape must extend that of the parameters, {tuple(own)}", shape, "Leave shape out.")
    return shape


def fixed_shape(own: Sequence[int], shape: Sequence[int] | None) -> tuple[int, ...]:
    """The event shape of parameters that fix it, and an error for any other."""
    own = tuple(own)
    right = shape is None or tuple(shape) == own
    checks.require(right, f"shape must be {own}", shape, "Leave shape out.")
    return own


def log_integral(log_density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, num: int = 8192) -> Tensor:
    """The log of a one-dimensional integral by the trapezoid rule, in float64. ``()``.

    For an analytic integrand that vanishes at both ends the error falls exponentially with the number of nodes, and
    is below rounding where two nodes lie within the narrowest standard deviation.
    """
    low, high = low.detach().double(), high.detach().double()
    nodes = low + (high - low) * torch.linspace(0, 1, num, dtype=torch.float64, device=low.device)
    return torch.logsumexp(log_density(nodes), 0) + torch.log((high - low) / (num - 1))


def inverse_cdf(
    key: Key,
    log_density: Callable[[Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    shape: tuple[int, ...],
    num: int = 32768,
) -> Tensor:
    """Draws from a one-dimensional density by inversion on a fine grid, in float64. Shape ``shape``.

    Inside a cell the density is taken as linear, so the distribution function is off by the third power of the cell's
    width: about 1e-10 here, below what any number of draws can show.
    """
    low, high = low.detach().double(), high.detach().double()
    nodes = low + (high - low) * torch.linspace(0, 1, num, dtype=torch.float64, device=low.device)
    values = log_density(nodes)
    density = torch.exp(values - values.max())
    width = (high - low) / (num - 1)
    cumulative = torch.cat([width.new_zeros(1), torch.cumsum((density[1:] + density[:-1]) / 2 * width, 0)])
    target = random.uniform(key, shape, dtype=torch.float64).to(low.device) * cumulative[-1]
    cell = (torch.searchsorted(cumulative, target.contiguous(), right=True) - 1).clamp(0, num - 2)
    left, rest = density[cell], target - cumulative[cell]
    slope = (density[cell + 1] - left) / width
    root = torch.sqrt((left**2 + 2 * slope * rest).clamp(min=0))
    return nodes[cell] + (2 * rest / (left + root).clamp(min=1e-300)).clamp(max=width)


def safe_root(square: Tensor) -> Tensor:
    """The square root, with a derivative of zero instead of infinity at zero."""
    inside = square > 0
    return torch.where(inside, torch.sqrt(torch.where(inside, square, torch.ones_like(square))), square)


def at_least_two(name: str, x: Tensor) -> None:
    """An error for positions with fewer than two coordinates on the last axis."""
    if x.dim() == 0 or x.shape[-1] < 2:
        got = f"the shape {tuple(x.shape)}"
        raise ValueError(checks.message(f"{name} needs two coordinates or more", got, "Give a vector of length >= 2."))
