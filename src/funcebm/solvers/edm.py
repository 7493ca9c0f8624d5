"""The sampler of EDM: Heun's method in the noise level, with churn, and its grid of times."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import checks, paths, tree
from ..paths import Coefficients, Path
from ..types import Key, Params, Position, Tree
from .ddim import both_ends, check_affine, parts_of
from .euler_maruyama import without_memory
from .integrator import Field, Integrator, SolverInfo, SolverState, SolverTuning, finished_step

__all__ = ["edm_heun", "edm_times", "log_snr_times"]


def edm_heun(
    path: Path,
    churn: float | Tensor = 0.0,
    *,
    noise_range: tuple[float, float] = (0.0, math.inf),
    noise_scale: float = 1.0,
    prediction: str = "velocity",
) -> Integrator:
    r"""Heun's method in the noise level: :math:`dy/de = (y - \hat x^1)/e`, with :math:`y = x/\alpha`, :math:`e = \sigma/\alpha`.

    With churn each step first adds noise: :math:`\hat e = (1 + c) e` and
    :math:`\hat y = y + \sqrt{\hat e^2 - e^2}\, s z`. Then

    .. math:: d = \frac{\hat y - \hat x^1}{\hat e}, \quad y' = \hat y + (e' - \hat e) d, \quad
        y' \leftarrow \hat y + (e' - \hat e) \frac{d + d'}{2} \text{ unless } e' = 0.

    Order 2, two evaluations a step. It starts at a time at which there is some data, :math:`\alpha > 0`: :func:`edm_times`.

    Args:
        path: such as ``paths.linear()`` or ``paths.variance_exploding(...)``.
        churn: :math:`c \ge 0` of each step, at most :math:`\sqrt 2 - 1`; in the paper :math:`S_{churn}/N`. The number 0 makes a
            solver without noise. ``()``.
        noise_range: noise levels with churn, :math:`(S_{min}, S_{max})`.
        noise_scale: :math:`s`, in the paper :math:`S_{noise}`.
        prediction: what the field is: ``"velocity"``, ``"data"``, ``"noise"`` or ``"score"``.

    Returns:
        An :class:`Integrator`.

    Raises:
        ValueError: a path with further noise, churn, levels or a scale out of their range, an unknown prediction; when called, a
            start without data.

    Reference: Karras et al. (2022), "Elucidating the design space of diffusion-based generative models", NeurIPS,
    arXiv:2206.00364, algorithm 2.

    >>> from funcebm import paths
    >>> edm_heun(paths.linear()).order
    2
    """
    check_affine(path, prediction)
    most = math.sqrt(2) - 1
    value = torch.as_tensor(churn)
    if checks.is_concrete(value):
        right = bool(((value >= 0) & (value <= most + 1e-6)).all())
        checks.require(right, "churn must be in [0, 0.4142]", churn, "Write min(S_churn / num_steps, 2**0.5 - 1).")
    right = 0 <= noise_range[0] < noise_range[1]
    checks.require(right, "noise_range must be (low, high), low first", noise_range, "Write (0.05, 50.0), say.")
    checks.positive("noise_scale", noise_scale, "Try 1.0.")
    is_quiet = not isinstance(churn, Tensor) and churn == 0

    def draw(key: Key, x: Position) -> Tree:
        return () if is_quiet else tree.normal_like(key, x)

    def slope(
        field: Field, params: Params, t: Tensor, c: Coefficients, y: Position, is_checked: bool = True
    ) -> Position:
        """``(y - data) / e``: the noise that the field predicts."""
        return parts_of(c, prediction, field, params, t, tree.scale(c.alpha, y), is_checked)[1]

    def step(
        field: Field, params: Params, tuning: SolverTuning, state: SolverState, noise: Tree
    ) -> tuple[SolverState, SolverInfo]:
        before, after, end = both_ends(path, state.time, tuning.step_size.to(state.time))
        t, level = state.time, before.sigma / before.alpha
        if checks.is_concrete(before.alpha) and before.alpha.device.type == "cpu":
            fix = "Start later: its noise level is infinite there. edm_times(path, num_steps) makes the times."
            checks.require(bool(before.alpha > 0), "edm_heun must start where the path has some data", f"t = {t}", fix)
        y = tree.scale(1 / before.alpha, state.position)
        if not is_quiet:
            is_inside = (level >= noise_range[0]) & (level <= noise_range[1])
            higher = level * (1 + torch.where(is_inside, tuning.numbers.to(level), 0.0))
            spread = noise_scale * (higher.square() - level.square()).clamp(min=0).sqrt()
            y, level = tree.add_scaled(y, spread, noise), higher
            t = paths.time_of(path, -torch.log(higher))
            before = paths.at(path, t)
        last = after.sigma / after.alpha
        first = slope(field, params, t, before, y)
        ahead = tree.add_scaled(y, last - level, first)
        second = slope(field, params, end, after, ahead, False)  # not used at the end of the path
        corrected = tree.map(lambda a, d, e: a + (last - level) / 2 * (d + e), y, first, second)
        position = tree.scale(after.alpha, tree.where(last > 0, corrected, ahead))
        return finished_step(position, end, (), 2)

    tuning, strong_order = ((), None) if is_quiet else (value, 1.0)
    options: Any = {"tuning": tuning, "strong_order": strong_order, "num_evaluations": 2, "is_of_path": True}
    return Integrator(without_memory, draw, step, order=2, **options)


def edm_times(
    path: Path,
    num_steps: int,
    *,
    sigma_max: float = 80.0,
    sigma_min: float = 0.002,
    rho: float = 7.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""The times of EDM's noise levels.

    .. math:: e_i = \bigl(e_{max}^{1/\rho} + \tfrac{i}{N-1}(e_{min}^{1/\rho} - e_{max}^{1/\rho})\bigr)^\rho, \qquad e_N = 0

    Args:
        path: whose :math:`\sigma/\alpha` is the noise level.
        num_steps: N; the last step ends at t = 1.
        sigma_max: the first noise level, in units of the data.
        sigma_min: the last but one.
        rho: the larger, the more of the steps are near the data.
        dtype: of the times.

    Returns:
        ``(N + 1,)``, increasing.

    Raises:
        ValueError: a bad count, or levels that do not fall.

    Reference: Karras et al. (2022), arXiv:2206.00364, equation 5.

    With ``flows.integrate(field, params, x, edm_times(path, 18), solver=edm_heun(path), num_steps=1)`` each of them is a step.

    >>> edm_times(paths.linear(), 3)
    tensor([0.0123, 0.2845, 0.9980, 1.0000])
    """
    checks.positive_int("num_steps", num_steps, minimum=2)
    checks.positive("rho", rho, "Try 7.0.")
    right = 0 < sigma_min < sigma_max
    checks.require(right, "noise levels must fall", (sigma_max, sigma_min), "Write sigma_max=80.0, sigma_min=0.002.")
    share = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    times = paths.time_of(path, -rho * torch.log(high + share * (low - high)))
    return torch.cat([times, torch.ones(1, dtype=torch.float64)]).to(dtype or torch.get_default_dtype())


def log_snr_times(
    path: Path, num_steps: int, *, low: float = -5.0, high: float = 5.0, dtype: torch.dtype | None = None
) -> Tensor:
    r"""Times between which :math:`\log(\alpha/\sigma)` grows evenly, with t = 1 after the last of them.

    Args:
        path: any with increasing signal-to-noise ratio.
        num_steps: N.
        low: the first :math:`\log(\alpha/\sigma)`.
        high: the last but one.
        dtype: of the times.

    Returns:
        ``(N + 1,)``, increasing.

    Raises:
        ValueError: a bad count, or ends that do not increase.

    With ``flows.integrate(..., log_snr_times(path, 20), solver=dpm_solver(path), num_steps=1)`` each of them is a step.

    >>> log_snr_times(paths.linear(), 3)
    tensor([0.0067, 0.5000, 0.9933, 1.0000])
    """
    checks.positive_int("num_steps", num_steps, minimum=2)
    checks.require(low < high, "low must be below high", (low, high), "Write low=-5.0, high=5.0.")
    times = paths.time_of(path, torch.linspace(low, high, num_steps, dtype=torch.float64))
    return torch.cat([times, torch.ones(1, dtype=torch.float64)]).to(dtype or torch.get_default_dtype())
