"""Fields from fields: weighted sums, reversals, the drifts of SDEs."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from .. import checks, paths, tree
from ..paths import Field, Path
from ..solvers.integrator import coefficient_of
from ..types import Params, Position, Schedule, Tree

__all__ = ["composed", "reversed_in_time", "sde_drift"]


def composed(fields: Sequence[Field], weights: Sequence[float | Tensor] | Tensor, base: Field | None = None) -> Field:
    r"""Several fields as one: :math:`u_0 + \sum_i w_i (u_i - u_0)`, or :math:`\sum_i w_i u_i` without a base.

    With an unconditional base and conditional fields it asks for all the conditions at once (weights above zero) or for their
    absence (below). Velocities of one path, scores, and data and noise predictions can be composed so, as all are affine in the
    score with coefficients that add up to one.

    Args:
        fields: each ``(params, t, x, ...) -> like x``.
        weights: :math:`w_i`, one for each; may be traced. ``(K,)``.
        base: :math:`u_0`, whose params are the last entry.

    Returns:
        ``(params, t, x, ...) -> like x``, whose params are a tuple, one entry for each field and then for the base. Its flow
        is that of no product of densities; see :func:`guided`.

    Raises:
        ValueError: no field, weights or params of another number.

    Reference: Liu et al. (2022), "Compositional visual generation with composable diffusion models", arXiv:2206.01714.

    >>> constant = lambda params, t, x: params * torch.ones_like(x)
    >>> both = composed([constant, constant], [2.0, -1.0])
    >>> both((torch.tensor(3.0), torch.tensor(1.0)), torch.tensor(0.5), torch.zeros(2))
    tensor([5., 5.])
    """
    fix = "Give one weight, and one entry of the params, for each field."
    right = not callable(fields) and all(callable(one) for one in (*fields, base or fields[0])) if fields else True
    checks.require(right, "fields must be a list of functions", fields, "Write [field, other].", TypeError)
    checks.require(len(fields) > 0, "composed takes one field or more", "none", "Give fields.")
    checks.require(
        len(weights) == len(fields), "there must be one weight for each field", f"{len(weights)} of {len(fields)}", fix
    )
    num_params = len(fields) + (base is not None)

    def function(params: Params, t: Tensor, x: Position, *condition: Tree) -> Position:
        must = f"the params of a composed field must be a tuple of {num_params}"
        checks.require(len(params) == num_params, must, f"{len(params)}", fix)
        values = [one(part, t, x, *condition) for one, part in zip(fields, params)]  # noqa: B905
        if base is None:
            total = tree.scale(weights[0], values[0])
            rest = zip(weights[1:], values[1:], strict=True)
        else:
            plain = base(params[-1], t, x, *condition)
            values = [tree.sub(value, plain) for value in values]
            total, rest = plain, zip(weights, values, strict=True)
        for weight, value in rest:
            total = tree.add_scaled(total, weight, value)
        return total

    return function


def reversed_in_time(field: Field) -> Field:
    r"""The field whose flow from 0 to 1 undoes that of another one: :math:`-u(1 - t, x)`.

    Args:
        field: ``(params, t, x, ...) -> like x``.

    Returns:
        ``(params, t, x, ...) -> like x``. To go back along a field, integrate it with decreasing times; this is for solvers
        that run forwards only.

    >>> reversed_in_time(lambda params, t, x: t * x)((), torch.tensor(0.25), torch.ones(1))
    tensor([-0.7500])
    """
    checks.function("field", field, "Write lambda params, t, x: ...")

    def function(params: Params, t: Tensor, x: Position, *condition: Tree) -> Position:
        return tree.map(torch.neg, field(params, 1 - t, x, *condition))

    return function


def sde_drift(
    field: Field,
    path: Path,
    diffusion: float | Tensor | Schedule | None = None,
    *,
    prediction: str = "velocity",
    score: Field | None = None,
) -> Field:
    r"""The drift :math:`u + w S` of the SDE :math:`dx = (u + w S)\,dt + \sqrt{2 w}\,dW`, whose marginals are those of the flow.

    For every :math:`w(t) \ge 0` they are the same; noise along the way corrects errors that a flow keeps. With
    :math:`w = \sigma_t` the product :math:`w S = -\hat x^0` is bounded at both ends, so it runs from 0 to 1: that is the
    default, to use with ``euler_maruyama(path.sigma)``, or ``shark(path.sigma)``.

    Args:
        field: the velocity of the path, ``(params, t, x, ...) -> like x``.
        path: of the field.
        diffusion: :math:`w`, a number or a function of the time ``()``; None is :math:`\sigma_t`. Give the same to the solver.
        prediction: what the field is; see :func:`funcebm.paths.convert`.
        score: another field for the score; by default it follows from the field, in the same evaluation. A coupling by optimal
            transport needs its own.

    Returns:
        ``(params, t, x, ...) -> like x``.

    Raises:
        ValueError: a path with further noise and no score, an unknown prediction, a negative diffusion.

    Reference: Song et al. (2021), arXiv:2011.13456; any :math:`w`, Albergo, Boffi and Vanden-Eijnden (2023), arXiv:2303.08797.

    >>> from funcebm import solvers
    >>> path = paths.linear()
    >>> marginals = paths.exact.marginals(path)
    >>> params = paths.exact.gaussian_params(torch.zeros(1))
    >>> drift = sde_drift(marginals.velocity, path)
    >>> drift(params, torch.tensor(0.0), torch.tensor([1.0]))  # u = -x and S = -x
    tensor([-2.])
    """
    checks.function("field", field, "Write lambda params, t, x: ...")
    paths.convert(path, field, prediction, "velocity")  # refuses what is no prediction or no path
    if score is None:
        paths.convert(path, field, prediction, "noise")
    coefficient_of(1.0 if diffusion is None else diffusion)

    def function(params: Params, t: Tensor, x: Position, *condition: Tree) -> Position:
        value = field(params, t, x, *condition)
        known = lambda params, t, x: value  # noqa: E731
        velocity = (
            value if prediction == "velocity" else paths.convert(path, known, prediction, "velocity")(params, t, x)
        )
        weight = path.sigma(t) if diffusion is None else (diffusion(t) if callable(diffusion) else diffusion)
        if score is not None:
            return tree.add_scaled(velocity, weight, score(params, t, x, *condition))
        # w S = -(w / sigma) noise: bounded where w vanishes as fast as sigma does, whose quotient is taken just before
        share = torch.ones_like(t) if diffusion is None else _quotient(diffusion, path, t)
        noise = paths.convert(path, known, prediction, "noise")(params, t, x)
        return tree.map(lambda u, e: u - share * e, velocity, noise)

    return function


def _quotient(diffusion: float | Tensor | Schedule, path: Path, t: Tensor) -> Tensor:
    """``w / sigma``; where there is no noise any more, that of a time a little before."""
    inside = torch.where(path.sigma(t) > 0, t, t - 1e-4)
    weight = diffusion(inside) if callable(diffusion) else diffusion
    return weight / path.sigma(inside)
