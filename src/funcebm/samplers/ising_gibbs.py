"""Checkerboard Gibbs sampling of the Ising model on a torus: the fast path for large lattices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, random, spaces
from .._torch import checkerboard_kernels
from ..energies._discrete import DiscreteEnergy
from ..types import Key, Number, Params, Position, Sampler
from ._heat_bath import DiscreteInfo
from ._kernel import positive
from ._moves import on_levels
from .metropolis import unadjusted_info

__all__ = ["IsingGibbsNoise", "IsingGibbsState", "IsingGibbsTuning", "ising_gibbs"]

_SUMS = (-4.0, -2.0, 0.0, 2.0, 4.0)  # of four neighbours
_LARGEST = 2**31 - 1


class IsingGibbsState(NamedTuple):
    """The spins ``(H, W)``, and their energy ``()``."""

    position: Tensor
    energy: Tensor


class IsingGibbsNoise(NamedTuple):
    """A word for each site, by colours, ``(2, H, W / 2)`` int32."""

    words: Tensor


class IsingGibbsTuning(NamedTuple):
    """The temperature ``()``."""

    temperature: Tensor


def ising_gibbs(lattice: DiscreteEnergy, *, temperature: Number = 1.0) -> Sampler:
    r"""Gibbs sampling of an Ising torus, by the two colours of a checkerboard.

    .. math:: p(s_i = 1 \mid s_{-i}) = \sigma\!\left(2\,\frac{K \sum_{j \sim i} s_j + h_i}{T}\right),

    for all sites of one colour at once, then for those of the other. The kernel of ``gibbs(lattice, lattice.blocks)``, with other
    noise and about fifty times as fast: the neighbours of a site add up to one of five numbers, so that a word of 31 bits is
    compared with one of five thresholds. Probabilities are therefore multiples of :math:`2^{-31}`, rounded up, and at most
    :math:`1 - 2^{-31}`; the states are the same bits on every device, eager or compiled, in every floating-point type.

    Args:
        lattice: :func:`funcebm.energies.ising_torus` in two dimensions, with even sides of at least 4. Its params are
            ``{"coupling": (), "field": () or (H, W)}``.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``IsingGibbsState`` and ``DiscreteInfo``, over positions ``(H, W)`` of -1 and 1.

    Raises:
        ValueError: another energy, or an odd side; from ``init``, a position off the levels.

    Reference: Preis, Virnau, Paul and Schneider (2009), Journal of Computational Physics 228(12):4468-4477.

    >>> from funcebm import energies
    >>> lattice = energies.ising_torus((4, 4))
    >>> sampler, params = ising_gibbs(lattice), lattice.params(coupling=0.4)
    >>> state, info = sampler(random.key(0), params, sampler.init(params, torch.ones(4, 4)))
    >>> bool(state.energy == lattice(params, state.position)), state.position.shape
    (True, torch.Size([4, 4]))
    """
    shape: tuple[int, ...] = getattr(lattice, "torus", ())
    right = len(shape) == 2 and all(side % 2 == 0 and side >= 4 for side in shape)
    fix = "Use gibbs(energy, energy.blocks), for any graph."
    must = "ising_gibbs needs an ising_torus of two even sides"
    checks.require(right, must, f"one of {tuple(shape)}" if shape else "another energy", fix)
    height, width = shape[0], shape[1]
    rows = torch.arange(height)[:, None] % 2 == 0

    def init(params: Params, position: Position) -> IsingGibbsState:
        spaces.check(lattice.space, position, "a position")
        value = lattice(params, position)
        return IsingGibbsState(position, torch.where(on_levels(lattice.space, position), value, torch.nan))

    def draw(key: Key, position: Position) -> IsingGibbsNoise:
        return IsingGibbsNoise(random.bits(key, (2, height, width // 2)))

    def by_colours(x: Tensor) -> Tensor:
        pairs, is_even = x.reshape(height, width // 2, 2), rows.to(x.device)
        first, second = pairs[..., 0], pairs[..., 1]
        return torch.stack([torch.where(is_even, first, second), torch.where(is_even, second, first)])

    def thresholds_of(params: Params, temperature: Tensor) -> Tensor:
        coupling, field = params["coupling"].double(), params["field"].double()
        pull = coupling * torch.tensor(_SUMS, dtype=torch.float64, device=coupling.device)
        field = by_colours(field).flatten() if field.ndim else field[None]
        chance = torch.sigmoid(2 * (pull[:, None] + field) / temperature.double())
        return torch.ceil(chance * 2.0**31).clamp(max=_LARGEST).to(torch.int32)

    def step(
        params: Params, tuning: IsingGibbsTuning, state: IsingGibbsState, noise: IsingGibbsNoise
    ) -> tuple[IsingGibbsState, DiscreteInfo]:
        thresholds, old = thresholds_of(params, tuning.temperature), state.position
        if checkerboard_kernels.has_kernel(old):
            position, counts = checkerboard_kernels.sweep(old, noise.words, thresholds)
            bonds, total, changed = counts.to(old.dtype).unbind(0)
        else:
            position = plain_sweep(old, noise.words, thresholds)
            bonds = (position * (position.roll(1, 0) + position.roll(1, 1))).sum()
            total, changed = position.sum(), (position != old).to(old.dtype).sum()
        coupling, field = params["coupling"].to(old.dtype), params["field"].to(old.dtype)
        value = -coupling * bonds - (field * total if field.ndim == 0 else (field * position).sum())
        info = unadjusted_info(position, value, 0)
        return IsingGibbsState(position, value), DiscreteInfo.of(info, changed)

    def plain_sweep(spins: Tensor, words: Tensor, thresholds: Tensor) -> Tensor:
        """The sweep as tensor operations."""
        every = thresholds.expand(5, height * width).reshape(5, 2, height, width // 2)
        words, colours = words & _LARGEST, list(by_colours(spins).unbind(0))
        is_even = rows.to(spins.device)
        for colour in range(2):
            other = colours[1 - colour]
            beside = torch.where(is_even ^ (colour == 1), other.roll(1, 1), other.roll(-1, 1))
            sums = other.roll(1, 0) + other + other.roll(-1, 0) + beside
            chosen = sum(torch.where(sums == value, every[i, colour], 0) for i, value in enumerate(_SUMS))
            colours[colour] = torch.where(words[colour] < chosen, 1.0, -1.0).to(spins.dtype)
        first, second = colours
        pairs = (torch.where(is_even, first, second), torch.where(is_even, second, first))
        return torch.stack(pairs, -1).reshape(height, width)

    return Sampler(init, draw, step, IsingGibbsTuning(positive("temperature", temperature)))
