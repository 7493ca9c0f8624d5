"""The path from a reference to a target, one temperature after another: what annealed importance sampling runs."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from .. import checks, loops, random, samplers, tree
from .._chunks import drive_all, make_loop, weight_of
from ..chains._loop import chunks, draw_noise, draw_step
from ..energies._carried import with_space_of
from ..energies._guarded import explained
from ..fields import require_scalar
from ..transforms import is_worth_it
from ..types import Energy, Key, Params, Position, Sampler, Tree, step_of_chains

__all__ = [
    "AnnealedPath",
    "Annealing",
    "MakeSampler",
    "Particles",
    "TemperatureLadder",
    "Step",
    "make_annealing",
    "make_path",
    "inverse_temperatures",
]

_PILOT_STEPS = 64  # of the run that finds step sizes, at least; and before its first temperature, a third of it
_PILOT_RATE = 2.0  # of the log step size, for each unit of the acceptance rate

TemperatureLadder = str | Sequence[float] | Tensor
MakeSampler = Callable[[Energy], Sampler]


class Particles(NamedTuple):
    """What is carried along the path; ``log_step_size`` ``()`` is used only by a pilot run."""

    positions: Position
    log_weights: Tensor
    log_step_size: Tensor


class Step(NamedTuple):
    """One temperature: the weight of the energy difference before the kernel, the kernel's beta and step size, its noise.

    ``rate`` is 0 where the step size is given, else that at which it is learned.
    """

    weight: Tensor
    beta: Tensor
    log_step_size: Tensor
    rate: Tensor
    noise: Tree


def inverse_temperatures(schedule: TemperatureLadder, num_temperatures: int) -> Tensor:
    r"""Inverse temperatures :math:`0 = \beta_0 < \dots < \beta_T = 1`, ``(T + 1,)`` float64.

    ``"sigmoid"`` is :math:`\beta_t \propto \sigma(4 (2 t/T - 1)) - \sigma(-4)`.

    >>> inverse_temperatures("linear", 4)
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """
    if isinstance(schedule, str):
        known = schedule in ("sigmoid", "linear")
        checks.require(known, 'schedule must be "sigmoid", "linear" or numbers', schedule, 'Write "sigmoid".')
        checks.positive_int("num_temperatures", num_temperatures)
        line = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
        if schedule == "linear":
            return line
        curve = torch.sigmoid(4 * (2 * line - 1))
        return ((curve - curve[0]) / (curve[-1] - curve[0])).clamp(0, 1)
    betas = torch.as_tensor(schedule, dtype=torch.float64)
    right = betas.ndim == 1 and len(betas) >= 2 and bool((betas.diff() > 0).all())
    right = right and float(betas[0]) == 0 and float(betas[-1]) == 1
    must = "schedule must increase strictly from 0 to 1"
    checks.require(right, must, str(betas.tolist()), "Try torch.linspace(0, 1, 101).")
    return betas


def _default_sampler(energy: Energy) -> Sampler:
    return samplers.mala(energy, step_size=0.1)


class Annealing(NamedTuple):
    """The pieces of the path: its kernel, the energy difference of particles, and the loop over temperatures.

    Attributes:
        sampler: the kernel, whose params are ``(params, reference_params, beta)``.
        differences: ``(params, reference_params, positions) -> (N,)``, :math:`E_0 - E`.
        run: ``(both_params, tuning, particles, steps) -> (particles, (acceptance rates, log step sizes))``.
        iterate: one of them, ``(shared, particles, (index, step, noise)) -> ...``, with ``shared`` the params, the tuning and
            the keys of the particles; noise that is ``()`` is drawn.
    """

    sampler: Sampler
    differences: Callable[[Params, Params, Position], Tensor]
    run: Callable[..., tuple[Particles, tuple[Tensor, Tensor]]]
    iterate: Callable[..., tuple[Particles, tuple[Tensor, Tensor]]]


def make_annealing(energy: Energy, reference: Energy, make_sampler: MakeSampler | None) -> Annealing:
    """The path from a reference to an energy, as pure functions."""

    def difference(params: Params, reference_params: Params, position: Position) -> Tensor:
        value = require_scalar(energy(params, position), position)
        return require_scalar(reference(reference_params, position), position, "a reference") - value

    def path(path_params: tuple[Params, Params, Tensor], position: Position) -> Tensor:
        params, reference_params, beta = path_params
        return (1 - beta) * reference(reference_params, position) + beta * energy(params, position)

    with_space_of(path, energy, reference)
    differences = vmap(difference, (None, None, 0))
    make = _default_sampler if make_sampler is None else make_sampler
    fix = "Write lambda energy: hmc(energy, step_size=0.1), for example."
    checks.takes("sampler", make, ("energy",), fix)
    sampler = make(path)
    checks.require(isinstance(sampler, Sampler), "sampler must make a sampler of an energy", sampler, fix, TypeError)
    checks.unweighted("annealing", sampler)
    start = vmap(sampler.init, (None, 0))
    move = step_of_chains(sampler)
    target = sampler.target_acceptance

    def body(path_params: Any, tuning: Tree, particles: Particles, step: Step) -> tuple[Particles, Tree]:
        positions = particles.positions
        log_weights = particles.log_weights + step.weight * differences(path_params[0], path_params[1], positions)
        log_step_size = torch.where(step.rate > 0, particles.log_step_size, step.log_step_size)
        if _is_tunable(sampler):
            tuning = tuning._replace(step_size=log_step_size.exp())
        at = (*path_params, step.beta)
        state, info = move(at, tuning, start(at, positions), step.noise)
        rate = info.acceptance_rate.mean()
        learned = log_step_size + (0.0 if target is None else step.rate * (rate - target))
        return Particles(state.position, log_weights, learned), (rate, log_step_size)

    def iterate(shared: Tree, particles: Particles, x: tuple[Tensor, Step, Tree]) -> tuple[Particles, Tree]:
        both_params, tuning, keys = shared
        index, step, noise = x
        if not tree.leaves(noise):
            noise = draw_step(sampler, keys, particles.positions, index)
        return body(both_params, tuning, particles, step._replace(noise=noise))

    def run(both_params: Any, tuning: Tree, particles: Particles, steps: Step) -> tuple[Particles, Tree]:
        return loops.scan(lambda carry, step: body(both_params, tuning, carry, step), particles, steps)

    return Annealing(sampler, differences, run, iterate)


def _is_tunable(sampler: Sampler) -> bool:
    return sampler.target_acceptance is not None and hasattr(sampler.tuning, "step_size")


class AnnealedPath(NamedTuple):
    """One path with its numbers, walked chunk by chunk: the noise of many temperatures is drawn at once, outside the loop.

    Attributes:
        annealing: its pieces.
        both_params: those of the energy and of the reference.
        betas: the temperatures, ``(T + 1,)``.
        is_jitted: whether the loop is compiled.
        first: the number of the first particle, where other ranks have those before.
    """

    annealing: Annealing
    both_params: tuple[Params, Params]
    betas: Tensor
    is_jitted: bool
    first: int = 0

    def drive(
        self, key: Key, particles: Particles, weights: Tensor, betas: Tensor, log_step_sizes: Tensor, rates: Tensor
    ) -> tuple[Particles, Tensor, Tensor]:
        """All temperatures one after another, chunk by chunk; compiled, each iteration draws its own noise."""
        sampler = self.annealing.sampler
        num_particles, num_steps = tree.batch_size(particles.positions), len(betas)
        keys = random.split(key, num_particles, start=self.first)
        tuning = tree.cast_like(sampler.tuning, tree.first(particles.positions))
        loop = make_loop(
            self.annealing.iterate,
            lambda shared, carry, indices: draw_noise(sampler, shared[2], carry.positions, indices),
            jit=self.is_jitted,
            name=f"annealing, {num_particles} particles, its state",
        )

        def given(indices: Tensor) -> Step:
            return tree.map(lambda line: line[indices.long()], Step(weights, betas, log_step_sizes, rates, ()))

        shared, sizes = (self.both_params, tuning, keys), chunks(particles.positions, num_steps, jit=self.is_jitted)
        particles, (acceptance, used) = drive_all(loop, shared, particles, sizes, like=keys, given=given)
        return particles, acceptance, used

    def start(self, positions: Position) -> Particles:
        """Particles at the start, all of weight 1."""
        first = tree.first(positions)
        step_size = getattr(self.annealing.sampler.tuning, "step_size", torch.ones(()))
        return Particles(positions, first.new_zeros(first.shape[0]), step_size.to(first).log())

    def pilot(self, key: Key, positions: Position) -> Tensor:
        """The log step size for each of the temperatures 1 .. T, from a shorter path with particles of its own."""
        betas = self.betas
        num = len(betas) - 1
        particles = self.start(positions)
        if not _is_tunable(self.annealing.sampler):
            return particles.log_step_size.expand(num)
        num_steps = min(num, max(_PILOT_STEPS, num // 8))
        places = torch.linspace(1, num, num_steps, device=betas.device, dtype=betas.dtype)
        path = torch.cat([betas[1].expand(_PILOT_STEPS // 3), betas[places.round().long()]])
        zeros = torch.zeros_like(path)
        _, _, used = self.drive(key, particles, zeros, path, zeros, zeros + _PILOT_RATE)
        return _interpolated(used[-num_steps:], num)

    def forwards(self, key: Key, positions: Position, log_step_sizes: Tensor) -> tuple[Particles, Tensor]:
        """From the reference to the target: a weight, then its kernel."""
        zeros = torch.zeros_like(log_step_sizes)
        return self.drive(key, self.start(positions), self.betas.diff(), self.betas[1:], log_step_sizes, zeros)[:2]

    def backwards(self, key: Key, positions: Position, log_step_sizes: Tensor) -> tuple[Particles, Tensor]:
        """Log weights of the inverse: a kernel, its weight, the next kernel; the last weight comes after the loop."""
        weights = -self.betas.diff().flip(0)
        before = torch.cat([torch.zeros_like(weights[:1]), weights[:-1]])
        particles, rates, _ = self.drive(
            key, self.start(positions), before, self.betas[1:].flip(0), log_step_sizes.flip(0), torch.zeros_like(before)
        )
        last = weights[-1] * self.annealing.differences(*self.both_params, particles.positions)
        return particles._replace(log_weights=particles.log_weights + last), rates


def make_path(
    energy: Energy,
    reference: Energy,
    make_sampler: MakeSampler | None,
    both_params: tuple[Params, Params],
    betas: Tensor,
    positions: Position,
    jit: bool | None,
) -> AnnealedPath:
    """A path for particles like these; calls the energies once, eagerly, so that their errors come out as they are."""
    annealing = make_annealing(energy, reference, make_sampler)
    first = tree.map(lambda leaf: leaf[:1], positions)
    with explained(params=both_params[0], positions=tree.map(lambda leaf: leaf[0], first)):
        annealing.differences(*both_params, first)
    is_jitted = is_worth_it(jit, len(betas), weight_of(annealing.sampler)) and not checks.is_traced(
        (both_params, positions)
    )
    return AnnealedPath(annealing, both_params, betas.to(tree.first(positions)), is_jitted)


def _interpolated(line: Tensor, num: int) -> Tensor:
    """The values of a line of numbers at ``num`` even places from its start to its end."""
    at = torch.linspace(0, len(line) - 1, num, device=line.device, dtype=line.dtype)
    left = at.long().clamp(max=max(len(line) - 2, 0))
    right = (left + 1).clamp(max=len(line) - 1)
    return torch.lerp(line[left], line[right], at - left)
