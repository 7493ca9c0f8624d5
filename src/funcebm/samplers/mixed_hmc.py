"""Mixed HMC: discrete sites are visited during one Hamiltonian trajectory of the real leaves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, fields, loops, metrics, random, spaces, tree
from ..integrators.symplectic import PhasePoint, leapfrog
from ..spaces.space import Space
from ..types import Energy, Key, MetricLike, Number, Params, Position, Sampler, Tree
from ._heat_bath import DiscreteInfo
from ._moves import num_changed, on_levels
from .mala import MalaState as MixedHMCState
from .metropolis import metropolis_hastings
from .single_site import masked, num_values_at, value_at, with_value

__all__ = ["MixedHMCNoise", "MixedHMCState", "MixedHMCTuning", "mixed_hmc"]


class MixedHMCNoise(NamedTuple):
    """Standard normals like the real leaves, kinetic energies ``(D,)`` of the sites, their order and values, a uniform ``()``.

    Attributes:
        sites: which are visited, ``(V,)`` int64.
        values: a uniform number for the value that each visit proposes, ``(V,)``.
    """

    normal: Tree
    kinetic: Tensor
    sites: Tensor
    values: Tensor
    uniform: Tensor


class MixedHMCTuning(NamedTuple):
    """The step size ``()``, the metric of the real leaves, and the temperature ``()``."""

    step_size: Tensor
    metric: metrics.Diagonal | metrics.Dense
    temperature: Tensor


def mixed_hmc(
    energy: Energy,
    space: dict[str, Space],
    *,
    step_size: Number = 0.1,
    num_visits: int = 4,
    num_leapfrog: int = 4,
    inverse_mass: MetricLike = None,
    temperature: Number = 1.0,
) -> Sampler:
    r"""Mixed Hamiltonian Monte Carlo over real and discrete leaves.

    Real leaves have momenta :math:`p`, discrete sites kinetic energies :math:`k_i \sim \mathrm{Exp}(1)`. One long trajectory
    alternates ``num_visits + 1`` stretches of leapfrog with visits of one random site, which proposes another value, all with one
    probability, and takes it where :math:`k_i > \Delta E / T`; then :math:`k_i` pays for it,

    .. math:: k_i \leftarrow k_i - \Delta E / T, \qquad H = E / T + p^\top M^{-1} p / 2 + \sum_i k_i .

    So visits keep H exactly, and the final test, :math:`\min(1, e^{-\Delta H})`, is about the leapfrog alone. The momenta go on
    through the visits: real leaves travel far while sites change, unlike in a cycle of Gibbs and short HMC. It leaves
    :math:`e^{-E/T}` invariant. Costs ``(num_visits + 1) * num_leapfrog + num_visits`` gradients.

    Args:
        energy: ``(params, x) -> ()`` of a dict of leaves.
        space: the spaces of the leaves by name, :func:`funcebm.spaces.real` and discrete ones, at least one of each.
        step_size: of the leapfrog, in units of time, above zero. ``()``.
        num_visits: visits of single sites in a trajectory. Static.
        num_leapfrog: leapfrog steps before, between and after the visits. Static.
        inverse_mass: :math:`M^{-1}` of the real leaves, as for :func:`~funcebm.samplers.hmc`; of one real leaf like that leaf, of
            several a dict.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``MalaState``, whose gradient is that of the real leaves, ``DiscreteInfo`` and
        :class:`MixedHMCTuning`.

    Raises:
        ValueError: a number that is not positive, a space without real or without discrete leaves; from ``init`` and at the
            start of a run, a position off the levels.

    Reference: Zhou (2020), NeurIPS 33, "Mixed Hamiltonian Monte Carlo for mixed discrete and continuous variables",
    arXiv:1909.04852, with the symmetric proposal, for which its correction is right.

    >>> from funcebm import spaces
    >>> energy = lambda params, x: ((x["x"] - 3 * x["z"]) ** 2).sum() / 2
    >>> sampler = mixed_hmc(energy, {"x": spaces.real(2), "z": spaces.binary(2)}, step_size=0.3)
    >>> state, info = sampler(random.key(0), (), sampler.init((), {"x": torch.zeros(2), "z": torch.zeros(2)}))
    >>> int(info.num_gradients)
    24
    """
    checks.positive("step_size", step_size, "Try 0.1, and smaller where chains diverge.")
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    checks.positive_int("num_visits", num_visits)
    checks.positive_int("num_leapfrog", num_leapfrog)
    right = isinstance(space, dict) and all(isinstance(part, Space) for part in space.values())
    fix = 'Write {"x": spaces.real(2), "z": spaces.binary(3)}.'
    checks.require(right, "space must be a dict of spaces", repr(space), fix, TypeError)
    real = sorted(name for name, part in space.items() if part.kind == "real")
    discrete = {name: part for name, part in space.items() if part.kind != "real"}
    needs = "mixed_hmc needs a real and a discrete leaf"
    fix = "Use hmc for real leaves alone, gibbs for discrete ones."
    checks.require(bool(real) and bool(discrete), needs, str({n: p.kind for n, p in space.items()}), fix)
    metric = metrics.of(inverse_mass)
    check_shape = metrics.shape_check(metric)
    num_sites = sum(part.num_sites for part in discrete.values())

    def split(position: Position) -> tuple[Tree, Tree]:
        moving = {name: position[name] for name in real}
        return moving[real[0]] if len(real) == 1 else moving, {name: position[name] for name in discrete}

    def join(moving: Tree, still: Tree) -> Position:
        return {**({real[0]: moving} if len(real) == 1 else moving), **still}

    def at(params: Params, moving: Tree, still: Tree) -> tuple[Tensor, Tree]:
        return fields.value_and_gradient(lambda params, moving: energy(params, join(moving, still)))(params, moving)

    def init(params: Params, position: Position) -> MixedHMCState:
        checks.one_structure("positions", position, "the space", space)
        moving, still = split(position)
        check_shape(moving)
        spaces.check(space, position, "positions")
        value, gradient = at(params, moving, still)
        return MixedHMCState(position, torch.where(on_levels(discrete, still), value, torch.nan), gradient)

    def draw(key: Key, position: Position) -> MixedHMCNoise:
        key_normal, key_kinetic, key_sites, key_values, key_accept = random.split(key, 5)
        moving, _ = split(position)
        dtype = tree.first(moving).dtype
        return MixedHMCNoise(
            tree.normal_like(key_normal, moving),
            random.exponential(key_kinetic, (num_sites,), dtype=dtype),
            random.randint(key_sites, (num_visits,), 0, num_sites),
            random.uniform(key_values, (num_visits,), dtype=dtype),
            random.uniform(key_accept, dtype=dtype),
        )

    def step(
        params: Params, tuning: MixedHMCTuning, state: MixedHMCState, noise: MixedHMCNoise
    ) -> tuple[MixedHMCState, DiscreteInfo]:
        moving, still = split(state.position)
        momentum = metrics.momentum(tuning.metric, noise.normal)

        def stretch(carry: Tree, still: Tree) -> Tree:
            """Some leapfrog steps with the sites as they are; the gradient is over the temperature."""

            def tempered(moving: Tree) -> tuple[Tensor, Tree]:
                value, gradient = at(params, moving, still)
                return value, tree.scale(1 / tuning.temperature, gradient)

            def one(carry: Tree) -> Tree:
                return leapfrog(tempered, tuning.metric, tuning.step_size, carry[0])

            return loops.repeat(one, carry, num_leapfrog)

        def visit(carry: Tree, x: tuple[Tensor, Tensor]) -> Tree:
            (point, value), still, kinetic = carry
            point, value = stretch((point, value), still)
            site, uniform = x
            current = value_at(discrete, still, site)
            num_others = num_values_at(discrete, site) - 1
            other = torch.minimum((uniform * num_others).to(torch.int64), num_others - 1)
            proposed = with_value(discrete, still, site, other + (other >= current).to(torch.int64))
            new_value, gradient = at(params, point.position, proposed)
            left = masked(site, kinetic) - (new_value - value) / tuning.temperature
            is_taken = left > 0  # never where it is not a number
            here = torch.arange(num_sites, device=kinetic.device) == site
            kinetic = torch.where(here & is_taken, left, kinetic)
            moved = (point._replace(gradient=tree.scale(1 / tuning.temperature, gradient)), new_value)
            return tree.where(is_taken, moved, (point, value)), tree.where(is_taken, proposed, still), kinetic

        point = PhasePoint(moving, momentum, tree.scale(1 / tuning.temperature, state.gradient))
        carry = ((point, state.energy), still, noise.kinetic)
        (point, value), still, kinetic = loops.fold(visit, carry, (noise.sites, noise.values))
        point, value = stretch((point, value), still)
        position = join(point.position, still)
        proposal = MixedHMCState(position, value, tree.scale(tuning.temperature, point.gradient))
        log_ratio = (state.energy - value) / tuning.temperature + noise.kinetic.sum() - kinetic.sum()
        log_ratio = log_ratio + metrics.kinetic_energy(tuning.metric, momentum)
        log_ratio = log_ratio - metrics.kinetic_energy(tuning.metric, point.momentum)
        num_gradients = (num_visits + 1) * num_leapfrog + num_visits
        after, info = metropolis_hastings(log_ratio, noise.uniform, proposal, state, num_gradients=num_gradients)
        changed = num_changed(discrete, split(state.position)[1], still)
        return after, DiscreteInfo.of(info, info.acceptance_rate * changed)

    tuning = MixedHMCTuning(torch.as_tensor(step_size), metric, torch.as_tensor(temperature))
    return Sampler(init, draw, step, tuning, target_acceptance=0.8, adaptation="step_size")
