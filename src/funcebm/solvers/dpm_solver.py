"""DPM-Solver++(2M): second order with one evaluation a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import tree
from ..paths import Path
from ..types import Key, Params, Position, Tree
from .ddim import both_ends, check_affine, parts_of
from .integrator import Field, Integrator, SolverInfo, SolverState, SolverTuning, finished_step

__all__ = ["dpm_solver"]


class _History(NamedTuple):
    data: Position  # the last prediction
    length: Tensor  # of the last step, in log-SNR
    is_there: Tensor  # 1 after the first step


def dpm_solver(path: Path, *, prediction: str = "velocity") -> Integrator:
    r"""DPM-Solver++(2M) on any path without further noise, from r to t, with :math:`h = \lambda_t - \lambda_r`.

    .. math:: x_t = \frac{\sigma_t}{\sigma_r} x_r - \alpha_t (e^{-h} - 1)
        \Bigl[\hat x^1_r + \frac{h}{2 h_{prev}} (\hat x^1_r - \hat x^1_{prev})\Bigr]

    Order 2, one evaluation a step; the first step, and one that ends without noise (:math:`\sigma_t = 0`), are of order 1.
    Like all multistep methods it wants steps of similar lengths in :math:`\lambda = \log(\alpha / \sigma)`:
    :func:`log_snr_times` makes them.

    Args:
        path: such as ``paths.linear()``.
        prediction: what the field is: ``"velocity"``, ``"data"``, ``"noise"`` or ``"score"``.

    Returns:
        An :class:`Integrator`, whose memory is the last prediction.

    Raises:
        ValueError: a path with further noise, or an unknown prediction.

    Reference: Lu et al. (2022), "DPM-Solver++: fast solvers for guided sampling of diffusion probabilistic models",
    arXiv:2211.01095.

    >>> from funcebm import paths
    >>> dpm_solver(paths.linear()).order
    2
    """
    check_affine(path, prediction)

    def init(field: Field, params: Params, t: Tensor, x: Position) -> SolverState:
        return SolverState(x, t, _History(tree.zeros_like(x), torch.ones_like(t), torch.zeros_like(t)))

    def draw(key: Key, x: Position) -> Tree:
        return ()

    def step(
        field: Field, params: Params, tuning: SolverTuning, state: SolverState, noise: Tree
    ) -> tuple[SolverState, SolverInfo]:
        before, after, end = both_ends(path, state.time, tuning.step_size.to(state.time))
        data, remains = parts_of(before, prediction, field, params, state.time, state.position)
        history: _History = state.memory
        h = after.log_snr - before.log_snr
        is_second = (history.is_there > 0) & torch.isfinite(h) & torch.isfinite(history.length)
        share = torch.where(is_second, h / (2 * torch.where(is_second, history.length, 1.0)), 0.0)
        # sigma_t / sigma_r x - alpha_t expm1(-h) data, where the noise of the same prediction spares the quotient
        weight = after.alpha - after.sigma * before.alpha / before.sigma
        ahead = tree.map(lambda d, last: share * (d - last), data, history.data)
        position = tree.map(lambda d, e, a: after.alpha * d + after.sigma * e + weight * a, data, remains, ahead)
        memory = _History(data, h, torch.ones_like(h))
        return finished_step(position, end, memory, 1)

    return Integrator(init, draw, step, order=2, is_of_path=True)
