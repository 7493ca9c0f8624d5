"""Conditional energies ``(params, x, condition) -> ()``, and Fourier features for what enters a network."""

from __future__ import annotations

import math
from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from .. import checks, random
from ..networks._layers import shaped, widths_of
from ..types import Energy, Key, Params, Tree
from ._carried import with_space_of

__all__ = ["fourier_features", "given"]


def given(energy: Callable[..., Tensor], condition: Tree) -> Energy:
    r"""The energy of :math:`x` given a condition: :math:`E(\theta, x) = E(\theta, x, c)` with :math:`c` closed over.

    Args:
        energy: ``(params, x, condition) -> ()``, for example ``mlp(..., condition_size=3)[0]``; or a field that knows the
            time, ``(params, t, x, condition)``, which becomes ``(params, t, x)``.
        condition: what it takes, without a batch axis; may be traced: call ``given`` inside the function that
            ``torch.func.vmap`` maps over conditions.

    Returns:
        ``(params, x) -> ()``; with ``features``, where the energy has them.

    Where condition and position are parts of one position, :func:`conditioned` clamps some of it instead.

    Raises:
        ValueError: an energy that is no function.

    >>> apart = lambda params, x, condition: ((x - condition) ** 2).sum()
    >>> given(apart, torch.ones(2))((), torch.zeros(2))
    tensor(2.)
    """
    checks.require(callable(energy), "energy must be (params, x, condition) -> ()", energy, "Pass a function.")

    def conditional(params: Params, *position: Any) -> Tensor:
        return energy(params, *position, condition)

    features = getattr(energy, "features", None)
    if features is not None:
        conditional.features = lambda params, *position: features(params, *position, condition)  # type: ignore[attr-defined]
    return with_space_of(conditional, energy)


def fourier_features(
    key: Key, size: int | Sequence[int], num: int = 64, *, scale: float = 1.0, dtype: torch.dtype | None = None
) -> Callable[[Tensor], Tensor]:
    r"""Random Fourier features, :math:`\gamma(x) = (\cos 2\pi B x, \sin 2\pi B x)` with :math:`B_{ij} \sim N(0, s^2)`.

    Their inner products approximate a Gaussian kernel,
    :math:`\gamma(x) \cdot \gamma(y) / m \to \exp(-2 \pi^2 s^2 |x - y|^2)`: details of size :math:`1 / 2 \pi s` are
    as easy to learn from them as a plain network finds the coarse shape.

    Args:
        key: for the frequencies, which live on its device. ``(2,)``.
        size: of a position: the number of its numbers, or its shape.
        num: of frequencies, :math:`m`.
        scale: :math:`s > 0`, in inverse units of ``x``: the larger, the finer.
        dtype: of the frequencies, by default the default dtype. The features have that of the position.

    Returns:
        ``x -> (2 num,)``, for ``mlp(..., embed=...)``. The frequencies are constants of this function, not
        parameters: no optimizer touches them, and the same key gives them again.

    Raises:
        ValueError: counts or a scale that are not positive; when called, a position of another size.

    Reference: Tancik et al. (2020), "Fourier features let networks learn high frequency functions in low dimensional
    domains", NeurIPS; Rahimi and Recht (2007), NeurIPS.

    >>> fourier_features(random.key(0), 2, num=3)(torch.zeros(2))
    tensor([1., 1., 1., 0., 0., 0.])
    """
    shape = widths_of("size", size)
    checks.positive_int("num", num)
    checks.positive("scale", scale)
    frequencies = 2 * math.pi * scale * random.normal(key, (num, math.prod(shape)), dtype=dtype)

    def features(x: Tensor) -> Tensor:
        phases = shaped(x, shape).reshape(-1) @ frequencies.to(x).t()
        return torch.cat([torch.cos(phases), torch.sin(phases)])

    return features
