"""Denoising score matching at many noise scales at once, for an energy that takes the scale."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, random, tree
from ..types import Batch, Key, Loss, LossAux, Params, Position, Tree
from ._constrained import of_positions
from ._staged import without_memory

__all__ = ["AnnealedNoise", "annealed_denoising_score_matching", "geometric_noise_scales"]


class AnnealedNoise(NamedTuple):
    """Which scale each example takes ``(B,)`` int64, and standard normal numbers like the batch."""

    choice: Tensor
    normal: Tree


def geometric_noise_scales(largest: float | Tensor, smallest: float | Tensor, num: int) -> Tensor:
    r"""Noise scales with one ratio between neighbours, :math:`\sigma_1 > \dots > \sigma_L`.

    Args:
        largest: :math:`\sigma_1`, about the largest distance between two data points. ``()``.
        smallest: :math:`\sigma_L > 0`, below what one can see. ``()``.
        num: :math:`L`, so many that :math:`\sigma_{i} / \sigma_{i+1}` is small enough for neighbours to overlap: the
            clouds at two scales do in many dimensions d if the ratio is below about :math:`1 + 3 / \sqrt{2 d}`.

    Returns:
        ``(num,)``.

    Raises:
        ValueError: scales that are not positive or do not fall, or a bad count.

    Reference: Song and Ermon (2020), NeurIPS, arXiv:2006.09011, techniques 1 and 2.

    >>> geometric_noise_scales(4.0, 1.0, 3)
    tensor([4., 2., 1.])
    """
    checks.positive_int("num", num)
    checks.positive("largest", largest, "Try the largest distance between two data points.")
    checks.positive("smallest", smallest, "Try 0.01.")
    high, low = torch.as_tensor(largest), torch.as_tensor(smallest)
    if checks.is_concrete(high) and checks.is_concrete(low):
        got = f"{float(high)} and {float(low)}"
        checks.require(bool(high >= low), "largest must be at least smallest", got, "Exchange the two.")
    weight = torch.linspace(0, 1, num, dtype=high.dtype, device=high.device)
    return high ** (1 - weight) * low**weight


@of_positions
def annealed_denoising_score_matching(
    energy: Callable[[Params, Position, Tensor], Tensor], noise_scales: Tensor
) -> Loss[tuple[()]]:
    r"""Denoising score matching over many noise scales, with weights :math:`\sigma^2`.

    Each example draws a scale :math:`\sigma_i` of its own, evenly, and :math:`\xi \sim N(0, I)`:

    .. math:: L = \tfrac12\,\overline{|\sigma_i \nabla_x E_\theta(x + \sigma_i \xi, \sigma_i) - \xi|^2},

    so that :math:`e^{-E(\cdot, \sigma)}` becomes the distribution of the data with noise of scale :math:`\sigma`: on
    :math:`N(0, I)` data, :math:`E(x, \sigma) = |x|^2 / (2 (1 + \sigma^2))`. The weights make all scales count alike.

    Args:
        energy: ``(params, x, noise_scale) -> ()``, conditional on the scale ``()``. A network reads it best as
            :math:`\log \sigma`; dividing a network's energy by :math:`\sigma` gives all scales about one slope.
        noise_scales: :math:`\sigma_1, \dots, \sigma_L`, in units of ``x``, such as :func:`geometric_noise_scales`.
            ``(L,)``.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metric ``squared_score``, the mean of
        :math:`\sigma^2 |\nabla E|^2`.

    Raises:
        ValueError: scales that are not a vector of positive numbers; when called, an energy that is not a scalar.

    To sample, run Langevin dynamics scale by scale, from the largest to the smallest, with steps proportional to
    :math:`\sigma^2`.

    Reference: Song and Ermon (2019), NeurIPS, arXiv:1907.05600, equations 5 and 6.

    >>> energy = lambda params, x, scale: params * (x**2).sum() / (2 * (1 + scale**2))
    >>> loss = annealed_denoising_score_matching(energy, geometric_noise_scales(2.0, 0.1, 5))
    >>> value, aux = loss(random.key(0), torch.tensor(1.0), torch.zeros(4, 2))
    >>> value.shape
    torch.Size([])
    """
    right = isinstance(noise_scales, Tensor) and noise_scales.dim() == 1 and len(noise_scales) > 0
    got = str(tuple(noise_scales.shape)) if isinstance(noise_scales, Tensor) else type(noise_scales).__name__
    checks.require(right, "noise_scales must be a vector", got, "Try geometric_noise_scales(3.0, 0.05, 10).")
    checks.positive("noise_scales", noise_scales)
    num_scales = len(noise_scales)

    def draw(key: Key, batch: Batch) -> AnnealedNoise:
        key_choice, key_normal = random.split(key)
        choice = random.randint(key_choice, (tree.batch_size(batch),), 0, num_scales)
        return AnnealedNoise(choice, tree.normal_like(key_normal, batch))

    def one(params: Params, position: Position, noise: Tree, scale: Tensor) -> tuple[Tensor, Tensor]:
        gradient = fields.gradient(lambda params, x: energy(params, x, scale))
        uphill = tree.scale(scale, gradient(params, tree.add_scaled(position, scale, noise)))
        return tree.squared_norm(tree.sub(uphill, noise)) / 2, tree.squared_norm(uphill)

    def value(params: Params, memory: Tree, batch: Batch, noise: AnnealedNoise) -> tuple[Tensor, LossAux]:
        scales = noise_scales.to(tree.first(batch))[noise.choice]
        distance, squared = vmap(one, (None, 0, 0, 0))(params, batch, noise.normal, scales)
        return distance.mean(), LossAux((), {"squared_score": squared.mean().detach()})

    return Loss(without_memory, draw, value)
