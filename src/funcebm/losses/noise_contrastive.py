"""Noise-contrastive estimation: learn a density by telling data from noise whose density is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import softplus

from .. import checks, tree
from ..fields import require_scalar
from ..types import Batch, Energy, Key, Loss, LossAux, Params, Position, Tree
from ._constrained import of_positions
from ._neighbours import check_batch
from ._staged import without_memory
from .noise_models import NoiseModel

__all__ = [
    "NormalizedParams",
    "noise_contrastive_estimation",
    "ranking_noise_contrastive_estimation",
    "with_log_normalizer",
]


class NormalizedParams(NamedTuple):
    """The params of an energy, and a number that learns the log of its normalizer.

    Attributes:
        energy: what the energy takes.
        log_normalizer: :math:`c`, an estimate of :math:`\\log \\int e^{-E}`. ``()``.
    """

    energy: Params
    log_normalizer: Tensor


def with_log_normalizer(params: Params, log_normalizer: float | Tensor = 0.0) -> NormalizedParams:
    r"""The params for :func:`noise_contrastive_estimation`, in the dtype and on the device of the params of the energy.

    Args:
        params: of the energy.
        log_normalizer: the first value of :math:`\log Z`. ``()``.

    Returns:
        :class:`NormalizedParams`, both of which are trained.

    Raises:
        ValueError: more than one number.

    >>> with_log_normalizer(torch.tensor(2.0))
    NormalizedParams(energy=tensor(2.), log_normalizer=tensor(0.))
    """
    leaves = tree.leaves(params)
    number = torch.as_tensor(log_normalizer, dtype=torch.get_default_dtype() if not leaves else leaves[0].dtype)
    checks.require(number.dim() == 0, "log_normalizer must be a number", str(tuple(number.shape)), "Give one number.")
    return NormalizedParams(params, number.to(leaves[0].device) if leaves else number)


def _check(noise: NoiseModel, num_noise: int) -> None:
    fix = "Use losses.gaussian_noise(...), losses.fitted_gaussian_noise(data), or NoiseModel(log_density, sample)."
    checks.require(isinstance(noise, NoiseModel), "noise must be a NoiseModel", type(noise).__name__, fix)
    checks.positive_int("num_noise", num_noise)


def _sample(noise: NoiseModel, key: Key, batch: Batch, num_noise: int) -> Tree:
    """Draws like the data, ``(B, num_noise, *event)``."""
    check_batch(noise.space, batch)
    num = tree.batch_size(batch)
    drawn = noise.sample(key, num * num_noise)
    checks.one_structure("a draw of the noise", drawn, "the batch", batch)
    for draw, data in zip(tree.leaves(drawn), tree.leaves(batch), strict=True):
        got = f"{tuple(draw.shape[1:])} and {tuple(data.shape[1:])}"
        fix = "Give the noise model the shape of one position."
        checks.require(draw.shape[1:] == data.shape[1:], "noise and data must have one event shape", got, fix)
    return tree.map(lambda draw, data: draw.to(data).reshape(num, num_noise, *data.shape[1:]), drawn, batch)


@of_positions
def noise_contrastive_estimation(energy: Energy, noise: NoiseModel, *, num_noise: int = 1) -> Loss[tuple[()]]:
    r"""Noise-contrastive estimation: logistic regression of data against noise.

    With noise :math:`q`, :math:`\nu` draws of it for each example, and a learned :math:`c`, the log odds of data are
    :math:`G(x) = -E_\theta(x) - c - \log q(x) - \log \nu`, and

    .. math:: L = \overline{\operatorname{softplus}(-G(x))}
        + \nu\,\overline{\operatorname{softplus}(G(y))}, \qquad y \sim q.

    At the minimum :math:`e^{-E - c}` is the density of the data: the energy comes out normalized, with
    :math:`c = \log Z`, where the energy can reach it. As :math:`\nu` grows the estimate tends to maximum likelihood.

    The params are those of :func:`with_log_normalizer`; the energy gets ``params.energy``. If the energy has an additive
    constant of its own (as a network with a last bias), :math:`c` and it learn the same: their sum is what is determined.

    Args:
        energy: ``(params, x) -> ()``.
        noise: :math:`q`, positive wherever the data are.
        num_noise: :math:`\nu`, draws of noise for each example, static.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metrics ``log_normalizer`` (:math:`c`) and
        ``accuracy``, the mean of the rates at which data and noise are classified correctly: 1/2 where they cannot be told
        apart, and near 1 where the noise is too easy to teach much.

    Raises:
        ValueError: no noise model, a bad count, noise of another shape; when called, an energy that is not a scalar.
        TypeError: when called, params that :func:`with_log_normalizer` did not make.

    Reference: Gutmann and Hyvarinen (2012), JMLR 13:307-361.

    >>> from funcebm import losses, random
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> loss = noise_contrastive_estimation(energy, losses.gaussian_noise(torch.zeros(2)), num_noise=2)
    >>> params = with_log_normalizer(torch.tensor(1.0), 1.8379)  # log(2 pi): the model is the noise, the odds 1 to 2
    >>> loss(random.key(0), params, torch.zeros(3, 2))[0]  # log(3) + 2 log(3 / 2)
    tensor(1.9095)
    """
    _check(noise, num_noise)

    def draw(key: Key, batch: Batch) -> Tree:
        return _sample(noise, key, batch, num_noise)

    def value(params: NormalizedParams, memory: Tree, batch: Batch, drawn: Tree) -> tuple[Tensor, LossAux]:
        fix = "Wrap the params of the energy: losses.with_log_normalizer(params)."
        right = isinstance(params, NormalizedParams)
        checks.require(right, "params must be NormalizedParams", type(params).__name__, fix, TypeError)

        def log_odds(x: Position) -> Tensor:
            log_density = -require_scalar(energy(params.energy, x), x) - params.log_normalizer
            return log_density - noise.log_density(x) - math.log(num_noise)

        of_data, of_noise = vmap(log_odds)(batch), vmap(vmap(log_odds))(drawn)
        right_rate = (of_data > 0).to(of_data.dtype).mean() + (of_noise < 0).to(of_noise.dtype).mean()
        metrics = {"log_normalizer": params.log_normalizer.detach() * 1, "accuracy": right_rate / 2}
        return softplus(-of_data).mean() + num_noise * softplus(of_noise).mean(), LossAux((), metrics)

    return Loss(without_memory, draw, value)


@of_positions
def ranking_noise_contrastive_estimation(energy: Energy, noise: NoiseModel, *, num_noise: int = 16) -> Loss[tuple[()]]:
    r"""Ranking noise-contrastive estimation (InfoNCE): find the example among draws of noise.

    With :math:`g(x) = -E_\theta(x) - \log q(x)`, the example :math:`x_0` and noise :math:`x_1, \dots, x_K \sim q`,

    .. math:: L = -\overline{\log \frac{e^{g(x_0)}}{\sum_{j=0}^{K} e^{g(x_j)}}}.

    No normalizer enters, neither that of the energy nor that of :math:`q`: both cancel. At the minimum
    :math:`e^{-E}` is the density of the data up to a constant, for every K; the variance falls with K.

    Args:
        energy: ``(params, x) -> ()``.
        noise: :math:`q`, positive wherever the data are; its log density may lack a constant.
        num_noise: :math:`K`, draws of noise for each example, static.

    Returns:
        A :class:`~funcebm.types.Loss` over batches ``(B, *event)``, with the metric ``accuracy``, how often the example
        has the largest :math:`g`; by chance 1 / (K + 1).

    Raises:
        ValueError: no noise model, a bad count, noise of another shape; when called, an energy that is not a scalar.

    Reference: Ma and Collins (2018), EMNLP, arXiv:1809.01812 (the ranking objective); van den Oord, Li and
    Vinyals (2018), arXiv:1807.03748, equation 4.

    >>> from funcebm import losses, random
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> loss = ranking_noise_contrastive_estimation(energy, losses.gaussian_noise(torch.zeros(2)), num_noise=3)
    >>> loss(random.key(0), torch.tensor(1.0), torch.zeros(5, 2))[0]  # log(4): all alike
    tensor(1.3863)
    """
    _check(noise, num_noise)

    def draw(key: Key, batch: Batch) -> Tree:
        return _sample(noise, key, batch, num_noise)

    def value(params: Params, memory: Tree, batch: Batch, drawn: Tree) -> tuple[Tensor, LossAux]:
        def preference(x: Position) -> Tensor:
            return -require_scalar(energy(params, x), x) - noise.log_density(x)

        own, others = vmap(preference)(batch), vmap(vmap(preference))(drawn)
        total = torch.logsumexp(torch.cat([own[:, None], others], 1), 1)
        accuracy = (own > others.amax(1)).to(own.dtype).mean()
        return (total - own).mean(), LossAux((), {"accuracy": accuracy})

    return Loss(without_memory, draw, value)
