r"""A path from N(0, I) to a mixture of Gaussians: at every time a mixture, with all its fields in closed form."""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from ... import checks, random
from ...types import Key, Params
from ..path import Coefficients, Path, at, has_latent
from .gaussian import as_covariances, check_point, symmetric_power

__all__ = ["Marginals", "marginals", "mixture_params", "sample", "sample_at"]


class Marginals(NamedTuple):
    r"""What is known of a path at each time; every function is ``(params, t, x)`` for one ``x (D,)``.

    Attributes:
        velocity: :math:`u_t(x) = E[\dot x_t | x_t = x]`. ``(D,)``.
        score: :math:`\nabla \log p_t(x)`. ``(D,)``.
        data: :math:`E[x_1 | x_t = x]`. ``(D,)``.
        noise: :math:`E[x_0 | x_t = x]`. ``(D,)``.
        energy: :math:`E_t(x) = -\log p_t(x)`, normalised. ``()``.
        log_density: :math:`\log p_t(x)`. ``()``.
        divergence: :math:`\nabla \cdot u_t(x)`. ``()``.
    """

    velocity: Callable[[Params, Tensor, Tensor], Tensor]
    score: Callable[[Params, Tensor, Tensor], Tensor]
    data: Callable[[Params, Tensor, Tensor], Tensor]
    noise: Callable[[Params, Tensor, Tensor], Tensor]
    energy: Callable[[Params, Tensor, Tensor], Tensor]
    log_density: Callable[[Params, Tensor, Tensor], Tensor]
    divergence: Callable[[Params, Tensor, Tensor], Tensor]


def mixture_params(means: Tensor, covariances: Tensor | float = 1.0, weights: Tensor | None = None) -> Params:
    """The parameters of a mixture of K Gaussians.

    Args:
        means: ``(K, D)``.
        covariances: ``(K, D, D)`` or ``(D, D)``, or variances ``(K,)`` or ``()``.
        weights: ``(K,)``, positive; by default equal.

    Returns:
        ``{"logits": (K,), "means": (K, D), "covariances": (K, D, D)}``.

    Raises:
        ValueError: shapes that do not fit, weights that are not positive, a covariance that is none.

    >>> mixture_params(torch.tensor([[-2.0], [2.0]]), 0.25)["covariances"].shape
    torch.Size([2, 1, 1])
    """
    right = isinstance(means, Tensor) and means.dim() == 2 and means.is_floating_point()
    checks.require(right, "means must be (K, D)", str(getattr(means, "shape", means)), "One row for each component.")
    weights = torch.ones_like(means[:, 0]) if weights is None else weights.to(means)
    checks.require(weights.shape == means[:, 0].shape, "weights must be (K,)", str(tuple(weights.shape)), "One each.")
    checks.positive("weights", weights)
    given = torch.as_tensor(covariances, dtype=means.dtype, device=means.device)
    return {"logits": torch.log(weights / weights.sum()), "means": means, "covariances": as_covariances(given, means)}


def _as_mixture(params: Params) -> Params:
    """A Gaussian as a mixture of one."""
    if "means" in params:
        return params
    mean = params["mean"]
    return {"logits": torch.zeros_like(mean[:1]), "means": mean[None], "covariances": params["covariance"][None]}


class _Parts(NamedTuple):
    """The components at one time and point: ``(K,)``, ``(K, D)``, ``(K, D)``, ``(K, D, D)``."""

    log_weights: Tensor
    means: Tensor
    pulls: Tensor  # V^-1 (x - alpha m)
    covariances: Tensor
    factors: Tensor  # Cholesky factors of V


def _parts(path: Path, params: Params, t: Tensor, x: Tensor) -> tuple[Coefficients, _Parts]:
    check_point(x, params["means"] if "means" in params else params["mean"])
    mixture = {name: leaf.to(x) for name, leaf in _as_mixture(params).items()}
    c = at(path, torch.as_tensor(t, dtype=x.dtype, device=x.device))
    size = x.shape[-1]
    identity = torch.eye(size, dtype=x.dtype, device=x.device)
    covariances = c.alpha**2 * mixture["covariances"] + (c.sigma**2 + c.gamma**2) * identity
    factors = torch.linalg.cholesky_ex(covariances)[0]
    offsets = x - c.alpha * mixture["means"]
    pulls = torch.cholesky_solve(offsets[..., None], factors)[..., 0]
    log_dets = torch.log(factors.diagonal(dim1=-2, dim2=-1)).sum(-1)
    distances = (offsets * pulls).sum(-1)
    densities = mixture["logits"] - log_dets - distances / 2 - size * math.log(2 * math.pi) / 2
    return c, _Parts(densities, mixture["means"], pulls, mixture["covariances"], factors)


def _mean(parts: _Parts, values: Tensor) -> Tensor:
    """Over the components, as likely as they are at the point."""
    return torch.softmax(parts.log_weights, 0) @ values


def _velocities(c: Coefficients, parts: _Parts) -> Tensor:
    """Of each component. ``(K, D)``."""
    of_data = (parts.covariances @ parts.pulls[..., None])[..., 0]
    return c.d_alpha * parts.means + c.alpha * c.d_alpha * of_data + (c.sigma_d_sigma + c.gamma_d_gamma) * parts.pulls


def marginals(path: Path) -> Marginals:
    r"""All fields of a path from N(0, I), independent of the data, to a Gaussian or a mixture of them.

    Each component is :math:`N(\alpha m_k, V_k)` with :math:`V_k = \alpha^2 S_k + (\sigma^2 + \gamma^2) I`, and has the velocity

    .. math:: u_k(x) = \dot\alpha\, m_k
        + (\alpha\dot\alpha S_k + (\sigma\dot\sigma + \gamma\dot\gamma) I) V_k^{-1} (x - \alpha m_k),

    and so on; the fields of the mixture are their means under :math:`p(k | x)`. What a network, a solver or a likelihood
    gives can be compared with these.

    Args:
        path: any. Where its noise ends at 0, covariances must have full rank.

    Returns:
        :class:`Marginals`, for params of :func:`mixture_params` or :func:`gaussian_params`.

    >>> from funcebm import paths
    >>> oracle = marginals(paths.linear())
    >>> params = mixture_params(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.1)
    >>> oracle.velocity(params, torch.tensor(0.0), torch.tensor([0.3, 0.5]))  # from noise to the mean of the data
    tensor([-0.3000, -0.5000])
    """
    has_latent(path)

    def velocity(params: Params, t: Tensor, x: Tensor) -> Tensor:
        c, parts = _parts(path, params, t, x)
        return _mean(parts, _velocities(c, parts))

    def score(params: Params, t: Tensor, x: Tensor) -> Tensor:
        _, parts = _parts(path, params, t, x)
        return -_mean(parts, parts.pulls)

    def data(params: Params, t: Tensor, x: Tensor) -> Tensor:
        c, parts = _parts(path, params, t, x)
        return _mean(parts, parts.means + c.alpha * (parts.covariances @ parts.pulls[..., None])[..., 0])

    def noise(params: Params, t: Tensor, x: Tensor) -> Tensor:
        c, parts = _parts(path, params, t, x)
        return c.sigma * _mean(parts, parts.pulls)

    def log_density(params: Params, t: Tensor, x: Tensor) -> Tensor:
        return torch.logsumexp(_parts(path, params, t, x)[1].log_weights, 0)

    def energy(params: Params, t: Tensor, x: Tensor) -> Tensor:
        return -log_density(params, t, x)

    def divergence(params: Params, t: Tensor, x: Tensor) -> Tensor:
        c, parts = _parts(path, params, t, x)
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        slopes = c.alpha * c.d_alpha * parts.covariances + (c.sigma_d_sigma + c.gamma_d_gamma) * identity
        traces = torch.cholesky_solve(slopes, parts.factors).diagonal(dim1=-2, dim2=-1).sum(-1)
        away = _mean(parts, parts.pulls) - parts.pulls  # the slope of log p(k | x)
        return _mean(parts, traces + (_velocities(c, parts) * away).sum(-1))

    return Marginals(velocity, score, data, noise, energy, log_density, divergence)


def sample(key: Key, params: Params, num: int) -> Tensor:
    """Independent draws of the data.

    Args:
        key: ``(2,)``.
        params: from :func:`mixture_params` or :func:`gaussian_params`.
        num: how many.

    Returns:
        ``(num, D)``.

    Raises:
        ValueError: a bad count.

    >>> sample(random.key(0), mixture_params(torch.zeros(3, 2)), 5).shape
    torch.Size([5, 2])
    """
    checks.positive_int("num", num)
    mixture: dict[str, Any] = _as_mixture(params)
    means = mixture["means"]
    key_component, key_noise = random.split(key)
    component = random.categorical(key_component, mixture["logits"], num)
    noise = random.normal(key_noise, (num, means.shape[-1], 1), dtype=means.dtype)
    roots = symmetric_power(mixture["covariances"], 0.5)
    return means[component] + (roots[component] @ noise)[..., 0]


def sample_at(key: Key, path: Path, params: Params, t: Tensor, num: int) -> Tensor:
    """Independent draws of a path at a time.

    Args:
        key: ``(2,)``.
        path: any.
        params: of the data, from :func:`mixture_params` or :func:`gaussian_params`.
        t: ``()``.
        num: how many.

    Returns:
        ``(num, D)``.

    >>> from funcebm import paths
    >>> sample_at(random.key(0), paths.linear(), mixture_params(torch.zeros(3, 2)), torch.tensor(0.5), 4).shape
    torch.Size([4, 2])
    """
    key_data, key_noise = random.split(key)
    points = sample(key_data, params, num)
    c = at(path, torch.as_tensor(t, dtype=points.dtype, device=points.device))
    noise = random.normal(key_noise, tuple(points.shape), dtype=points.dtype)
    return c.alpha * points + (c.sigma**2 + c.gamma**2).sqrt() * noise
