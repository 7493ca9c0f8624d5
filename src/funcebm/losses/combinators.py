"""Losses to losses: sums, penalties, ensembles."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

from torch import Tensor
from torch.func import vmap

from .. import checks, random, tree
from ..types import Batch, Key, Loss, LossAux, Params, Tree
from ._staged import objective, prepare

__all__ = ["ensemble", "penalised", "weighted_sum"]


def _assemble(
    init: Callable[[Key, Params, Batch], Tree],
    draw: Callable[[Key, Batch], Tree],
    prepare_all: Callable[[Params, Tree, Batch, Tree], Tree],
    objective_all: Callable[[Params, Tree], tuple[Tensor, LossAux]],
) -> Loss:
    def value(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tensor, LossAux]:
        return objective_all(params, prepare_all(params, memory, batch, noise))

    return Loss(init, draw, value, prepare_all, objective_all)


def _by_name(values: Any) -> dict[str, Any]:
    """A dict as it is; others with their numbers as names."""
    if isinstance(values, Mapping):
        return dict(values)
    values = (values,) if isinstance(values, Loss) or not hasattr(values, "__len__") else values
    return {str(index): value for index, value in enumerate(values)}


def weighted_sum(
    *losses: Loss | Sequence[Loss] | Mapping[str, Loss],
    weights: Sequence[float | Tensor] | Mapping[str, float | Tensor] | None = None,
) -> Loss:
    r"""The sum of several losses of the same parameters and batch, :math:`\sum_i w_i L_i`.

    Args:
        losses: one or more, one by one, in a list, or in a dict by name.
        weights: :math:`w_i`, in the order of the losses or by the same names; by default all are 1. After a list or a dict
            of losses the name of this argument may be left out. ``()`` each.

    Returns:
        A :class:`~funcebm.types.Loss` with independent noise and the memory ``(m_1, m_2, ...)``. The metrics are those of
        each loss, and its value as ``loss``, under ``"name/metric"`` with the name or the index of the loss.

    Raises:
        ValueError: no loss, or weights that do not match.

    >>> import torch
    >>> from funcebm import losses
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> parts = {"wide": losses.denoising_score_matching(energy, 1.0), "exact": losses.score_matching(energy)}
    >>> loss = weighted_sum(parts, weights={"wide": 0.5, "exact": 1.0})
    >>> value, aux = loss(random.key(0), torch.tensor(1.0), torch.ones(4, 2), ((), ()))
    >>> sorted(aux.metrics)
    ['exact/laplacian', 'exact/loss', 'exact/squared_score', 'wide/loss', 'wide/squared_score']
    """
    given: Any = losses
    if len(given) == 2 and weights is None and not isinstance(given[0], Loss):
        given, weights = given[:1], given[1]
    by_name = _by_name(given[0] if len(given) == 1 else given)
    names, parts = list(by_name), list(by_name.values())
    factors_by_name = dict.fromkeys(names, 1.0) if weights is None else _by_name(weights)
    checks.require(len(names) > 0, "weighted_sum needs losses", "none", "Give one loss or more.")
    for name, part in by_name.items():
        fix = "Give losses one by one, in a list or in a dict, and weights by name: weights=[...]."
        must, got = "weighted_sum takes losses", f"{type(part).__name__} for {name!r}"
        checks.require(isinstance(part, Loss), must, got, fix, TypeError)
    right = sorted(names) == sorted(factors_by_name)
    fix = "Give one weight for each loss, under the same names."
    checks.require(right, "losses and weights must match", f"losses {names} and weights {list(factors_by_name)}", fix)
    for name, factor in factors_by_name.items():
        checks.finite(f"weights[{name!r}]", factor)
    factors = [tree.number(factors_by_name[name]) for name in names]

    def init(key: Key, params: Params, batch: Batch) -> tuple[Tree, ...]:
        keys = random.split(key, len(parts)).unbind(0)
        return tuple(loss.init(k, params, batch) for k, loss in zip(keys, parts, strict=True))

    def draw(key: Key, batch: Batch) -> tuple[Tree, ...]:
        keys = random.split(key, len(parts)).unbind(0)
        return tuple(loss.draw(k, batch) for k, loss in zip(keys, parts, strict=True))

    def prepare_all(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tree, ...]:
        memory = memory if len(memory) == len(parts) else ((),) * len(parts)
        return tuple(prepare(loss, params, m, batch, n) for loss, m, n in zip(parts, memory, noise, strict=True))

    def objective_all(params: Params, prepared: tuple[Tree, ...]) -> tuple[Tensor, LossAux]:
        total: Tensor | float = 0.0
        memories, metrics = [], {}
        for name, factor, loss, stage in zip(names, factors, parts, prepared, strict=True):
            value, aux = objective(loss, params, stage)
            total = total + factor.to(value) * value
            memories.append(aux.memory)
            metrics[f"{name}/loss"] = value.detach()
            metrics.update({f"{name}/{metric}": number for metric, number in aux.metrics.items()})
        assert isinstance(total, Tensor)
        return total, LossAux(tuple(memories), metrics)

    return _assemble(init, draw, prepare_all, objective_all)


def penalised(loss: Loss, penalty: Callable[[Params, Batch], Tensor], weight: float | Tensor) -> Loss:
    r"""A loss with something added, :math:`L + w\,P(\theta, x)`.

    Args:
        loss: any loss.
        penalty: ``(params, batch) -> ()``, such as the squared norm of the params.
        weight: :math:`w`. ``()``.

    Returns:
        A :class:`~funcebm.types.Loss` with the memory of ``loss``, and its metrics with ``penalty`` (:math:`P`, unweighted).

    >>> import torch
    >>> from funcebm import losses
    >>> energy = lambda params, x: params * (x**2).sum() / 2
    >>> loss = penalised(losses.score_matching(energy), lambda params, batch: params**2, 0.1)
    >>> value, aux = loss(random.key(0), torch.tensor(2.0), torch.ones(4, 2))
    >>> value, aux.metrics["penalty"]
    (tensor(0.4000), tensor(4.))
    """

    factor = tree.number(weight)

    def prepare_all(params: Params, memory: Tree, batch: Batch, noise: Tree) -> tuple[Tree, Batch]:
        return prepare(loss, params, memory, batch, noise), batch

    def objective_all(params: Params, prepared: tuple[Tree, Batch]) -> tuple[Tensor, LossAux]:
        value, aux = objective(loss, params, prepared[0])
        extra = penalty(params, prepared[1])
        return value + factor.to(value) * extra, LossAux(aux.memory, {**aux.metrics, "penalty": extra.detach()})

    return _assemble(loss.init, loss.draw, prepare_all, objective_all)


def ensemble(loss: Loss, num_members: int | None = None) -> Loss:
    r"""One loss over a leading axis M of the params: :math:`\sum_m L(\theta_m)`, by ``vmap``.

    The sum, not the mean: each member gets the gradient that it would get alone, so elementwise optimizers train M
    independent models at once. All see the same batch.

    Args:
        loss: any loss.
        num_members: M, for noise of its own for each member; None gives all members the same noise (common random
            numbers: less variance in comparisons).

    Returns:
        A :class:`~funcebm.types.Loss` with the memories stacked on a leading axis M, and the metrics as means over the members.

    Raises:
        ValueError: a count below 1.

    >>> import torch
    >>> from funcebm import losses
    >>> loss = ensemble(losses.score_matching(lambda params, x: params * (x**2).sum() / 2))
    >>> loss(random.key(0), torch.tensor([0.0, 1.0, 2.0]), torch.ones(4, 2))[0]
    tensor(-1.)
    """
    if num_members is not None:
        checks.positive_int("num_members", num_members)
    noise_dim = None if num_members is None else 0

    def init(key: Key, params: Params, batch: Batch) -> Tree:
        num = tree.batch_size(params)
        must = "the leading axis of the params must be num_members"
        checks.require(num_members in (None, num), must, f"{num} and num_members={num_members}", "Stack the params.")
        return vmap(loss.init, (0, 0, None))(random.split(key, num), params, batch)

    def draw(key: Key, batch: Batch) -> Tree:
        if num_members is None:
            return loss.draw(key, batch)
        return vmap(loss.draw, (0, None))(random.split(key, num_members), batch)

    def prepare_all(params: Params, memory: Tree, batch: Batch, noise: Tree) -> Tree:
        def one(params: Params, memory: Tree, noise: Tree) -> Tree:
            return prepare(loss, params, memory, batch, noise)

        return vmap(one, (0, 0, noise_dim))(params, memory, noise)

    def objective_all(params: Params, prepared: Tree) -> tuple[Tensor, LossAux]:
        def one(params: Params, prepared: Tree) -> tuple[Tensor, LossAux]:
            return objective(loss, params, prepared)

        values, aux = vmap(one)(params, prepared)
        return values.sum(), LossAux(aux.memory, {name: metric.mean() for name, metric in aux.metrics.items()})

    return _assemble(init, draw, prepare_all, objective_all)
