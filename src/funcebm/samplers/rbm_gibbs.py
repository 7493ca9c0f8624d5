"""Block Gibbs sampling of a restricted Boltzmann machine, as a kernel on its visible units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .. import random, spaces, tree
from ..energies.rbm import RBM
from ..types import Info, Key, Params, Sampler, Tree

__all__ = ["RBMGibbsNoise", "RBMGibbsState", "rbm_gibbs"]


class RBMGibbsState(NamedTuple):
    """The visible units ``(V,)``, their free energy ``()``, and the logits of the hidden units given them ``(H,)``."""

    position: Tensor
    energy: Tensor
    logits: Tensor


class RBMGibbsNoise(NamedTuple):
    """Uniforms for the hidden units ``(H,)``; uniforms, or normals where they are Gaussian, for the visible ones ``(V,)``."""

    hidden: Tensor
    visible: Tensor


def rbm_gibbs(machine: RBM) -> Sampler:
    r"""Block Gibbs sampling of an RBM: all hidden units given the visible ones, then all visible units given the hidden ones.

    As a kernel on the visible units alone, :math:`P(v' \mid v) = \sum_h p(h \mid v)\,p(v' \mid h)`: reversible, and
    :math:`e^{-F(v)}` is invariant for the free energy F. Two products with the weights a step: the logits of the next hidden
    units give the free energy too. The positions are those of the data, so that contrastive losses take it as it is, with
    gradients that have the hidden layer summed out.

    Args:
        machine: :func:`funcebm.energies.rbm`, with Bernoulli or Gaussian visible units.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``RBMGibbsState`` and :class:`~funcebm.types.Info`, without tuning.

    Raises:
        ValueError: from ``init``, a position that is not of bits, for Bernoulli units.

    Reference: Hinton (2002), Neural Computation 14(8):1771-1800.

    >>> from funcebm import energies
    >>> machine = energies.rbm(3, 2)
    >>> sampler, params = rbm_gibbs(machine), machine.params(torch.zeros(3, 2), visible_bias=20.0)
    >>> state, info = sampler(random.key(0), params, sampler.init(params, torch.zeros(3)))
    >>> state.position
    tensor([1., 1., 1.])
    """
    is_gaussian = machine.space.kind == "real"
    num_visible, num_hidden = machine.space.num_sites, int(machine.edges.amax()) + 1 - machine.space.num_sites

    def state_of(params: Params, v: Tensor) -> RBMGibbsState:
        logits = machine.hidden_logits(params, v)
        return RBMGibbsState(v, machine.visible_energy(params, v) - softplus(logits).sum(), logits)

    def init(params: Params, position: Tensor) -> RBMGibbsState:
        spaces.check(machine.space, position, "a position")
        return state_of(params, position)

    def draw(key: Key, position: Tensor) -> RBMGibbsNoise:
        key_hidden, key_visible = random.split(key)
        of_visible = random.normal if is_gaussian else random.uniform
        hidden = random.uniform(key_hidden, num_hidden, dtype=position.dtype)
        return RBMGibbsNoise(hidden, of_visible(key_visible, num_visible, dtype=position.dtype))

    def step(params: Params, tuning: Tree, state: RBMGibbsState, noise: RBMGibbsNoise) -> tuple[RBMGibbsState, Info]:
        hidden = (noise.hidden < torch.sigmoid(state.logits)).to(noise.hidden.dtype)
        logits = machine.visible_logits(params, hidden)
        if is_gaussian:
            position = logits + noise.visible * torch.exp(params["log_scale"].to(logits))
        else:
            position = (noise.visible < torch.sigmoid(logits)).to(logits.dtype)
        state = state_of(params, position)
        one = torch.ones_like(state.energy)
        is_finite = tree.all_finite((logits, state.logits))
        return state, Info(one, one > 0, ~is_finite, torch.zeros_like(one, dtype=torch.int32), state.energy)

    return Sampler(init, draw, step, ())
