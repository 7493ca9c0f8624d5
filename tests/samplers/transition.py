"""The exact one-step matrix of a sampler on a small discrete space, from outside: noise goes in, positions come out.

Nothing here knows a formula of a sampler. Where noise is uniform, the places where the outcome changes are bisected to the last
bit; where it is Gumbel, an argmax over logits plus noise, pairwise bisection finds the logits. Metropolis tests report their
probability in the info; with a uniform of 0 every proposal that can be accepted is.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from funcebm import spaces, tree
from funcebm.types import Sampler

__all__ = [
    "TARGETS",
    "every_target",
    "level_of",
    "rank_of_change",
    "Target",
    "assert_kernel",
    "bits",
    "categories",
    "choices",
    "is_invariant",
    "move_targets",
    "ordinals",
    "outcomes",
    "sequences",
    "values_by_uniforms",
]

NEVER, LARGE = -1e4, 80.0


class Target(NamedTuple):
    """An energy on a space, all its states ``(S, ...)``, and their probabilities ``(S,)``."""

    energy: Callable[..., Tensor]
    space: Any
    states: Tensor
    probabilities: Tensor

    def index(self, position: Tensor) -> Tensor:
        """The number of a state."""
        same = (self.states == position).reshape(len(self.states), -1).all(-1)
        return same.to(torch.int64).argmax()


def _target(energy, space, states) -> Target:
    probabilities = torch.softmax(-vmap(energy, (None, 0))((), states), 0)
    return Target(energy, space, states, probabilities)


def bits(levels: tuple[float, float] = (0.0, 1.0), is_multilinear: bool = False) -> Target:
    """Three bits: fields, couplings, a cubic term and one that is not linear in each bit."""

    def energy(params, x):
        x = (x - levels[0]) / (levels[1] - levels[0])
        value = -0.7 * x[0] + 0.4 * x[1] + 0.9 * x[0] * x[1] - 1.1 * x[1] * x[2] + 0.8 * x[0] * x[1] * x[2]
        return value if is_multilinear else value + 0.6 * torch.sin(2 * x[0] - x[1] + 3 * x[2])

    states = torch.tensor(list(itertools.product(levels, repeat=3)), dtype=torch.float64)
    return _target(energy, spaces.binary(3, levels), states)


def categories(is_multilinear: bool = False) -> Target:
    """Two sites of three values."""
    table = torch.tensor([[0.3, -0.8, 0.5], [1.1, 0.0, -0.4], [-0.6, 0.7, 0.2]], dtype=torch.float64)
    slopes = torch.tensor([[0.5, -1.0, 0.3], [0.8, 0.1, -0.9]], dtype=torch.float64)

    def energy(params, x):
        value = x[0] @ table @ x[1] + (slopes * x).sum()
        return (
            value if is_multilinear else value + 0.7 * torch.sin((x * torch.arange(6.0).double().reshape(2, 3)).sum())
        )

    each = torch.eye(3, dtype=torch.float64)
    return _target(energy, spaces.categorical(2, 3), torch.stack([torch.stack([a, b]) for a in each for b in each]))


def ordinals() -> Target:
    """Two sites of three levels."""

    def energy(params, x):
        return 0.4 * (x[0] - 1.2) ** 2 - 0.5 * x[0] * x[1] + 0.6 * torch.sin(2 * x[1] - x[0])

    states = torch.tensor(list(itertools.product((0.0, 1.0, 2.0), repeat=2)), dtype=torch.float64)
    return _target(energy, spaces.ordinal(2, 3), states)


# -- running ------------------------------------------------------------------------------------------------------


def outcomes(sampler: Sampler, target: Target, start: Tensor, noise: Any) -> tuple[Tensor, Tensor]:
    """Where states ``(n,)`` go with noise ``(n, ...)``, and the acceptance rates."""
    tuning = tree.cast_like(sampler.tuning, target.states)
    if sampler.init not in _states:
        _states[sampler.init] = vmap(sampler.init, (None, 0))((), target.states)

    def one(state, noise):
        after, info = sampler.step((), tuning, state, noise)
        return target.index(after.position), info.acceptance_rate

    return vmap(one)(tree.map(lambda leaf: leaf[start], _states[sampler.init]), noise)


_states: dict[Any, Any] = {}


def _bisect(is_below: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, num: int) -> Tensor:
    """Where a condition that holds up to some number stops to hold."""
    for _ in range(num):
        middle = (low + high) / 2
        below = is_below(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def move_targets(target: Target) -> Tensor:
    """Where each move leads from each state, ``(S, T)``; -1 where it does not exist. Bits, categories, steps of ordinals."""
    states, kind = target.states, target.space.kind
    rows = []
    for x in states:
        row = []
        for site in range(states.shape[1]):
            for move in range({"binary": 1, "categorical": 3, "ordinal": 2}[kind]):
                y = x.clone()
                if kind == "binary":
                    y[site] = sum(target.space.levels) - x[site]
                elif kind == "categorical":
                    y[site] = torch.eye(3).double()[move]
                else:
                    y[site] += 2 * move - 1
                found = [i for i, other in enumerate(states) if torch.equal(other, y)]
                row.append(found[0] if found and not torch.equal(x, y) else -1)
        rows.append(row)
    return torch.tensor(rows)


def choices(sampler: Sampler, target: Target, make_noise: Callable[[Tensor], Any], ends: Tensor) -> Tensor:
    """The probabilities of the choices of one Gumbel vector, from each state, ``(S, T)``.

    Args:
        make_noise: ``gumbel (n, T) -> noise`` with which the outcome depends on the choice, one to one.
        ends: where each choice leads, ``(S, T)``; -1 for one that must never be made.
    """
    num, num_choices = ends.shape
    first = (ends >= 0).to(torch.int64).argmax(1).repeat_interleave(num_choices)
    start = torch.arange(num).repeat_interleave(num_choices)
    own = torch.arange(num_choices).repeat(num)
    rows = torch.arange(num * num_choices)

    def reached(offset: Tensor) -> Tensor:
        """With only the first choice and one's own in play, one's own ahead by an offset."""
        gumbel = torch.full((num * num_choices, num_choices), NEVER, dtype=torch.float64)
        gumbel[rows, own] = offset
        gumbel[rows, first] = 0.0
        return outcomes(sampler, target, start, make_noise(gumbel))[0]

    is_first, end_first = own == first, ends.gather(1, first.reshape(num, -1)).reshape(-1)
    low = torch.full((num * num_choices,), -LARGE, dtype=torch.float64)
    ahead, behind = reached(-low), reached(low)
    assert (behind == end_first).all()
    assert (ahead == torch.where(is_first | (ends.reshape(-1) < 0), end_first, ends.reshape(-1))).all()
    scores = _bisect(
        lambda offset: reached(-offset) != end_first, low, -low, 62
    )  # logits less that of the first choice
    weights = torch.where(ends.reshape(-1) >= 0, torch.where(is_first, 1.0, scores.exp()), 0.0).reshape(num, -1)
    return weights / weights.sum(1, keepdim=True)


def sequences(
    sampler: Sampler,
    target: Target,
    make_noise: Callable[[Tensor], Any],
    paths: Tensor,
    chances: Tensor,
    path_chances: Tensor | None = None,
) -> Tensor:
    """The matrix of a sampler that makes paths ``(P, R)`` of choices and tests them.

    Args:
        make_noise: ``gumbel (n, R, T) -> noise`` that forces them.
        chances: of the choices, ``(S, T)``.
        path_chances: of whole paths, ``(S, P)``; by default choices are independent.
    """
    num, (num_paths, length) = len(target.states), paths.shape
    gumbel = torch.full((num_paths, length, chances.shape[1]), NEVER, dtype=torch.float64)
    gumbel.scatter_(2, paths[:, :, None], 0.0)
    start = torch.arange(num).repeat_interleave(num_paths)
    ends, rates = outcomes(sampler, target, start, make_noise(gumbel.repeat(num, 1, 1)))
    chance = chances[:, paths].prod(-1) if path_chances is None else path_chances
    rates = torch.where(chance.reshape(-1) > 0, rates, 0.0)
    matrix = torch.zeros(num, num, dtype=torch.float64)
    matrix.index_put_((start, ends), chance.reshape(-1) * rates, accumulate=True)
    matrix.index_put_((start, start), chance.reshape(-1) * (1 - rates), accumulate=True)
    return matrix


def values_by_uniforms(
    sampler: Sampler,
    target: Target,
    make_noise: Callable[[Tensor], Any],
    observe: Callable[[int, Tensor], Tensor],
    order: list[int],
    num_values: int,
    is_tested: bool = False,
) -> Tensor:
    """The matrix of a sampler whose noise is one uniform number for each of some updates.

    Args:
        make_noise: ``uniform (n, U) -> noise``, any test accepted where that is possible.
        observe: ``(u, states (n, 2) before and after) -> (n,)`` the value that update ``u`` gave, falling as its number grows.
        order: in which the updates are made; what one gives depends on those before.
        num_values: of each update.
        is_tested: the proposal is made as a whole and then tested, with the acceptance rate of the info.
    """
    num = len(target.states)
    matrix = torch.zeros(num, num, dtype=torch.float64)
    every = torch.arange(num)

    def run(uniform: Tensor) -> tuple[Tensor, Tensor]:
        return outcomes(sampler, target, every, make_noise(uniform))

    def descend(depth: int, uniform: Tensor, chance: Tensor) -> None:
        if depth == len(order):
            ends, rates = run(uniform)
            rates = rates if is_tested else torch.ones_like(rates)
            matrix.index_put_((every, ends), chance * rates, accumulate=True)
            matrix.index_put_((every, every), chance * (1 - rates), accumulate=True)
            return
        update = order[depth]

        def at(value: Tensor) -> Tensor:
            moved = uniform.clone()
            moved[:, update] = value
            return observe(update, torch.stack([every, run(moved)[0]], 1))

        zero, one = torch.zeros(num, dtype=torch.float64), torch.ones(num, dtype=torch.float64)
        edges = [one]
        for value in range(1, num_values):
            edges.append(_bisect(lambda u, value=value: at(u) >= value, zero, one, 46))
        edges.append(zero)
        for value in range(num_values):
            width = edges[value] - edges[value + 1]
            moved = uniform.clone()
            moved[:, update] = (edges[value] + edges[value + 1]) / 2
            if bool((width > 1e-15).any()):
                descend(depth + 1, moved, chance * width)

    descend(0, torch.full((num, len(order)), 1 - 1e-12, dtype=torch.float64), torch.ones(num, dtype=torch.float64))
    return matrix


# -- statements ---------------------------------------------------------------------------------------------------


def is_invariant(matrix: Tensor, probabilities: Tensor, tolerance: float = 1e-12) -> bool:
    return float((probabilities @ matrix - probabilities).abs().max()) < tolerance


def assert_kernel(matrix: Tensor, probabilities: Tensor, *, is_reversible: bool) -> None:
    """A stochastic matrix that leaves the probabilities invariant, by itself reaches everywhere, and is reversible or not."""
    torch.testing.assert_close(matrix.sum(1), torch.ones_like(probabilities), rtol=0, atol=1e-12)
    assert (matrix >= -1e-15).all()
    assert is_invariant(matrix, probabilities), (probabilities @ matrix - probabilities).abs().max()
    flows = probabilities[:, None] * matrix
    imbalance = float((flows - flows.T).abs().max())
    assert (imbalance < 1e-12) == is_reversible, imbalance
    sizes = torch.linalg.eigvals(matrix).abs().sort(descending=True).values
    assert sizes[1] < 1 - 1e-6, f"eigenvalues {sizes.tolist()}"


TARGETS = {"bits": bits(), "spins": bits((-1.0, 1.0)), "categories": categories(), "ordinals": ordinals()}
every_target = pytest.mark.parametrize("name", list(TARGETS))


def level_of(target: Target):
    """The value of each site in each state, ``(S, D)``."""
    states = target.states
    if target.space.kind == "categorical":
        return states.argmax(-1)
    return ((states - target.space.levels[0]) / (target.space.levels[1] - target.space.levels[0])).long()


def rank_of_change(target: Target):
    """Of proposals of another value: which of the others it is, ``(site, (n, 2)) -> (n,)``."""
    level = level_of(target)

    def observe(site, ends):
        before, after = level[ends[:, 0], site], level[ends[:, 1], site]
        return after - (after > before).long()

    return observe
