r"""Non-reversible parallel tempering: a ladder of chains from a flat density to the target, whose neighbours swap places."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, random, tree
from ..distributed.agreement import failing_together
from ..distributed.mesh import Mesh, single
from ..energies._carried import with_space_of
from ..types import Energy, Key, Params, Position, Sampler, Tree
from ._relocation import by_its_init, carry_over, relocation
from ._tempering_ranks import Parts, shared_tempering, swaps, target_draws
from .constraints import takes_energy

__all__ = [
    "CommunicationBarrier",
    "Ladder",
    "ParallelTemperingInfo",
    "ParallelTemperingNoise",
    "ParallelTemperingState",
    "ParallelTemperingTuning",
    "communication_barrier",
    "num_restarts",
    "parallel_tempering",
    "target_draws",
    "tune_ladder",
]


class Ladder(NamedTuple):
    """All rungs of a ladder, for ``init`` in place of the position of one, to go on with them under other params.

    Attributes:
        positions: the hottest first, every leaf leads with the axis K.
        num_scans: the number of steps so far. ``()`` int64.
    """

    positions: Position
    num_scans: Tensor


class ParallelTemperingState(NamedTuple):
    """A ladder of K rungs, the hottest first.

    Attributes:
        position: of the last rung, the target's.
        rungs: the states of the local sampler; every leaf leads with the axis K.
        computed_at: the inverse temperatures that energies and gradients in ``rungs`` were computed with. ``(K,)``.
        replica: which of the K copies is on each rung; they start in order. ``(K,)`` int64.
        num_scans: the number of steps so far; its parity says which pairs swap next. ``()`` int64.
    """

    position: Position
    rungs: Any
    computed_at: Tensor
    replica: Tensor
    num_scans: Tensor

    def carry_over(self, fresh: ParallelTemperingState) -> ParallelTemperingState:
        """The ladder where something else moved the target's chain: only the last rung follows."""
        is_cold = torch.arange(self.replica.shape[0], device=self.replica.device) == self.replica.shape[0] - 1
        follow = vmap(lambda is_cold, old, new: tree.where(is_cold, carry_over(old, new), old))
        rungs = follow(is_cold, self.rungs, fresh.rungs)
        computed_at = torch.where(is_cold, fresh.computed_at, self.computed_at)
        return self._replace(position=fresh.position, rungs=rungs, computed_at=computed_at)


class ParallelTemperingNoise(NamedTuple):
    """The noise of the local sampler on every rung, and a uniform for each pair of neighbours, ``(K - 1,)``."""

    rungs: Tree
    uniform: Tensor


class ParallelTemperingTuning(NamedTuple):
    """The ladder ``(K,)``, and the tunings of the local samplers, every leaf with a leading axis K."""

    inverse_temperatures: Tensor
    rungs: Tree


class ParallelTemperingInfo(NamedTuple):
    """The fields of :class:`~funcebm.types.Info` for the target's chain, and what the ladder does.

    ``num_gradients`` counts those of all rungs.

    Attributes:
        swap_rate: the probability that a pair of neighbours would swap, of all pairs, not only of those that may swap in this
            scan, so that it can be averaged. ``(K - 1,)``.
        is_swapped: whether the pair swapped. ``(K - 1,)`` bool.
        rung_acceptance_rate: of the local sampler. ``(K,)``.
        replica: which copy is on each rung after the swaps. ``(K,)`` int64.
    """

    acceptance_rate: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    num_gradients: Tensor
    energy: Tensor
    swap_rate: Tensor
    is_swapped: Tensor
    rung_acceptance_rate: Tensor
    replica: Tensor


class CommunicationBarrier(NamedTuple):
    """``total`` ``()``, the sum of ``rejections`` ``(K - 1,)``, which are those of the swaps between neighbours."""

    total: Tensor
    rejections: Tensor


@takes_energy
def parallel_tempering(
    energy: Energy,
    make_sampler: Callable[[Energy, float], Sampler],
    inverse_temperatures: Sequence[float] | Tensor,
    *,
    reference: Energy | None = None,
    mesh: Mesh | None = None,
) -> Sampler[ParallelTemperingState, ParallelTemperingInfo, ParallelTemperingTuning]:
    r"""Non-reversible parallel tempering; one chain is a whole ladder.

    The rungs :math:`0 \le \beta_1 < \dots < \beta_K = 1` have the densities :math:`e^{-E_\beta}` on a path from a reference to
    the target,

    .. math:: E_\beta = (1 - \beta) E_0 + \beta E = E_0 + \beta V, \qquad V = E - E_0.

    A step (a *scan*) moves every rung by a local sampler, and then swaps the positions of the pairs (1, 2), (3, 4), ... in even
    scans, (2, 3), (4, 5), ... in odd ones, each with the probability

    .. math:: \alpha_i = \min(1, e^{(\beta_{i+1} - \beta_i)(V(x_{i+1}) - V(x_i))}).

    The product of all densities is invariant, and ``state.position``, the last rung, is a draw of the target. Hot rungs cross
    from mode to mode. The fixed order of pairs makes positions travel up and down the ladder where a random one makes them
    diffuse: the rate of restarts, positions that come all the way from the hottest rung, is at best

    .. math:: \tau = \Big(2 + 2 \sum_i \frac{r_i}{1 - r_i}\Big)^{-1} \to \frac{1}{2 + 2\Lambda}, \qquad
              r_i = 1 - \mathrm{E}\,\alpha_i, \quad \Lambda \approx \sum_i r_i

    with the communication barrier :math:`\Lambda`, which does not depend on the ladder where that is fine. About
    :math:`2\Lambda` rungs with equal rejections are best: see :func:`communication_barrier` and :func:`tune_ladder`.

    Args:
        energy: :math:`E`, ``(params, x) -> ()``.
        make_sampler: ``(energy, beta) -> sampler``, the local sampler of a rung. All rungs have one kernel, that of the last,
            and a tuning of their own: scale the step size with beta here. The width of :math:`e^{-\beta E}` is about
            :math:`\beta^{-1/2}`: so ``step_size / beta**0.5`` for samplers of the Hamiltonian kind and random walks,
            ``step_size / beta`` for those of the Langevin kind. Persistent parts of its state, such as a momentum, stay on
            their rung.
        inverse_temperatures: :math:`\beta_1 < \dots < \beta_K = 1`, two or more. ``(K,)``.
        reference: :math:`E_0`, ``(params, x) -> ()`` with the same params, with the same support as :math:`E`.
            None is 0: then the first beta must be above zero. With a reference a scan costs one gradient for each rung more,
            because states must be evaluated again after a swap; without one, energies at other temperatures follow by scaling.
        mesh: of ranks that share the ladder, a divisor of K of them: each moves its replicas, and temperatures go from one to
            another in place of positions. Then call ``funcebm.sample`` on all of them with the same positions, and without its
            ``mesh``; :func:`target_draws` has the draws. The local sampler must keep nothing but position, energy and gradient.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``ParallelTemperingState``, ``ParallelTemperingInfo`` and
        ``ParallelTemperingTuning``. Positions are those of one rung: ``init`` puts them on all, or takes a :class:`Ladder` of
        one for each. The ladder of temperatures is a part of the tuning, so that another one of the same length compiles
        nothing.

    Raises:
        ValueError: a ladder that does not increase to 1, or local samplers that differ in kind or have a temperature of their
            own.
        TypeError: a ``make_sampler`` that is no function of two arguments, or does not return a sampler.

    Reference: Syed, Bouchard-Côté, Deligiannidis and Doucet (2022), Journal of the Royal Statistical Society B 84(2):321-350,
    arXiv:1905.02939. They swap outcomes of one parity and average those; we average the probabilities of all.

    >>> from funcebm import samplers
    >>> energy = lambda params, x: (x.abs() - 4).square().sum()  # two modes
    >>> local = lambda energy, beta: samplers.hmc(energy, step_size=0.3 / beta**0.5, num_leapfrog=5)
    >>> sampler = parallel_tempering(energy, local, [0.05, 0.2, 1.0])
    >>> state, info = sampler(random.key(0), (), sampler.init((), torch.zeros(2)))
    >>> state.position.shape, state.rungs.position.shape, info.swap_rate.shape
    (torch.Size([2]), torch.Size([3, 2]), torch.Size([2]))
    """

    def path(path_params: tuple[Params, Tensor], position: Position) -> Tensor:
        params, beta = path_params
        value = beta * energy(params, position)
        return value if reference is None else value + (1 - beta) * reference(params, position)

    with_space_of(path, energy, reference)
    with failing_together(single if mesh is None else mesh):
        ladder = _checked_ladder(inverse_temperatures, has_reference=reference is not None)
        local, tunings = _local_samplers(make_sampler, path, ladder)
    num_rungs = len(ladder)
    in_rungs = (None, 0)  # of the params of the path

    def init(params: Params, position: Position | Ladder) -> ParallelTemperingState:
        betas = ladder.to(tree.first(position))
        replica = torch.arange(num_rungs, device=betas.device)
        if not isinstance(position, Ladder):
            position = Ladder(tree.broadcast(position, num_rungs), torch.zeros_like(replica[0]))
        rungs = vmap(local.init, (in_rungs, 0))((params, betas), position.positions)
        last = tree.map(lambda leaf: leaf[-1], position.positions)
        return ParallelTemperingState(last, rungs, betas, replica, position.num_scans)

    def draw(key: Key, position: Position) -> ParallelTemperingNoise:
        key_rungs, key_swap = random.split(key)
        noise = vmap(local.draw, (0, None))(random.split(key_rungs, num_rungs), position)
        uniform = random.uniform(key_swap, (num_rungs - 1,), dtype=tree.first(position).dtype)
        return ParallelTemperingNoise(noise, uniform)

    def at_ladder(path_params: tuple[Params, Tensor], state: Any, factor: Tensor) -> Any:
        """The state of a rung with the energy and the gradient of its own beta."""
        known = {"position": state.position}
        if reference is None and local.relocation is None:  # the powers of one density
            caches = relocation(local).tell(state)
            known.update(tree.scale(factor, {name: value for name, value in caches.items() if name != "position"}))
        return relocation(local).to(path_params, state, known)

    def differences(params: Params, rungs: Any, infos: Any, betas: Tensor) -> tuple[Tensor, Tensor]:
        """The energy of the target at each position, and how much it lies above that of the reference."""
        if reference is None:
            return infos.energy / betas, infos.energy / betas
        target = vmap(energy, (None, 0))(params, rungs.position)
        return target, target - vmap(reference, (None, 0))(params, rungs.position)

    def num_moves(rungs: Any) -> int:
        is_plain = reference is not None and local.relocation is None
        return num_rungs * relocation(local).num_gradients(rungs, {}) if is_plain else 0

    tuning = ParallelTemperingTuning(ladder, tunings)
    if mesh is not None and mesh.size > 1:
        return shared_tempering(Parts(local, ladder, tuning, at_ladder, differences, num_moves), mesh)

    def step(
        params: Params, tuning: ParallelTemperingTuning, state: ParallelTemperingState, noise: ParallelTemperingNoise
    ) -> tuple[ParallelTemperingState, ParallelTemperingInfo]:
        betas = tuning.inverse_temperatures
        path_params = (params, betas)
        rungs = vmap(at_ladder, (in_rungs, 0, 0))(path_params, state.rungs, betas / state.computed_at)
        rungs, infos = vmap(local.step, (in_rungs, 0, 0, 0))(path_params, tuning.rungs, rungs, noise.rungs)

        target, difference = differences(params, rungs, infos, betas)
        swap_rate, is_swapped, source = swaps(betas, difference, state.num_scans, noise.uniform)
        told = relocation(local._replace(relocation=None)).tell(rungs)  # what belongs to the positions
        moved = tree.map(lambda leaf: leaf[source], told)
        replica = state.replica[source]
        after = ParallelTemperingState(
            position=tree.map(lambda leaf: leaf[-1], moved["position"]),
            rungs=rungs._replace(**moved),
            computed_at=betas[source],
            replica=replica,
            num_scans=state.num_scans + 1,
        )
        info = ParallelTemperingInfo(
            acceptance_rate=infos.acceptance_rate[-1],
            is_accepted=infos.is_accepted[-1],
            is_divergent=infos.is_divergent[-1],
            num_gradients=infos.num_gradients.sum(0, dtype=torch.int32) + num_moves(rungs),
            energy=target[source][-1],
            swap_rate=swap_rate,
            is_swapped=is_swapped,
            rung_acceptance_rate=infos.acceptance_rate,
            replica=replica,
        )
        return after, info

    follow = by_its_init(init, lambda state: num_rungs * relocation(local).num_gradients(state.rungs, {}))
    return Sampler(init, draw, step, tuning, relocation=follow)


# -- the ladder ---------------------------------------------------------------------------------------------------


def communication_barrier(info: ParallelTemperingInfo) -> CommunicationBarrier:
    r"""The rejections of the swaps, :math:`r_i = 1 - \mathrm{mean}\,\alpha_i`, and their sum, about :math:`\Lambda`.

    Args:
        info: of a run, with any leading axes, over which the mean is taken; leave the burn-in out.

    The barrier is :math:`\Lambda = \int \tfrac12 \mathrm{E}|V - V'|\, d\beta` over the ladder, with :math:`V, V'` of
    independent draws at one beta; the sum of the rejections is that to second order in the gaps.

    Returns:
        A :class:`CommunicationBarrier`.

    Reference: Syed et al. (2022), as of :func:`parallel_tempering`.

    >>> from funcebm import chains, samplers
    >>> local = lambda energy, beta: samplers.random_walk(energy, step_size=2 / beta**0.5)
    >>> sampler = parallel_tempering(lambda params, x: (x**2).sum() / 2, local, [0.25, 0.5, 1.0])
    >>> run = chains.sample(random.key(0), sampler, (), torch.zeros(50, 2), num_samples=20, num_burn_in=20, jit=False)
    >>> communication_barrier(run.info).rejections.shape  # both near 1/3, (1 - 1/2) / (1 + 1/2)
    torch.Size([2])
    """
    rejections = 1 - info.swap_rate.reshape(-1, info.swap_rate.shape[-1]).mean(0)
    return CommunicationBarrier(rejections.sum(), rejections)


def tune_ladder(
    inverse_temperatures: Sequence[float] | Tensor, rejections: Tensor, num_rungs: int | None = None
) -> Tensor:
    r"""A ladder with equal rejections: :math:`\beta_k = \Lambda^{-1}(\Lambda(1)\, (k - 1) / (K - 1))`.

    :math:`\Lambda(\beta_k) = \sum_{i<k} r_i`, and lines in between. Repeat runs and tuning a few times, each run longer.

    Args:
        inverse_temperatures: the ladder of a run. ``(K,)``.
        rejections: from :func:`communication_barrier`. ``(K - 1,)``.
        num_rungs: of the new ladder; by default as many.

    Returns:
        The new ladder ``(num_rungs,)``, with the ends of the old one.

    Raises:
        ValueError: rejections that are not one for each pair, or fewer than two rungs.

    Reference: Syed et al. (2022), as of :func:`parallel_tempering`; they interpolate by cubics.

    >>> tune_ladder([0.1, 0.5, 1.0], torch.tensor([0.6, 0.2]))
    tensor([0.1000, 0.3667, 1.0000])
    """
    ladder = _checked_ladder(inverse_temperatures, has_reference=True).to(rejections)
    must = f"rejections must have the shape ({len(ladder) - 1},), one for each pair of neighbours"
    right = rejections.shape == (len(ladder) - 1,)
    checks.require(right, must, str(tuple(rejections.shape)), "Use communication_barrier(samples.info).rejections.")
    num_rungs = len(ladder) if num_rungs is None else num_rungs
    checks.positive_int("num_rungs", num_rungs, minimum=2)
    steps = rejections.clamp(min=1e-6)  # a pair that never rejects
    barrier = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
    wanted = barrier[-1] * torch.arange(1, num_rungs - 1).to(barrier) / (num_rungs - 1)
    right_end = torch.searchsorted(barrier, wanted).clamp(1, len(ladder) - 1)
    low, high = barrier[right_end - 1], barrier[right_end]
    inner = torch.lerp(ladder[right_end - 1], ladder[right_end], (wanted - low) / (high - low))
    return torch.cat([ladder[:1], inner, ladder[-1:]])


def num_restarts(info: ParallelTemperingInfo) -> Tensor:
    """How often a replica reached the target's rung that was last on the hottest one. ``(C,)``.

    Args:
        info: of a run with every step kept (``thin=1``): ``replica`` is ``(C, N, K)``.

    In the long run these *tempered restarts* are as many as the round trips.

    Returns:
        How many, of each chain. ``(C,)``.

    Reference: Syed et al. (2022), as of :func:`parallel_tempering`.

    >>> from types import SimpleNamespace
    >>> up_and_down = torch.tensor([[[0, 1], [1, 0], [0, 1]]])  # two rungs, three steps: both replicas travel
    >>> num_restarts(SimpleNamespace(replica=up_and_down))
    tensor([2])
    """
    replica = info.replica
    names = torch.arange(replica.shape[-1], device=replica.device)
    is_hot, is_cold = replica[..., :1] == names, replica[..., -1:] == names  # (C, N, K), now by replica
    times = torch.arange(1, replica.shape[-2] + 1, device=replica.device)[:, None]
    last_hot, last_cold = ((times * flags).cummax(-2).values for flags in (is_hot, is_cold))
    before_hot, before_cold = (
        torch.cat([torch.zeros_like(last[..., :1, :]), last[..., :-1, :]], -2) for last in (last_hot, last_cold)
    )
    return (is_cold & (before_hot > before_cold)).sum((-2, -1))


def _checked_ladder(inverse_temperatures: Sequence[float] | Tensor, *, has_reference: bool) -> Tensor:
    ladder = torch.as_tensor(inverse_temperatures)
    ladder = ladder if ladder.is_floating_point() else ladder * 1.0
    fix = "Try funcebm.schedules.geometric(0.01, 1.0, 9)(torch.arange(10))."
    got = str(ladder.tolist()) if checks.is_concrete(ladder) else f"the shape {tuple(ladder.shape)}"
    right = ladder.ndim == 1 and len(ladder) >= 2
    checks.require(right, "inverse_temperatures must be two numbers or more", got, fix)
    if checks.is_concrete(ladder):
        rises = bool((ladder.diff() > 0).all()) and abs(float(ladder[-1]) - 1) < 1e-6
        checks.require(rises, "inverse_temperatures must increase strictly, and end with 1", got, fix)
        first = float(ladder[0])
        checks.require(first >= 0, "inverse_temperatures must not be negative", got, fix)
        needs = "the first of inverse_temperatures must be above 0 where there is no reference"
        checks.require(first > 0 or has_reference, needs, got, "Start higher, or give a reference energy.")
    return ladder


def _local_samplers(
    make_sampler: Callable[[Energy, float], Sampler], path: Energy, ladder: Tensor
) -> tuple[Sampler, Tree]:
    """The kernel of all rungs, and the tunings of each, stacked."""
    fix = "Write lambda energy, beta: hmc(energy, step_size=0.1 / beta**0.5), for example."
    checks.takes("make_sampler", make_sampler, ("energy", "beta"), fix)
    samplers = [make_sampler(path, beta) for beta in ladder.tolist()]
    for sampler in samplers:
        checks.require(isinstance(sampler, Sampler), "make_sampler must return a sampler", sampler, fix, TypeError)
        checks.unweighted("parallel_tempering", sampler)
        checks.one_structure("the tuning of each rung", sampler.tuning, "that of the last", samplers[-1].tuning)
        temperature = getattr(sampler.tuning, "temperature", torch.ones(()))
        must = "local samplers must have the temperature 1"
        checks.require(bool((temperature == 1).all()), must, str(temperature.tolist()), "Temper the energy instead.")
    return samplers[-1]._replace(tuning=()), tree.stack([sampler.tuning for sampler in samplers])
