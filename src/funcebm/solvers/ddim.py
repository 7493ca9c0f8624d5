"""DDIM and ancestral sampling: exact for a constant prediction of the data, on any path."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, paths, tree
from ..paths import Coefficients, Path
from ..paths.conversions import check_regular, factors_of
from ..paths.path import has_latent
from ..types import Key, Params, Position, Tree
from .euler_maruyama import without_memory
from .integrator import Field, Integrator, SolverInfo, SolverState, SolverTuning, evaluate, finished_step

__all__ = ["ancestral", "both_ends", "check_affine", "ddim", "parts_of"]


def check_affine(path: Path, prediction: str) -> None:
    """These solvers need a path whose marginals one prediction determines."""
    must = "the path must have no further noise gamma"
    checks.require(not has_latent(path), must, "one that has", "Take linear() or another affine path.")
    fix = 'Write prediction="velocity", the default.'
    known = prediction in ("velocity", "data", "noise", "score")
    checks.require(known, "prediction must be velocity, data, noise or score", prediction, fix)


def both_ends(path: Path, t: Tensor, h: Tensor) -> tuple[Coefficients, Coefficients, Tensor]:
    """The path at the start and at the end of a step, and that end, which rounding does not move out of [0, 1]."""
    end = (t + h).clamp(0, 1)
    return paths.at(path, t), paths.at(path, end), end


def parts_of(
    c: Coefficients, prediction: str, field: Field, params: Params, t: Tensor, x: Position, is_checked: bool = True
) -> tuple[Position, Position]:
    """The data and the noise that one evaluation predicts, at a time whose coefficients are known."""
    value = evaluate(field, params, t, x)

    def part(target: str) -> Position:
        if target == prediction:
            return value
        of_position, of_value = factors_of(c, prediction, target)
        if is_checked:
            check_regular(t, of_position, of_value, prediction, target)
        return tree.map(lambda a, b: of_position * a + of_value * b, x, value)

    return part("data"), part("noise")


def ddim(path: Path, eta: float | Tensor = 0.0, *, prediction: str = "velocity") -> Integrator:
    r"""DDIM on any path without further noise, from r to t.

    .. math:: x_t = \alpha_t \hat x^1 + \sqrt{\sigma_t^2 - k^2}\, \hat x^0 + k z, \qquad
        k = \eta\,\sigma_t \sqrt{1 - e^{-2(\lambda_t - \lambda_r)}}, \quad \lambda = \log(\alpha/\sigma)

    With :math:`\eta = 0` it is deterministic, of order 1, the first of the DPM-Solver++ family, and runs in both directions; with
    :math:`\eta = 1` it is ancestral sampling. One evaluation a step.

    Args:
        path: such as ``paths.linear()``.
        eta: :math:`\eta` in [0, 1]; the number 0 makes a solver without noise. ``()``.
        prediction: what the field is: ``"velocity"``, ``"data"``, ``"noise"`` or ``"score"``. Only the velocity is regular at
            both ends.

    Returns:
        An :class:`Integrator`.

    Raises:
        ValueError: a path with further noise, an ``eta`` outside [0, 1], an unknown prediction.

    Reference: Song, Meng and Ermon (2021), "Denoising diffusion implicit models", ICLR, arXiv:2010.02502.

    >>> from funcebm import solvers
    >>> still = lambda params, t, x: torch.zeros_like(x)  # of data at 0: the noise stays, scaled
    >>> path = paths.path(lambda t: t, lambda t: 1 - t)
    >>> solution = solvers.solve(ddim(path, prediction="data"), still, (), torch.ones(1), torch.tensor([0.0, 0.25, 0.5]))
    >>> solution.value
    tensor([0.5000])
    """
    check_affine(path, prediction)
    value = torch.as_tensor(eta)
    if checks.is_concrete(value):
        right = bool(((value >= 0) & (value <= 1)).all())
        checks.require(right, "eta must be in [0, 1]", eta, "Write 0.0 for DDIM, 1.0 for ancestral sampling.")
    is_quiet = not isinstance(eta, Tensor) and eta == 0

    def draw(key: Key, x: Position) -> Tree:
        return () if is_quiet else tree.normal_like(key, x)

    def step(
        field: Field, params: Params, tuning: SolverTuning, state: SolverState, noise: Tree
    ) -> tuple[SolverState, SolverInfo]:
        before, after, end = both_ends(path, state.time, tuning.step_size.to(state.time))
        data, remains = parts_of(before, prediction, field, params, state.time, state.position)
        if is_quiet:
            position = tree.map(lambda d, e: after.alpha * d + after.sigma * e, data, remains)
        else:
            share = (before.alpha * after.sigma / (before.sigma * after.alpha)).square()  # exp(-2 h)
            fresh = tuning.numbers.to(state.time) * (after.sigma.square() * (1 - share)).clamp(min=0).sqrt()
            kept = (after.sigma.square() - fresh.square()).clamp(min=0).sqrt()
            position = tree.map(lambda d, e, z: after.alpha * d + kept * e + fresh * z, data, remains, noise)
        return finished_step(position, end, (), 1)

    strong_order = None if is_quiet else 1.0
    tuning = () if is_quiet else value
    return Integrator(without_memory, draw, step, order=1, tuning=tuning, strong_order=strong_order, is_of_path=True)


def ancestral(path: Path, *, prediction: str = "velocity") -> Integrator:
    r"""Ancestral sampling, that of DDPM, on any path: draws from :math:`p(x_t | x_r, \hat x^1)` step by step.

    .. math:: x_t = \frac{\sigma_t}{\sigma_r} e^{-h} x_r + \alpha_t (1 - e^{-2h})\, \hat x^1 + \sigma_t \sqrt{1 - e^{-2h}}\, z,
        \qquad h = \lambda_t - \lambda_r

    It is :func:`ddim` with :math:`\eta = 1`, and the first SDE solver of the DPM-Solver++ family.

    Args:
        path: such as ``paths.linear()``.
        prediction: as for :func:`ddim`.

    Returns:
        An :class:`Integrator` with noise.

    Raises:
        ValueError: as of :func:`ddim`.

    Reference: Ho, Jain and Abbeel (2020), "Denoising diffusion probabilistic models", NeurIPS, arXiv:2006.11239.

    >>> ancestral(paths.linear()).strong_order
    1.0
    """
    return ddim(path, 1.0, prediction=prediction)
