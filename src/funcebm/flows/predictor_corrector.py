"""Predictor-corrector sampling: a solver's step, then Langevin steps at the same time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, paths, random, tree
from ..paths import Field, Path
from ..solvers import Integrator, SolverInfo, SolverState, SolverTuning
from ..types import Key, Params, Position, Tree

__all__ = ["predictor_corrector"]


class _Noise(NamedTuple):
    predictor: Tree
    corrector: Tree


class _Numbers(NamedTuple):
    predictor: Tree
    step_size: Tensor


def predictor_corrector(
    predictor: Integrator,
    path: Path,
    *,
    num_corrections: int = 1,
    step_size: float | Tensor = 0.1,
    prediction: str = "velocity",
    velocity: Field | None = None,
) -> Integrator:
    r"""Each step of a solver, followed by Langevin steps with the score at the time it reached.

    .. math:: x \leftarrow x + \epsilon\,\sigma_t^2 S_t(x) + \sqrt{2 \epsilon}\, \sigma_t z

    The steps shrink with the noise of the path and vanish at data. They leave :math:`p_t` invariant up to their size, and so
    correct what the predictor did; :math:`\sigma^2 S = -\sigma \hat x^0` is regular at both ends.

    Args:
        predictor: any solver, such as ``solvers.euler()`` or ``solvers.ddim(path)``.
        path: of the field.
        num_corrections: Langevin steps after each step; static.
        step_size: :math:`\epsilon > 0`, in units of :math:`\sigma_t^2`. ``()``.
        prediction: what the field is.
        velocity: the velocity itself, where the predictor solves an SDE and its field is a drift, not the velocity.

    Returns:
        An :class:`~funcebm.solvers.Integrator` with noise.

    Raises:
        ValueError: a bad count, a step size that is not positive, a path with further noise, an unknown prediction, an SDE solver
            without the velocity.

    Reference: Song et al. (2021), "Score-based generative modeling through stochastic differential equations", ICLR,
    arXiv:2011.13456, with steps in proportion to the noise rather than to the norm of the score.

    >>> from funcebm import solvers
    >>> predictor_corrector(solvers.heun(), paths.linear(), num_corrections=2).num_evaluations
    4
    """
    checks.positive_int("num_corrections", num_corrections)
    checks.positive("step_size", step_size, "Try 0.1.")
    checks.instance("predictor", predictor, Integrator, "Write solvers.euler(), say.")
    right = velocity is not None or predictor.strong_order is None or predictor.is_of_path
    must = "the predictor solves an SDE, whose field is a drift: the corrector needs the velocity itself"
    checks.require(right, must, "none", "Pass velocity=field.")
    paths.convert(path, lambda params, t, x: x, prediction, "noise")  # refuses what is no path or no prediction

    def init(field: Field, params: Params, t: Tensor, x: Position) -> SolverState:
        return predictor.init(field, params, t, x)

    def draw(key: Key, x: Position) -> _Noise:
        key_predictor, key_corrector = random.split(key)
        keys = random.split(key_corrector, num_corrections)
        return _Noise(predictor.draw(key_predictor, x), vmap(tree.normal_like, (0, None))(keys, x))

    def step(
        field: Field, params: Params, tuning: SolverTuning, state: SolverState, noise: _Noise
    ) -> tuple[SolverState, SolverInfo]:
        numbers: _Numbers = tuning.numbers
        inner = SolverTuning(tuning.step_size, numbers.predictor)
        state, info = predictor.step(field, params, inner, state, noise.predictor)
        time = state.time
        sigma = path.sigma(time)
        epsilon = numbers.step_size.to(time)
        remains = paths.convert(path, field if velocity is None else velocity, prediction, "noise")

        def correct(x: Position, z: Tree) -> tuple[Position, Tree]:
            slope = remains(params, time, x)
            spread = torch.sqrt(2 * epsilon) * sigma
            return tree.map(lambda a, e, n: a - epsilon * sigma * e + spread * n, x, slope, z), ()

        position = loops.scan(correct, state.position, noise.corrector)[0]
        is_divergent = info.is_divergent | ~tree.all_finite(position)
        info = info._replace(is_divergent=is_divergent, num_gradients=info.num_gradients + num_corrections)
        return state._replace(position=position), info

    return predictor._replace(
        init=init,
        draw=draw,
        step=step,
        order=1,
        tuning=_Numbers(predictor.tuning, torch.as_tensor(step_size)),
        strong_order=0.5,
        error_order=None,
        attempt=None,
        interpolate=None,
        num_evaluations=predictor.num_evaluations + num_corrections,
        reuses_slope=False,
    )
