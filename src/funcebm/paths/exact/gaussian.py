r"""Between Gaussians: the flow of a path, the optimal transport map, Wasserstein's distance, the divergence."""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from ... import checks
from ...types import Params
from ..path import Path, at, has_latent

__all__ = [
    "as_covariances",
    "check_alike",
    "check_point",
    "flow",
    "gaussian_params",
    "kullback_leibler",
    "optimal_transport_map",
    "symmetric_power",
    "velocity_variance",
    "wasserstein_distance",
]


def as_covariances(covariance: Tensor | float, means: Tensor) -> Tensor:
    """A covariance for each mean ``(*batch, D)``, from a variance ``()``, or one for each mean, or the whole matrices."""
    given = torch.as_tensor(covariance, dtype=means.dtype, device=means.device)
    size = means.shape[-1]
    if given.dim() < means.dim():
        identity = torch.eye(size, dtype=means.dtype, device=means.device)
        given = given[..., None, None] * identity
    right = given.shape[-2:] == (size, size) and given.dim() <= means.dim() + 1
    must = f"a covariance must be a variance, or a matrix ({size}, {size})"
    checks.require(right, must, f"the shape {tuple(given.shape)}", "Give a number, or a matrix.")
    if checks.is_concrete(given):
        symmetric = torch.allclose(given, given.mT, rtol=1e-4, atol=1e-6 * float(given.abs().max()))
        checks.require(symmetric, "a covariance must be symmetric", str(given.tolist()), "Use (A + A.T) / 2.")
        lowest = float(torch.linalg.eigvalsh(given).min())
        largest = float(given.abs().max())
        right = lowest >= -1e-6 * largest
        checks.require(right, "a covariance must have no negative eigenvalue", lowest, "Add a positive diagonal.")
    return given.expand(*means.shape, size)


def gaussian_params(mean: Tensor, covariance: Tensor | float = 1.0) -> Params:
    """The parameters of a Gaussian, for all functions of :mod:`funcebm.paths.exact`.

    Args:
        mean: ``(D,)``.
        covariance: ``(D, D)``, or a variance ``()``.

    Returns:
        ``{"mean": (D,), "covariance": (D, D)}``.

    Raises:
        ValueError: a covariance that is none.

    >>> gaussian_params(torch.zeros(2), 4.0)["covariance"]
    tensor([[4., 0.],
            [0., 4.]])
    """
    right = isinstance(mean, Tensor) and mean.dim() == 1 and mean.is_floating_point()
    checks.require(right, "mean must be a vector (D,)", str(getattr(mean, "shape", mean)), "Use torch.zeros(2), say.")
    return {"mean": mean, "covariance": as_covariances(covariance, mean)}


def symmetric_power(matrix: Tensor, power: float) -> Tensor:
    """A power of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values[..., None, :].clamp(min=0) ** power) @ vectors.mT


def check_alike(start: Params, end: Params) -> None:
    """Two Gaussians, in as many dimensions."""
    for params in (start, end):
        right = isinstance(params, dict) and {"mean", "covariance"} <= set(params)
        checks.require(
            right, "a Gaussian must have a mean and a covariance", type(params).__name__, "Use gaussian_params."
        )
    sizes = (start["mean"].shape[-1], end["mean"].shape[-1])
    checks.require(sizes[0] == sizes[1], "two Gaussians must have one dimension", sizes, "Give means of one length.")


def check_point(x: Tensor, mean: Tensor) -> None:
    """One point, in the dimension of a mean."""
    right = isinstance(x, Tensor) and tuple(x.shape) == (mean.shape[-1],)
    got = f"the shape {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)
    checks.require(right, f"a point must be a vector ({mean.shape[-1]},)", got, "Use torch.func.vmap for many points.")


def _between(start: Params, end: Params) -> tuple[Tensor, Tensor, Tensor]:
    """The square root of the first covariance, its inverse, and the root of the second seen from there."""
    check_alike(start, end)
    root, inverse = symmetric_power(start["covariance"], 0.5), symmetric_power(start["covariance"], -0.5)
    return root, inverse, symmetric_power(root @ end["covariance"] @ root, 0.5)


def optimal_transport_map(start: Params, end: Params) -> Callable[[Tensor], Tensor]:
    r"""The map of least squared distance from one Gaussian to another.

    .. math:: x \mapsto m_1 + T(x - m_0), \qquad
        T = S_0^{-1/2} (S_0^{1/2} S_1 S_0^{1/2})^{1/2} S_0^{-1/2}.

    Args:
        start: from :func:`gaussian_params`, of full rank.
        end: from :func:`gaussian_params`.

    Returns:
        ``x (D,) -> (D,)``.

    Reference: Peyre and Cuturi (2019), "Computational optimal transport", arXiv:1803.00567, remark 2.31.

    >>> move = optimal_transport_map(gaussian_params(torch.zeros(1)), gaussian_params(torch.ones(1), 4.0))
    >>> move(torch.tensor([1.0]))
    tensor([3.])
    """
    _, inverse, middle = _between(start, end)
    matrix = inverse @ middle @ inverse
    return lambda x: end["mean"] + matrix @ (x - start["mean"])


def wasserstein_distance(a: Params, b: Params) -> Tensor:
    r"""Wasserstein's distance of order 2 between Gaussians.

    .. math:: W_2^2 = |m_0 - m_1|^2 + \mathrm{tr}\big(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\big).

    Args:
        a: from :func:`gaussian_params`.
        b: likewise.

    Returns:
        :math:`W_2`, not squared. ``()``.

    >>> wasserstein_distance(gaussian_params(torch.zeros(1)), gaussian_params(torch.tensor([4.0]), 16.0))
    tensor(5.)
    """
    _, _, middle = _between(a, b)
    spread = (a["covariance"] + b["covariance"] - 2 * middle).diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((a["mean"] - b["mean"]).square().sum(-1) + spread.clamp(min=0)).sqrt()


def kullback_leibler(a: Params, b: Params) -> Tensor:
    r"""The divergence between Gaussians, :math:`\mathrm{KL}(a \,\|\, b)`, in nats.

    .. math:: \tfrac12\big(\mathrm{tr}(S_b^{-1} S_a) - D + (m_b - m_a)^\top S_b^{-1} (m_b - m_a)
        + \log\det S_b - \log\det S_a\big).

    Args:
        a: from :func:`gaussian_params`, of full rank.
        b: likewise.

    Returns:
        ``()``.

    >>> kullback_leibler(gaussian_params(torch.zeros(2)), gaussian_params(torch.ones(2)))
    tensor(1.)
    """
    check_alike(a, b)
    ratio = torch.linalg.solve(b["covariance"], a["covariance"]).diagonal(dim1=-2, dim2=-1).sum(-1)
    offset = b["mean"] - a["mean"]
    distance = (offset * torch.linalg.solve(b["covariance"], offset)).sum(-1)
    log_dets = torch.linalg.slogdet(b["covariance"]).logabsdet - torch.linalg.slogdet(a["covariance"]).logabsdet
    return (ratio - offset.shape[-1] + distance + log_dets) / 2


def _variances(path: Path, eigenvalues: Tensor, t: Tensor) -> Tensor:
    c = at(path, t)
    return c.alpha**2 * eigenvalues + c.sigma**2 + c.gamma**2


def flow(path: Path, params: Params, start: float | Tensor, end: float | Tensor, x: Tensor) -> Tensor:
    r"""Where the flow of a path from N(0, I) to a Gaussian carries a point, from one time to another.

    .. math:: x_t = \alpha_t m + V_t^{1/2} V_s^{-1/2} (x_s - \alpha_s m), \qquad
        V_t = \alpha_t^2 S + (\sigma_t^2 + \gamma_t^2) I.

    Args:
        path: any.
        params: of the data, from :func:`gaussian_params`.
        start: s. ``()``.
        end: t, before or after it. ``()``.
        x: ``(D,)``.

    Returns:
        ``(D,)``.

    >>> from funcebm import paths
    >>> data = gaussian_params(torch.tensor([2.0]), 0.25)
    >>> flow(paths.linear(), data, torch.tensor(0.0), torch.tensor(1.0), torch.tensor([1.0]))
    tensor([2.5000])
    """
    check_point(x, params["mean"])
    values, vectors = torch.linalg.eigh(params["covariance"])
    start, end = (torch.as_tensor(time, dtype=x.dtype, device=x.device) for time in (start, end))
    stretch = (_variances(path, values, end) / _variances(path, values, start)).sqrt()
    offset = vectors.mT @ (x - at(path, start).alpha * params["mean"])
    return at(path, end).alpha * params["mean"] + vectors @ (stretch * offset)


def velocity_variance(path: Path, params: Params, t: float | Tensor) -> Tensor:
    r"""What no velocity can predict: :math:`E\,|u(x_t | x_0, x_1) - u_t(x_t)|^2`, the least flow-matching loss at a time.

    For Gaussian data whose covariance has the eigenvalues :math:`l_i`, and independent noise, it is
    :math:`\sum_i D_t^2\, l_i / (\alpha_t^2 l_i + \sigma_t^2)`. On the linear path its mean over t is
    :math:`\tfrac\pi2 \sum_i \sqrt{l_i}`.

    Args:
        path: without further noise.
        params: of the data, from :func:`gaussian_params`.
        t: ``()``.

    Returns:
        ``()``.

    >>> from funcebm import paths
    >>> velocity_variance(paths.linear(), gaussian_params(torch.zeros(2)), torch.tensor(0.5))
    tensor(4.)
    """
    checks.require(not has_latent(path), "the path must have no further noise", "a gamma", "Use linear(), say.")
    values = torch.linalg.eigvalsh(params["covariance"])
    t = torch.as_tensor(t, dtype=values.dtype, device=values.device)
    return (at(path, t).wronskian ** 2 * values / _variances(path, values, t)).sum(-1)
