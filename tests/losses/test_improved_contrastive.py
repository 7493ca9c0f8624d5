"""The term that plain contrastive divergence leaves out: its gradient by hand, and the entropy of known densities."""

from __future__ import annotations

import math

import pytest
import torch

from funcebm import losses, random, samplers
from funcebm.losses.improved_contrastive import nearest_neighbour_entropy

STEP = 0.1


def energy(params, x):
    return params["k"] * (x**2).sum() / 2 + params["b"] * torch.sin(x).sum()


LANGEVIN = samplers.langevin(energy, step_size=STEP)
PARAMS = {"k": torch.tensor(0.7, dtype=torch.float64), "b": torch.tensor(0.4, dtype=torch.float64)}


def _drawn(num_steps=4, num_differentiated=1, **options):
    batch = random.normal(random.key(1), (5, 2), dtype=torch.float64)
    options = {"buffer_size": 20, "bank_size": 9, **options}
    loss = losses.improved_contrastive_divergence(
        energy, LANGEVIN, num_steps, num_differentiated=num_differentiated, **options
    )
    memory, noise = loss.init(random.key(2), PARAMS, batch), loss.draw(random.key(3), batch)
    return loss, memory, batch, noise


def _by_hand(moving, memory, batch, noise, fixed, num_steps, num_differentiated, weights):
    """The objective with two sets of params, those that move and those that are held fixed."""
    slots, is_restarted, restart = noise.buffer
    x = torch.where(is_restarted[:, None], restart, memory.positions[slots])
    for index in range(num_steps):
        params = moving if index >= num_steps - num_differentiated else fixed
        slope = params["k"] * x + params["b"] * torch.cos(x)
        x = x - STEP * slope + math.sqrt(2 * STEP) * noise.chain[index]
    energies = torch.func.vmap(energy, (None, 0))
    distances = (x[:, None] - memory.positions[noise.bank][None]).norm(dim=-1).min(1).values
    constant = math.log(len(noise.bank)) + math.log(math.pi) + 0.5772156649015329
    entropy = 2 * distances.log().mean() + constant
    return energies(fixed, x).mean() - weights[1] * entropy, x, entropy


@pytest.mark.parametrize(("num_steps", "num_differentiated"), [(4, 1), (4, 2), (3, 3)])
def test_the_gradient_is_that_of_the_objective_with_the_noise_and_the_outer_params_fixed(num_steps, num_differentiated):
    weights = (0.8, 0.6)
    loss, memory, batch, noise = _drawn(
        num_steps, num_differentiated, divergence_weight=weights[0], entropy_weight=weights[1]
    )
    gradient, (value, aux) = torch.func.grad_and_value(loss.value, has_aux=True)(PARAMS, memory, batch, noise)
    arguments = (memory, batch, noise, PARAMS, num_steps, num_differentiated, weights)
    divergence, ends, entropy = _by_hand(PARAMS, *arguments)
    energies = torch.func.vmap(energy, (None, 0))
    expected = energies(PARAMS, batch).mean() - energies(PARAMS, ends).mean() + weights[0] * divergence
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(aux.metrics["entropy"], entropy)
    torch.testing.assert_close(aux.memory.positions[noise.buffer.slots], ends)
    for name in PARAMS:
        step, parts = 1e-5, []
        for sign in (1, -1):
            moved = {**PARAMS, name: PARAMS[name] + sign * step}
            contrast = energies(moved, batch).mean() - energies(moved, ends).mean()  # the negatives are constants
            parts.append(contrast + weights[0] * _by_hand(moved, *arguments)[0])
        torch.testing.assert_close(gradient[name], (parts[0] - parts[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_without_the_divergence_it_is_persistent_contrastive_divergence():
    loss, memory, batch, noise = _drawn(divergence_weight=0.0, regularization=0.1, trim=0.2)
    other = losses.persistent_contrastive_divergence(energy, LANGEVIN, 4, buffer_size=20, regularization=0.1, trim=0.2)
    same = other.draw(random.key(3), batch)._replace(buffer=noise.buffer, chain=noise.chain)
    both = [torch.func.grad_and_value(one.value, has_aux=True)(PARAMS, memory, batch, n)
            for one, n in ((loss, noise), (other, same))]  # fmt: skip
    torch.testing.assert_close(both[0][0], both[1][0])
    torch.testing.assert_close(both[0][1][0], both[1][1][0])
    for name, metric in both[1][1][1].metrics.items():
        torch.testing.assert_close(both[0][1][1].metrics[name], metric)


def test_neighbours_are_never_chains_of_the_batch():
    loss, _, batch, _ = _drawn()
    for key in random.split(random.key(0), 20):
        noise = loss.draw(key, batch)
        assert len(torch.cat([noise.buffer.slots, noise.bank]).unique()) == 14


@pytest.mark.parametrize(("dim", "scale"), [(1, 1.0), (1, 5.0), (2, 0.3), (3, 1.0)])
def test_the_entropy_of_a_gaussian(dim, scale):
    num = 2000
    x = scale * random.normal(random.key(dim), (2 * num, dim), dtype=torch.float64)
    entropy = nearest_neighbour_entropy(x[:num].reshape(num, 1, dim), x[num:].reshape(num, 1, dim))
    exact = dim / 2 * math.log(2 * math.pi * math.e * scale**2)
    # the log of an exponential variable has variance pi^2 / 6, the log density d / 2; the bias falls as M^(-2/d)
    standard_error = 2 * ((math.pi**2 / 6 + dim / 2) / num) ** 0.5
    assert abs(float(entropy) - exact) < 5 * standard_error
    distances = torch.cdist(x[:num], x[num:]).min(1).values
    volume = math.pi ** (dim / 2) / math.gamma(dim / 2 + 1)
    by_hand = dim * distances.log().mean() + math.log(num * volume) + 0.5772156649015329
    torch.testing.assert_close(entropy, by_hand)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_differentiated": 5}, "num_differentiated must be at most num_steps"),
        ({"num_differentiated": 0}, "num_differentiated must be an integer of at least 1"),
        ({"bank_size": 0}, "bank_size must be an integer of at least 1"),
        ({"bank_size": 16}, "buffer_size must be at least the batch size and 16 more"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(options, words):
    with pytest.raises(ValueError, match=words):
        _drawn(**options)
