"""One site at a time, for any energy over any discrete space: Metropolis, metropolised Gibbs, and the heat bath of Gibbs."""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, fields, loops, random, tree
from ..spaces.space import Space
from ..types import Energy, Info, Key, Number, Params, Position, Sampler, Tree
from ._heat_bath import DiscreteInfo, value_of
from ._moves import checked, door, space_for

__all__ = [
    "SingleSiteNoise",
    "SingleSiteState",
    "SingleSiteTuning",
    "check_scan",
    "masked",
    "metropolised_gibbs",
    "num_values_at",
    "single_site",
    "single_site_metropolis",
    "value_at",
    "with_value",
]


class SingleSiteState(NamedTuple):
    """A position, with the energy ``()`` there."""

    position: Position
    energy: Tensor


class SingleSiteNoise(NamedTuple):
    """For each update a uniform number for the value, and one for the test, ``(U,)``; ``choice`` of the site of a random scan."""

    value: Tensor
    test: Tree
    choice: Tree


class SingleSiteTuning(NamedTuple):
    """The temperature ``()``."""

    temperature: Tensor


def single_site_metropolis(
    energy: Energy, space: Tree | None = None, *, scan: str = "random", temperature: Number = 1.0
) -> Sampler:
    r"""Metropolis, one site at a time.

    Proposes another value of a site, all with one probability, and accepts it with :math:`\min(1, e^{(E(x) - E(y)) / T})`. One
    energy a site.

    Args:
        energy: ``(params, x) -> ()``.
        space: of the positions, from :mod:`funcebm.spaces`; None is that of
            the energy, if it has one that fits, else bits.
        scan: ``"random"``, one site a step, reversible; ``"systematic"``, all sites in their order, invariant but not reversible;
            ``"palindromic"``, forth and back, reversible. On two values where the energy hardly changes every proposal is
            accepted, so that a systematic scan flips all sites and a palindromic one flips them back: keep to the random scan
            at high temperatures, and for the hot end of tempering and annealing. Static.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``SingleSiteState`` and ``DiscreteInfo``; its rate is the mean over sites.

    Raises:
        ValueError: a scan that is none of these, a space with real leaves, a position off the levels.

    Reference: Metropolis, Rosenbluth, Rosenbluth, Teller and Teller (1953), Journal of Chemical Physics 21:1087-1092.

    >>> sampler = single_site_metropolis(lambda params, x: -params * x.sum())
    >>> state, info = sampler(random.key(0), torch.tensor(2.0), sampler.init(torch.tensor(2.0), torch.zeros(5)))
    >>> float(state.position.sum())
    1.0
    """
    check_scan(scan)
    return single_site(energy, space, "metropolis", scan, temperature)


def metropolised_gibbs(
    energy: Energy, space: Tree | None = None, *, scan: str = "random", temperature: Number = 1.0
) -> Sampler:
    r"""Metropolised (modified) Gibbs: another value from the conditional of a site, with a test.

    With the conditional :math:`p` of a site, proposes :math:`v \ne x_i` with probability :math:`p_v / (1 - p_{x_i})` and accepts
    with :math:`\min(1, (1 - p_{x_i}) / (1 - p_v))`. It stays less often than Gibbs does, and so has smaller variances
    (Peskun); for two values it is Metropolis. One energy for each other value.

    Args:
        energy: ``(params, x) -> ()``.
        space: of the positions, from :mod:`funcebm.spaces`; None is that of
            the energy, if it has one that fits, else bits.
        scan: as for :func:`single_site_metropolis`. Static.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``SingleSiteState`` and ``DiscreteInfo``.

    Raises:
        ValueError: as for :func:`single_site_metropolis`.

    Reference: Liu (1996), Biometrika 83(3):681-682.

    >>> from funcebm import spaces
    >>> space = spaces.categorical(2, 3)
    >>> sampler = metropolised_gibbs(lambda params, x: (x * params).sum(), space)
    >>> start = spaces.from_integers(space, torch.tensor([0, 2]))
    >>> state, info = sampler(random.key(0), torch.eye(3)[:2], sampler.init(torch.eye(3)[:2], start))
    >>> state.position.sum(-1)
    tensor([1., 1.])
    """
    check_scan(scan)
    return single_site(energy, space, "metropolised", scan, temperature)


def check_scan(scan: str) -> None:
    """The orders in which sites, or blocks of them, are visited."""
    known = ("systematic", "palindromic", "random")
    checks.require(scan in known, f"scan must be one of {known}", scan, 'Write scan="systematic", for example.')


def single_site(energy: Energy, space: Tree | None, rule: str, scan: str, temperature: Number) -> Sampler:
    """The sampler of a rule, ``"heat_bath"``, ``"metropolis"`` or ``"metropolised"``."""
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    space_of = space_for("a sampler of single sites", space, energy)

    scalar = fields.value(energy)

    def init(params: Params, position: Position) -> SingleSiteState:
        own = checked(space_of, position)
        return SingleSiteState(position, door(own, position, scalar(params, position)))

    def draw(key: Key, position: Position) -> SingleSiteNoise:
        key_value, key_test, key_choice = random.split(key, 3)
        num, dtype = _num_sites(space_of(position)), tree.first(position).dtype
        count = {"random": 1, "systematic": num, "palindromic": 2 * num}[scan]
        return SingleSiteNoise(
            random.uniform(key_value, (count,), dtype=dtype),
            () if rule == "heat_bath" else random.uniform(key_test, (count,), dtype=dtype),
            random.randint(key_choice, (1,), 0, num) if scan == "random" else (),
        )

    def step(
        params: Params, tuning: SingleSiteTuning, state: SingleSiteState, noise: SingleSiteNoise
    ) -> tuple[SingleSiteState, DiscreteInfo]:
        own = space_of(state.position)

        def update(state: SingleSiteState, x: tuple[Tensor, ...]) -> tuple[SingleSiteState, Tree]:
            site, uniform, *test = x
            values = _energies(scalar, own, params, state, site)
            current = _is_current(own, state.position, site, len(values))
            new, rate = _rules[rule](-values / tuning.temperature, current, uniform, *test)
            after = SingleSiteState(with_value(own, state.position, site, new), masked(new, values))
            is_finite = torch.isfinite(after.energy) & ~torch.isnan(values).any()
            after = tree.where(is_finite, after, state)
            return after, (rate, (new != current.to(torch.int64).argmax()) & is_finite, ~is_finite)

        order = torch.arange(_num_sites(own), device=state.energy.device)
        sites = {"systematic": order, "palindromic": torch.cat([order, order.flip(0)]), "random": noise.choice}[scan]
        xs = (sites, noise.value, *(() if rule == "heat_bath" else (noise.test,)))
        after, (rates, are_moved, are_divergent) = loops.scan(update, state, xs)
        is_moved = are_moved.any()
        info = Info(
            acceptance_rate=torch.ones_like(rates[0]) if rule == "heat_bath" else rates.mean(),
            is_accepted=torch.ones_like(is_moved) if rule == "heat_bath" else is_moved,
            is_divergent=are_divergent.any(),
            num_gradients=torch.zeros((), dtype=torch.int32, device=rates.device),
            energy=after.energy,
        )
        return after, DiscreteInfo.of(info, rates.sum())

    step.__qualname__ = f"{_NAMES[rule]}.step"
    return Sampler(init, draw, step, SingleSiteTuning(torch.as_tensor(temperature)), adaptation="unchanged")


_NAMES = {"heat_bath": "gibbs", "metropolis": "single_site_metropolis", "metropolised": "metropolised_gibbs"}


# -- the rules: (log weights (V,), current (V,) bool, uniform, test) -> (value, the probability of a move) --------------


def _heat_bath(weights: Tensor, current: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    chances = torch.softmax(weights, -1)
    return value_of(uniform, chances), torch.where(current, 0, chances).sum()


def _metropolis(weights: Tensor, current: Tensor, uniform: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    others = (weights > -torch.inf) & ~current
    return _tested(weights, current, others / others.sum(), uniform, test, weights)


def _metropolised(weights: Tensor, current: Tensor, uniform: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    # with p_v = w_v / W: the rate (1 - p_x) / (1 - p_v) is (W - w_x) / (W - w_v), each a sum that leaves one value out
    leave_out = torch.eye(len(weights), dtype=torch.bool, device=weights.device)
    rests = torch.logsumexp(torch.where(leave_out, -torch.inf, weights), -1)
    proposal = torch.softmax(torch.where(current, -torch.inf, weights), -1)
    return _tested(weights, current, proposal, uniform, test, -rests)


def _tested(
    weights: Tensor, current: Tensor, proposal: Tensor, uniform: Tensor, test: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Proposes a value, and accepts it with ``min(1, exp(the difference of the scores))``."""
    new = value_of(uniform, proposal)
    rate = (masked(new, scores) - torch.where(current, scores, 0).sum()).clamp(max=0).exp()
    old = current.to(torch.int64).argmax()
    return torch.where(test < rate, new, old), rate


_Rule = Callable[..., tuple[Tensor, Tensor]]
_rules: dict[str, _Rule] = {"heat_bath": _heat_bath, "metropolis": _metropolis, "metropolised": _metropolised}


# -- sites --------------------------------------------------------------------------------------------------------


def _num_sites(space: Tree) -> int:
    return sum(part.num_sites for part in tree.leaves(space))


def _num_values(space: Tree) -> int:
    return max(part.num_values for part in tree.leaves(space))


def masked(index: Tensor, values: Tensor) -> Tensor:
    """``values[index]``, as a sum: what is elsewhere may be infinite."""
    return torch.where(torch.arange(len(values), device=values.device) == index, values, 0).sum()


def _here(space: Tree, site: Tensor) -> list[Tensor]:
    """For each leaf whether its sites are the one with this number, ``(*sites)``."""
    found, first = [], 0
    for part in tree.leaves(space):
        order = torch.arange(first, first + part.num_sites, device=site.device).reshape(part.sites)
        found.append(order == site)
        first += part.num_sites
    return found


def with_value(space: Tree, position: Position, site: Tensor, value: Tensor) -> Position:
    """The position with another value at one site."""
    leaves, structure = tree.flatten(position)
    moved = []
    for part, x, here in zip(tree.leaves(space), leaves, _here(space, site), strict=True):
        if part.kind == "categorical":
            row = (torch.arange(part.shape[-1], device=x.device) == value).to(x.dtype)
            moved.append(torch.where(here[..., None], row, x))
        else:
            low, unit = _line(part)
            moved.append(torch.where(here, low + unit * value.to(x.dtype), x))
    return tree.unflatten(structure, moved)


def _line(space: Space) -> tuple[float, float]:
    return (0.0, 1.0) if space.kind == "ordinal" else (space.levels[0], space.levels[1] - space.levels[0])


def _is_current(space: Tree, position: Position, site: Tensor, num: int) -> Tensor:
    """Which value one site has, ``(V,)`` bool."""
    found = []
    order = torch.arange(num, device=site.device)
    for part, x, here in zip(tree.leaves(space), tree.leaves(position), _here(space, site), strict=True):
        if part.kind == "categorical":
            row = torch.where(here[..., None], x, 0).reshape(-1, part.shape[-1]).sum(0)
            found.append(torch.nn.functional.pad(row, (0, num - part.shape[-1])) == 1)
        else:
            low, unit = _line(part)
            value = torch.where(here, (x - low) / unit, 0).sum().round()
            found.append((order == value) & here.any())
    return torch.stack(found).any(0)


def value_at(space: Tree, position: Position, site: Tensor) -> Tensor:
    """Which value one site has, ``()`` int64."""
    return _is_current(space, position, site, _num_values(space)).to(torch.int64).argmax()


def num_values_at(space: Tree, site: Tensor) -> Tensor:
    """How many values one site has. ``()``."""
    sizes = [size for part in tree.leaves(space) for size in part.sizes]
    return masked(site, torch.tensor(sizes, device=site.device))


def _energies(scalar: Energy, space: Tree, params: Params, state: SingleSiteState, site: Tensor) -> Tensor:
    """The energy for each value of one site, ``(V,)``; infinite for those that it does not have."""
    num = _num_values(space)
    order = torch.arange(num, device=site.device)
    if num == 2:
        current = _is_current(space, state.position, site, 2)
        other = scalar(params, with_value(space, state.position, site, current[0].to(torch.int64)))
        return torch.where(current, state.energy, other)
    values = vmap(lambda value: scalar(params, with_value(space, state.position, site, value)))(order)
    sizes = {part.num_values for part in tree.leaves(space)} | {s for part in tree.leaves(space) for s in part.sizes}
    return values if len(sizes) == 1 else torch.where(order < num_values_at(space, site), values, torch.inf)
