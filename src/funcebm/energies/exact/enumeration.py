"""Sums over all states of a discrete space, in chunks."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor
from torch.func import vmap

from ... import checks, loops, random, spaces, tree
from ...fields import require_scalar
from ...types import Energy, Key, Params, Position, Tree

__all__ = ["expectation", "log_normalizer", "log_probabilities", "sample"]

_MOST_STATES = 2**30
_LEAST = -1e30  # in place of minus infinity


def _dtype(params: Params) -> torch.dtype:
    """That of the params, and torch's where they hold no floats."""
    found = [leaf.dtype for leaf in tree.leaves(params) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return found[0] if found else torch.get_default_dtype()


def _scan_states(
    space: Tree,
    params: Params,
    chunk_size: int,
    body: Callable[[Tree, Position, Tensor], tuple[Tree, Tree]],
    init: Tree,
) -> tuple[Tree, Tree]:
    """A scan over chunks of states: ``(carry, states, is_state) -> (carry, y)``; the last chunk may hold states twice."""
    num, dtype = spaces.num_states(space), _dtype(params)
    size = min(num, chunk_size)
    device = next((leaf.device for leaf in tree.leaves(params) if isinstance(leaf, Tensor)), torch.device("cpu"))
    starts = torch.arange(0, num, size, device=device)

    def chunk(carry: Tree, start: Tensor) -> tuple[Tree, Tree]:
        numbers = start + torch.arange(size, device=device)
        states = vmap(lambda number: spaces.state(space, number, dtype))(numbers.clamp(max=num - 1))
        return body(carry, states, numbers < num)

    return loops.scan(chunk, init, starts)


def _log_weights(energy: Energy, params: Params, states: Position, is_state: Tensor) -> Tensor:
    def minus(x: Position) -> Tensor:
        return -require_scalar(energy(params, x), x)

    values = vmap(minus)(states)
    return torch.where(is_state, values, -torch.inf)


def _check(space: Tree, chunk_size: int, most: int = _MOST_STATES) -> None:
    checks.positive_int("chunk_size", chunk_size)
    num = spaces.num_states(space)
    fix = "Use what the energy knows (rbm.log_normalizer, exact.transfer_matrix), or funcebm.normalizers to estimate."
    checks.require(num <= most, f"a sum over states has at most {most} terms", f"{float(num):.3g} states", fix)


def log_normalizer(energy: Energy, space: Tree, *, chunk_size: int = 2**14) -> Callable[[Params], Tensor]:
    r"""The log of :math:`Z = \sum_x e^{-E(x)}` over all states of a space, as a function of the params.

    An energy that carries a faster way for this very space (``energy.space == space`` and ``energy.log_normalizer``, as an RBM
    by its smaller layer) is asked for it; else all states are enumerated, in chunks.

    Args:
        energy: ``(params, x) -> ()``.
        space: a tree of discrete :mod:`funcebm.spaces`, with at most :math:`2^{30}` states where they are enumerated.
        chunk_size: how many energies are computed at once, static.

    Returns:
        ``params -> ()``; it can be differentiated (its gradient is minus the mean of that of the energy), mapped and compiled.

    Raises:
        ValueError: real leaves, or too many states.

    >>> from funcebm import energies
    >>> energy = energies.ising_torus((3, 3))
    >>> log_normalizer(energy, energy.space)(energy.params(coupling=torch.tensor(0.2, dtype=torch.float64)))
    tensor(6.6697, dtype=torch.float64)
    """
    own = getattr(energy, "log_normalizer", None)
    if own is not None and getattr(energy, "space", None) == space:
        return own
    _check(space, chunk_size)

    def log_sum(params: Params) -> Tensor:
        def body(carry: Tree, states: Position, is_state: Tensor) -> tuple[Tree, Tree]:
            return carry, torch.logsumexp(_log_weights(energy, params, states, is_state), 0)

        parts = _scan_states(space, params, chunk_size, body, _zero(params))[1]
        return torch.logsumexp(parts, 0)

    return log_sum


def _zero(params: Params) -> Tensor:
    device = next((leaf.device for leaf in tree.leaves(params) if isinstance(leaf, Tensor)), torch.device("cpu"))
    return torch.zeros((), device=device)


def log_probabilities(energy: Energy, space: Tree, *, chunk_size: int = 2**14) -> Callable[[Params], Tensor]:
    r"""The log probabilities of all states, in the order of :func:`funcebm.spaces.states`.

    Args:
        energy: ``(params, x) -> ()``.
        space: a tree of discrete spaces, with at most :math:`2^{24}` states.
        chunk_size: as in :func:`log_normalizer`.

    Returns:
        ``params -> (num_states,)``.

    Raises:
        ValueError: real leaves, or too many states.

    >>> log_probabilities(lambda params, x: 0 * x.sum(), spaces.binary(2))(()).exp()
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    _check(space, chunk_size, 2**24)

    def table(params: Params) -> Tensor:
        def body(carry: Tree, states: Position, is_state: Tensor) -> tuple[Tree, Tree]:
            return carry, _log_weights(energy, params, states, is_state)

        parts = _scan_states(space, params, chunk_size, body, _zero(params))[1]
        return torch.log_softmax(parts.reshape(-1)[: spaces.num_states(space)], 0)

    return table


def expectation(
    energy: Energy, space: Tree, statistic: Callable[[Position], Tree], *, chunk_size: int = 2**14
) -> Callable[[Params], Tree]:
    r"""The exact mean of a statistic, :math:`\sum_x f(x)\,e^{-E(x)} / Z`.

    Args:
        energy: ``(params, x) -> ()``.
        space: a tree of discrete spaces.
        statistic: ``x -> tree`` of one state.
        chunk_size: as in :func:`log_normalizer`.

    Returns:
        ``params -> tree``.

    Raises:
        ValueError: real leaves, or too many states.

    >>> expectation(lambda params, x: -params * x.sum(), spaces.spins(3), torch.mean)(torch.tensor(0.5))  # tanh(0.5)
    tensor(0.4621)
    """
    _check(space, chunk_size)

    def mean(params: Params) -> Tree:
        def body(carry: Tree, states: Position, is_state: Tensor) -> tuple[Tree, Tree]:
            weights = _log_weights(energy, params, states, is_state)
            total = torch.logsumexp(weights, 0)
            # a chunk without any state that is possible has no shares, and no part in the mean
            share = torch.where(total > -torch.inf, torch.exp(weights - total.clamp(min=_LEAST)), 0.0)
            means = tree.map(lambda leaf: torch.tensordot(share, leaf.to(share), 1), vmap(statistic)(states))
            return carry, (total, means)

        totals, means = _scan_states(space, params, chunk_size, body, _zero(params))[1]
        shares = torch.softmax(totals, 0)
        return tree.map(lambda leaf: torch.tensordot(shares, leaf, 1), means)

    return mean


def sample(energy: Energy, space: Tree, *, chunk_size: int = 2**14) -> Callable[[Key, Params, int], Any]:
    r"""Exact independent draws, by inversion of the distribution function over all states.

    Args:
        energy: ``(params, x) -> ()``.
        space: a tree of discrete spaces, with at most :math:`2^{24}` states.
        chunk_size: as in :func:`log_normalizer`.

    Returns:
        ``(key, params, num) -> positions``, leaves ``(num, *event)``.

    Raises:
        ValueError: real leaves, or too many states; when called, an energy that is NaN somewhere, or infinite everywhere.

    >>> draw = sample(lambda params, x: -params * x.sum(), spaces.spins(3))
    >>> draw(random.key(0), torch.tensor(9.0), 2).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    table = log_probabilities(energy, space, chunk_size=chunk_size)

    def draw(key: Key, params: Params, num: int) -> Any:
        checks.positive_int("num", num)
        log_probability = table(params)
        if checks.is_concrete(log_probability):
            right = not bool(torch.isnan(log_probability).any())
            fix = "Look for NaN in it; some state must be possible."
            checks.require(right, "the energy must have a distribution", "NaN, or no state that is possible", fix)
        numbers = _numbers(key, log_probability, num)
        return vmap(lambda number: spaces.state(space, number, _dtype(params)))(numbers)

    return draw


def _numbers(key: Key, log_probability: Tensor, num: int) -> Tensor:
    cumulative = log_probability.double().exp().cumsum(0)
    targets = random.uniform(key, num, dtype=torch.float64).to(cumulative.device) * cumulative[-1]
    return torch.searchsorted(cumulative, targets, right=True).clamp(max=len(cumulative) - 1)
