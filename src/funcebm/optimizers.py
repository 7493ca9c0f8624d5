"""Optimizers as pure functions, with the shape of optax and the numbers of ``torch.optim``.

An optimizer turns gradients into *updates*; :func:`apply_updates` adds them to the parameters. States hold tensors only,
so that an optimizer runs inside a compiled loop, and under ``torch.func.vmap`` over parameters or learning rates. Their numbers
are arguments of what is compiled: another learning rate compiles nothing.
"""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor

from . import checks, tree
from .types import Optimizer, Params, Schedule, Tree

__all__ = [
    "AdamState",
    "LearningRate",
    "SGDState",
    "adam",
    "adamw",
    "apply_updates",
    "centring",
    "chain",
    "clip_by_global_norm",
    "sgd",
]

LearningRate = float | Tensor | Schedule
"""A number, a 0-d tensor, or a schedule of the step."""


class SGDState(NamedTuple):
    """``step``, the number of updates made ``()``, and ``velocity``, like the params (``()`` without momentum)."""

    step: Tensor
    velocity: Tree


class AdamState(NamedTuple):
    """``step``, the number of updates made ``()``, and the averages ``first`` and ``second``, like the params."""

    step: Tensor
    first: Tree
    second: Tree


def apply_updates(params: Params, updates: Tree) -> Params:
    """``params + updates``, in the dtypes of ``params``.

    Args:
        params: any tree.
        updates: a tree like it, from an optimizer.

    Returns:
        A tree like ``params``.

    >>> apply_updates({"w": torch.ones(2)}, {"w": torch.tensor([0.5, -1.0])})
    {'w': tensor([1.5000, 0.0000])}
    """
    return tree.map(lambda leaf, update: leaf + update.to(leaf.dtype), params, updates)


def _check_rate(learning_rate: Any) -> None:
    if not callable(learning_rate):
        checks.positive("learning_rate", learning_rate, "Give a number such as 1e-3, or a schedule: step -> value.")


def _check_fraction(name: str, value: float) -> None:
    checks.require(0 <= value < 1, f"{name} must be in [0, 1)", value, "Try 0.9.")


def _check_not_negative(name: str, value: float) -> None:
    checks.require(0 <= value < float("inf"), f"{name} must not be negative", value, "Give 0 to leave it out.")


def _count(params: Params) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=tree.first(params).device)


def _schedule(learning_rate: LearningRate) -> Schedule:
    """The rate of the update number ``step``, from 0."""
    if callable(learning_rate):
        return learning_rate
    rate = tree.number(learning_rate)
    return lambda step: rate


def _times(factor: Tensor, leaf: Tensor) -> Tensor:
    return tree.cast_like(factor, leaf) * leaf


def _add_scaled(a: Tree, factor: Tensor, b: Tree) -> Tree:
    return tree.map(lambda x, y: x + _times(factor, y), a, b)


def _decayed(weight_decay: float | Tensor) -> Callable[[Tree, Params], Tree]:
    """``(gradients, params) -> gradients + weight_decay * params``."""
    if _is_zero(weight_decay):
        return lambda gradients, params: gradients
    weight = tree.number(weight_decay)
    return lambda gradients, params: _add_scaled(gradients, weight, params)


def _is_zero(value: float | Tensor) -> bool:
    """Whether something is left out for good: a number 0, not a tensor, which may change."""
    return not isinstance(value, Tensor) and value == 0


def sgd(
    learning_rate: LearningRate, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> Optimizer:
    r"""Stochastic gradient descent, with momentum where asked.

    With :math:`g` the gradient plus :math:`w\theta`: :math:`v \leftarrow m v + g`, and the update is
    :math:`-\alpha v`, or :math:`-\alpha (g + m v)` in the form of Nesterov. The numbers of ``torch.optim.SGD``.

    Args:
        learning_rate: :math:`\alpha > 0`; a number, a 0-d tensor, or a schedule of the step (from 0).
        momentum: :math:`m` in [0, 1).
        nesterov: whether to look ahead; needs momentum.
        weight_decay: :math:`w \ge 0`, the weight of :math:`|\theta|^2 / 2`.

    Returns:
        An :class:`Optimizer` with :class:`SGDState`.

    Raises:
        ValueError: a learning rate that is not positive, a momentum out of [0, 1), or ``nesterov`` without momentum.

    Reference: Sutskever, Martens, Dahl and Hinton (2013), ICML, equations 1-4.

    >>> optimizer = sgd(0.1)
    >>> params = torch.tensor([1.0])
    >>> updates, _ = optimizer.update(2 * params, optimizer.init(params), params)
    >>> updates
    tensor([-0.2000])
    """
    _check_rate(learning_rate)
    _check_fraction("momentum", momentum)
    _check_not_negative("weight_decay", weight_decay)
    checks.require(momentum > 0 or not nesterov, "nesterov needs momentum", f"momentum={momentum}", "Try momentum=0.9.")

    rate_at, decay, has_momentum, factor = (
        _schedule(learning_rate),
        _decayed(weight_decay),
        momentum != 0,
        tree.number(momentum),
    )

    def init(params: Params) -> SGDState:
        return SGDState(_count(params), tree.zeros_like(params) if has_momentum else ())

    def update(gradients: Tree, state: SGDState, params: Params) -> tuple[Tree, SGDState]:
        direction, velocity = decay(gradients, params), state.velocity
        if has_momentum:
            velocity = _add_scaled(direction, factor, velocity)
            direction = _add_scaled(direction, factor, velocity) if nesterov else velocity
        rate = -rate_at(state.step)
        return tree.map(lambda leaf: _times(rate, leaf), direction), SGDState(state.step + 1, velocity)

    return Optimizer(init, update, is_elementwise=True)


def adam(
    learning_rate: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    r"""Adam: each coordinate moves by its mean gradient over its root mean square.

    :math:`m \leftarrow \beta_1 m + (1-\beta_1) g`, :math:`v \leftarrow \beta_2 v + (1-\beta_2) g^2`, and the update is
    :math:`-\alpha \hat m / (\sqrt{\hat v} + \epsilon)` with :math:`\hat m = m / (1-\beta_1^t)`,
    :math:`\hat v = v / (1-\beta_2^t)`. The numbers of ``torch.optim.Adam``.

    Args:
        learning_rate: :math:`\alpha > 0`; a number, a 0-d tensor, or a schedule of the step (from 0).
        beta1: decay of the mean, in [0, 1).
        beta2: decay of the mean square, in [0, 1).
        epsilon: :math:`\epsilon > 0`, in units of the gradient.
        weight_decay: added to the gradient as :math:`w\theta`; for the decoupled form see :func:`adamw`.

    Returns:
        An :class:`Optimizer` with :class:`AdamState`.

    Reference: Kingma and Ba (2015), ICLR, algorithm 1.

    >>> optimizer = adam(0.1)
    >>> params = torch.tensor([1.0])
    >>> updates, _ = optimizer.update(2 * params, optimizer.init(params), params)
    >>> updates
    tensor([-0.1000])
    """
    return _adam(learning_rate, beta1, beta2, epsilon, _decayed(weight_decay), weight_decay, 0.0)


def adamw(
    learning_rate: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
) -> Optimizer:
    r"""Adam with decoupled weight decay: the update of :func:`adam` minus :math:`\alpha w \theta`.

    The numbers of ``torch.optim.AdamW``.

    Args:
        learning_rate: :math:`\alpha > 0`; a number, a 0-d tensor, or a schedule of the step (from 0).
        beta1: decay of the mean, in [0, 1).
        beta2: decay of the mean square, in [0, 1).
        epsilon: :math:`\epsilon > 0`, in units of the gradient.
        weight_decay: :math:`w \ge 0`.

    Returns:
        An :class:`Optimizer` with :class:`AdamState`.

    Reference: Loshchilov and Hutter (2019), ICLR, algorithm 2.

    >>> optimizer = adamw(0.1, weight_decay=0.5)
    >>> params = torch.tensor([1.0])
    >>> updates, _ = optimizer.update(2 * params, optimizer.init(params), params)
    >>> updates
    tensor([-0.1500])
    """
    return _adam(learning_rate, beta1, beta2, epsilon, lambda g, p: g, weight_decay, weight_decay)


def _adam(
    learning_rate: LearningRate,
    beta1: float,
    beta2: float,
    epsilon: float,
    regularise: Callable[[Tree, Params], Tree],
    weight_decay: float,
    decoupled: float | Tensor,
) -> Optimizer:
    _check_rate(learning_rate)
    _check_fraction("beta1", beta1)
    _check_fraction("beta2", beta2)
    checks.positive("epsilon", epsilon, "Try 1e-8.")
    _check_not_negative("weight_decay", weight_decay)

    rate_at, small, is_decoupled, decay = (
        _schedule(learning_rate),
        tree.number(epsilon),
        not _is_zero(decoupled),
        tree.number(decoupled),
    )
    betas = (tree.number(beta1), tree.number(beta2))
    rest1, rest2 = 1 - betas[0], 1 - betas[1]
    log_betas = tuple(tree.number(math.log(beta) if beta else -math.inf) for beta in (beta1, beta2))

    def init(params: Params) -> AdamState:
        return AdamState(_count(params), tree.zeros_like(params), tree.zeros_like(params))

    def update(gradients: Tree, state: AdamState, params: Params) -> tuple[Tree, AdamState]:
        gradients = regularise(gradients, params)
        step = state.step + 1
        rate = -rate_at(state.step)
        first = tree.map(lambda mean, g: _times(betas[0], mean) + _times(rest1, g), state.first, gradients)
        second = tree.map(lambda mean, g: _times(betas[1], mean) + _times(rest2, g) * g, state.second, gradients)
        corrections = {dtype: _corrections(log_betas, step, dtype) for dtype in _dtypes(params)}

        def new(mean: Tensor, square: Tensor, leaf: Tensor) -> Tensor:
            correction1, correction2 = corrections[leaf.dtype]
            move = mean / correction1 / ((square / correction2).sqrt() + tree.cast_like(small, leaf))
            return _times(rate, move + _times(decay, leaf) if is_decoupled else move)

        return tree.map(new, first, second, params), AdamState(step, first, second)

    return Optimizer(init, update, is_elementwise=True)


def _dtypes(params: Params) -> list[torch.dtype]:
    return list(dict.fromkeys(leaf.dtype for leaf in tree.leaves(params)))


def _corrections(log_betas: tuple[Tensor, ...], step: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """``1 - beta ** step`` without cancellation, at least in single precision; stacked, so that none is computed again
    for each number of the params. ``()`` each."""
    count = step.to(torch.promote_types(dtype, torch.float32))
    parts = [-torch.expm1(_times(log_beta, count)) for log_beta in log_betas]
    return torch.stack(parts).unbind(0)


def clip_by_global_norm(max_norm: float | Tensor) -> Optimizer:
    r"""Shortens gradients whose norm over all leaves is above ``max_norm``, and leaves others as they are.

    The update is :math:`g \min(1, c / |g|)`. Put it first in a :func:`chain`. (``torch.nn.utils.clip_grad_norm_`` divides
    by :math:`|g| + 10^{-6}` instead.)

    Args:
        max_norm: :math:`c > 0`, in units of the gradient. ``()``.

    Returns:
        An :class:`Optimizer` with the state ``()``.

    Raises:
        ValueError: a norm that is not positive.

    Reference: Pascanu, Mikolov and Bengio (2013), ICML, algorithm 1.

    >>> clip = clip_by_global_norm(1.0)
    >>> clip.update(torch.tensor([3.0, 4.0]), (), ())[0]
    tensor([0.6000, 0.8000])
    """
    checks.positive("max_norm", max_norm)
    most = tree.number(max_norm)

    def update(gradients: Tree, state: tuple[()], params: Params) -> tuple[Tree, tuple[()]]:
        norm = tree.squared_norm(gradients).sqrt()
        limit = tree.cast_like(most, norm)
        factor = torch.where(norm > limit, limit / norm, torch.ones_like(norm))
        return tree.map(lambda leaf: leaf * factor.to(leaf.dtype), gradients), ()

    return Optimizer(lambda params: (), update, is_elementwise=False)


def chain(*optimizers: Optimizer | Sequence[Optimizer]) -> Optimizer:
    """Optimizers in a row: each transforms the updates of the one before it.

    Args:
        optimizers: one or more, one by one or in a list; the last one usually holds the learning rate.

    Returns:
        An :class:`Optimizer` whose state is the tuple of theirs.

    Raises:
        ValueError: no optimizers.

    >>> optimizer = chain(clip_by_global_norm(1.0), sgd(0.1))
    >>> params = torch.tensor([3.0, 4.0])
    >>> optimizer.update(params, optimizer.init(params), params)[0]
    tensor([-0.0600, -0.0800])
    """
    parts, fix = checks.given_parts(optimizers), "Write chain(clip_by_global_norm(1.0), adam(1e-3))."
    checks.require(len(parts) > 0, "chain needs optimizers", "none", fix)
    for part in parts:
        checks.require(isinstance(part, Optimizer), "chain takes optimizers", part, fix, TypeError)

    def init(params: Params) -> tuple[Tree, ...]:
        return tuple(optimizer.init(params) for optimizer in parts)

    def update(gradients: Tree, state: tuple[Tree, ...], params: Params) -> tuple[Tree, tuple[Tree, ...]]:
        states = []
        for optimizer, old in zip(parts, state, strict=True):
            gradients, new = optimizer.update(gradients, old, params)
            states.append(new)
        return gradients, tuple(states)

    declared = [part.is_elementwise for part in parts]
    return Optimizer(init, update, False if False in declared else None if None in declared else True)


def centring(visible_mean: Tensor, hidden_mean: Tensor | None = None) -> Optimizer:
    r"""The centred gradient of a restricted Boltzmann machine, for Bernoulli units; put it first in a :func:`chain`.

    With offsets :math:`\mu` and :math:`\lambda` subtracted from visible and hidden units the gradient of the likelihood becomes

    .. math:: \tilde g_W = g_W - g_b \lambda^\top - \mu\,g_c^\top, \qquad \tilde g_b = g_b - \tilde g_W \lambda, \qquad
        \tilde g_c = g_c - \tilde g_W^\top \mu ,

    still a direction of ascent, for the params of the plain machine. Training then does not depend on which level of a unit is
    called 1, and gets to far better likelihoods: the most useful trick there is for these machines.

    Args:
        visible_mean: :math:`\mu`, the mean of the data. ``(V,)``.
        hidden_mean: :math:`\lambda`. ``(H,)``; by default :math:`\sigma(c + W^\top \mu)`, which follows the params.

    Returns:
        An :class:`Optimizer` with the state ``()``, for the params of :func:`funcebm.energies.rbm`.

    Raises:
        ValueError: when called, params of something else.

    Reference: Melchior, Fischer and Wiskott (2016), JMLR 17(99):1-61; Cho, Raiko and Ilin (2011), ICML, for the same gradient.

    >>> optimizer = chain(centring(torch.full((784,), 0.13)), sgd(0.01))
    """
    names = {"weight", "visible_bias", "hidden_bias"}

    def update(gradients: Tree, state: tuple[()], params: Params) -> tuple[Tree, tuple[()]]:
        right = isinstance(gradients, dict) and set(gradients) == names
        got = str(sorted(gradients)) if isinstance(gradients, dict) else type(gradients).__name__
        checks.require(right, "centring is for the params of energies.rbm", got, "Use it for Bernoulli units only.")
        weight, b, c = (gradients[name] for name in ("weight", "visible_bias", "hidden_bias"))
        at = visible_mean.to(b).reshape(-1)
        offset = torch.sigmoid(params["hidden_bias"] + at @ params["weight"])
        offset = offset if hidden_mean is None else hidden_mean.to(c)
        weight = weight - b[:, None] * offset - at[:, None] * c
        return {"weight": weight, "visible_bias": b - weight @ offset, "hidden_bias": c - at @ weight}, ()

    return Optimizer(lambda params: (), update, is_elementwise=False)
