"""Conditional noise-contrastive estimation: tell data from the same data moved a little."""

from __future__ import annotations

from typing import Callable, NamedTuple

from torch import Tensor
from torch.func import vmap
from torch.nn.functional import softplus

from .. import checks, random, tree
from ..fields import require_scalar
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._constrained import of_positions
from ._neighbours import check_batch
from ._staged import without_memory

__all__ = ["ConditionalNoise", "conditional_noise_contrastive_estimation"]


class ConditionalNoise(NamedTuple):
    """A way to move a position, with its density.

    Attributes:
        log_density: ``(y, x) -> ()``, the log density of moving from ``x`` to ``y``, up to one constant.
        sample: ``(key, x) -> y``, a draw from it.
        space: of discrete positions (:mod:`funcebm.spaces`), whose levels data must hold; None for real ones.
    """

    log_density: Callable[[Position, Position], Tensor]
    sample: Callable[[Key, Position], Position]
    space: Tree | None = None


@of_positions
def conditional_noise_contrastive_estimation(
    energy: Energy, noise: float | Tensor | ConditionalNoise, *, num_noise: int = 1
) -> Loss[tuple[()]]:
    r"""Conditional noise-contrastive estimation.

    Each example :math:`x` is moved to :math:`\tilde x \sim p_c(\cdot \mid x)`, and the loss asks which of the two came
    first:

    .. math:: L = 2\,\overline{\operatorname{softplus}(-G(x, \tilde x))}, \qquad
        G = E_\theta(\tilde x) - E_\theta(x) + \log \frac{p_c(\tilde x \mid x)}{p_c(x \mid \tilde x)}.

    No normalizer enters, and the last term is zero for symmetric moves such as :math:`\tilde x = x + \sigma \xi`. At the
    minimum :math:`e^{-E}` is the density of the data up to a constant. The noise follows the data, so that no model of
    them is needed; small moves approach score matching.

    Args:
        energy: ``(params, x) -> ()``.
        noise: :math:`\sigma > 0` of Gaussian moves, in units of ``x`` ``()``; or a :class:`ConditionalNoise`.
        num_noise: moves for each example, static.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metric ``accuracy``, how often the question is
        answered right; 1/2 by chance.

    Raises:
        ValueError: a noise scale that is not positive, or a bad count; when called, an energy that is not a scalar.

    Reference: Ceylan and Gutmann (2018), ICML, arXiv:1806.03664.

    >>> import torch
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> loss = conditional_noise_contrastive_estimation(energy, 0.5)
    >>> loss(random.key(0), torch.tensor(0.0), torch.zeros(3, 2))[0]  # a flat energy: 2 log(2)
    tensor(1.3863)
    """
    if not isinstance(noise, ConditionalNoise):
        fix = "Try the standard deviation of the data, or a ConditionalNoise(log_density, sample)."
        right = isinstance(noise, (int, float, Tensor))
        checks.require(right, "noise must be a number or a ConditionalNoise", type(noise).__name__, fix)
        checks.positive("noise", noise, fix)
        noise = tree.number(noise)
    checks.positive_int("num_noise", num_noise)

    def draw(key: Key, batch: Batch) -> Tree:
        num = tree.batch_size(batch)
        if isinstance(noise, ConditionalNoise):
            check_batch(noise.space, batch)
            keys = random.split(key, num * num_noise).reshape(num, num_noise, 2)
            return vmap(vmap(noise.sample, (0, None)))(keys, batch)
        repeated = tree.map(lambda leaf: leaf[:, None].expand(num, num_noise, *leaf.shape[1:]), batch)
        return tree.map(lambda leaf, z: leaf + noise.to(leaf) * z, repeated, tree.normal_like(key, repeated))

    def value(params: Params, memory: Tree, batch: Batch, moved: Tree) -> tuple[Tensor, LossAux]:
        def value_at(x: Position) -> Tensor:
            return require_scalar(energy(params, x), x)

        log_odds = vmap(vmap(value_at))(moved) - vmap(value_at)(batch)[:, None]
        if isinstance(noise, ConditionalNoise):
            there = vmap(vmap(noise.log_density, (0, None)))(moved, batch)
            back = vmap(vmap(lambda y, x: noise.log_density(x, y), (0, None)))(moved, batch)
            log_odds = log_odds + there - back
        accuracy = (log_odds > 0).to(log_odds.dtype).mean()
        return 2 * softplus(-log_odds).mean(), LossAux((), {"accuracy": accuracy})

    return Loss(without_memory, draw, value)
