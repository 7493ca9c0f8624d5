"""Restricted Boltzmann machines: joint and free energy, conditionals, and the normalizer by the smaller layer."""

from __future__ import annotations

import math
from typing import Any, Callable, Protocol

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import softplus

from .. import checks, graphs, random, spaces
from ..types import Energy, Key, Params, Position, Tree
from ._discrete import carrying, number_or, sites
from .closed_forms import Number, cast_params, to_tensor
from .exact.enumeration import log_normalizer as enumerated
from .exact.enumeration import sample as enumerated_sample

__all__ = ["RBM", "rbm"]


class RBM(Protocol):
    """A restricted Boltzmann machine as an energy, a plain function ``(params, x) -> ()``.

    ``x`` is either the visible units ``(V,)``, and the energy then the free energy, with the hidden layer summed out; or all
    units, as ``(V + H,)`` (Bernoulli) or ``{"visible": (V,), "hidden": (H,)}``, and the energy then the joint one. Both have
    the same normalizer.

    Attributes:
        free_energy: ``(params, visible) -> ()``, what to train with: gradients with the hidden layer summed out.
        joint: ``(params, x) -> ()``.
        visible_energy: ``(params, visible) -> ()``, what the visible units cost by themselves.
        hidden_free_energy: ``(params, hidden) -> ()``, with the visible layer summed out.
        hidden_logits: ``(params, visible) -> (H,)``, the log odds of each hidden unit given the visible ones.
        visible_logits: ``(params, hidden) -> (V,)``, the log odds of each visible unit; of Gaussian ones the mean.
        conditional: ``(params, x, block) -> logits``, the log odds of units given those of the other layer, for Gibbs sampling:
            of all ``(V + H,)`` where the block is a mask; of one layer of ``x = {"visible", "hidden"}`` where it is a name. None
            for Gaussian visible units.
        params: ``(weight, visible_bias=0.0, hidden_bias=0.0)``, and ``scale=1.0`` for Gaussian visible units.
        init: ``(key, mean=None, weight_scale=0.01) -> params`` to train from; ``mean`` are means of data ``(V,)``.
        space: of the visible units. ``joint_space``: of all units.
        edges: between the layers, ``(M, 2)``.
        blocks: of all units, for block Gibbs.
        log_normalizer: ``params -> ()``, over the smaller layer, in chunks; an error for layers that are too large for it.
        sample: ``(key, params, num) -> (num, V)``, exact draws of visible units, for a layer of at most 24 units.
    """

    free_energy: Energy
    joint: Energy
    visible_energy: Energy
    hidden_free_energy: Energy
    hidden_logits: Callable[[Params, Tensor], Tensor]
    visible_logits: Callable[[Params, Tensor], Tensor]
    conditional: Callable[[Params, Position, Any], Tensor] | None
    params: Callable[..., Params]
    init: Callable[..., Params]
    space: spaces.Space
    joint_space: Tree
    edges: Tensor
    blocks: Tensor
    log_normalizer: Callable[[Params], Tensor]
    sample: Callable[[Key, Params, int], Tensor]

    def __call__(self, params: Params, x: Position, /) -> Tensor:
        """The energy of one particle. ``()``."""


def rbm(num_visible: int, num_hidden: int, *, visible: str = "bernoulli") -> RBM:
    r"""A restricted Boltzmann machine, bits :math:`h` over bits or real numbers :math:`v`.

    .. math:: E(v, h) = -b^\top v - c^\top h - v^\top W h, \qquad
        F(v) = -b^\top v - \sum_j \operatorname{softplus}(c_j + (W^\top v)_j)

    with bits of 0 and 1, and with Gaussian visible units, of standard deviations :math:`s`,

    .. math:: E(v, h) = \sum_i \frac{(v_i - b_i)^2}{2 s_i^2} - c^\top h - \sum_{ij} \frac{v_i}{s_i^2} W_{ij} h_j.

    Args:
        num_visible: V.
        num_hidden: H.
        visible: ``"bernoulli"`` or ``"gaussian"``.

    Returns:
        An :class:`RBM`. Its params are ``{"weight": (V, H), "visible_bias": (V,), "hidden_bias": (H,)}``, and
        ``"log_scale": () or (V,)``, the log of :math:`s`, for Gaussian visible units.

    Raises:
        ValueError: a bad count or kind; when called, a position that is neither the visible units nor all of them.

    Reference: Smolensky (1986), in Parallel Distributed Processing 1:194-281; Hinton (2002), Neural Computation
    14(8):1771-1800; Welling, Rosen-Zvi and Hinton (2004), NIPS, for Gaussian units.

    >>> energy = rbm(3, 2)
    >>> params = energy.params(torch.zeros(3, 2), visible_bias=[1.0, 0.0, 0.0])
    >>> energy(params, torch.tensor([1.0, 0.0, 1.0]))  # -1 - 2 log(2)
    tensor(-2.3863)
    >>> energy.log_normalizer(params)  # log(1 + e) + 4 log(2)
    tensor(4.0859)
    """
    checks.positive_int("num_visible", num_visible)
    checks.positive_int("num_hidden", num_hidden)
    must = 'visible must be "bernoulli" or "gaussian"'
    checks.require(visible in ("bernoulli", "gaussian"), must, visible, 'Write visible="bernoulli" for bits.')
    is_gaussian = visible == "gaussian"
    widths = (num_visible, num_hidden)

    def make_params(
        weight: Number, visible_bias: Number = 0.0, hidden_bias: Number = 0.0, scale: Number = 1.0
    ) -> Params:
        weight = to_tensor(weight)
        got = str(tuple(weight.shape))
        checks.require(
            tuple(weight.shape) == widths, f"weight must have the shape {widths}", got, "Rows are visible units."
        )
        params = {
            "weight": weight,
            "visible_bias": number_or("visible_bias", visible_bias, (num_visible,), weight).expand(num_visible).clone(),
            "hidden_bias": number_or("hidden_bias", hidden_bias, (num_hidden,), weight).expand(num_hidden).clone(),
        }
        if is_gaussian:
            scale = number_or("scale", scale, (num_visible,), weight)
            checks.positive("scale", scale)
            params["log_scale"] = scale.log()
        return params

    def init(key: Key, mean: Tensor | None = None, weight_scale: float = 0.01) -> Params:
        dtype = torch.get_default_dtype() if mean is None else mean.dtype
        weight = weight_scale * random.normal(key, widths, dtype=dtype)
        if mean is None:
            return make_params(weight)
        mean = sites(mean, (num_visible,)).to(weight.device)
        return make_params(weight, mean if is_gaussian else torch.logit(mean, 0.01))

    def split(x: Position) -> tuple[Tensor, Tensor]:
        if isinstance(x, dict):
            return sites(x["visible"], (num_visible,)), sites(x["hidden"], (num_hidden,))
        units = sites(x, (num_visible + num_hidden,))
        return units[:num_visible], units[num_visible:]

    def hidden_logits(params: Params, v: Tensor) -> Tensor:
        v = sites(v, (num_visible,))
        params = cast_params(params, v)
        v = v * torch.exp(-2 * params["log_scale"]) if is_gaussian else v
        return params["hidden_bias"] + v @ params["weight"]

    def visible_logits(params: Params, h: Tensor) -> Tensor:
        h = sites(h, (num_hidden,))
        params = cast_params(params, h)
        return params["visible_bias"] + h @ params["weight"].t()

    def visible_energy(params: Params, v: Position) -> Tensor:
        v = sites(v, (num_visible,))
        params = cast_params(params, v)
        if is_gaussian:
            return ((v - params["visible_bias"]) ** 2 * torch.exp(-2 * params["log_scale"])).sum() / 2
        return -(v * params["visible_bias"]).sum()

    def joint(params: Params, x: Position) -> Tensor:
        v, h = split(x)
        return visible_energy(params, v) - (hidden_logits(params, v) * h).sum()

    def free_energy(params: Params, v: Position) -> Tensor:
        v = sites(v, (num_visible,))
        return visible_energy(params, v) - softplus(hidden_logits(params, v)).sum()

    def hidden_free_energy(params: Params, h: Position) -> Tensor:
        h = sites(h, (num_hidden,))
        logits = visible_logits(params, h)
        params = cast_params(params, h)
        own = -(h * params["hidden_bias"]).sum()
        if not is_gaussian:
            return own - softplus(logits).sum()
        log_scale = params["log_scale"].expand(num_visible)
        pull = (logits**2 - params["visible_bias"] ** 2) * torch.exp(-2 * log_scale) / 2
        return own - (pull + log_scale + math.log(2 * math.pi) / 2).sum()

    def energy(params: Params, x: Position) -> Tensor:
        if isinstance(x, Tensor) and x.numel() == num_visible:
            return free_energy(params, x)
        return joint(params, x)

    def conditional(params: Params, x: Position, block: Any = None) -> Tensor:
        v, h = split(x)
        if isinstance(block, str):
            return visible_logits(params, h) if block == "visible" else hidden_logits(params, v)
        return torch.cat([visible_logits(params, h), hidden_logits(params, v)])

    over_hidden = is_gaussian or num_hidden <= num_visible
    summed: tuple[Energy, spaces.Space] = (hidden_free_energy, spaces.binary(num_hidden))
    if not over_hidden:
        summed = (free_energy, spaces.binary(num_visible))

    def log_normalizer(params: Params) -> Tensor:
        return enumerated(*summed, chunk_size=chunk_size)(params)  # an error here for large layers, and not before

    def sample(key: Key, params: Params, num: int) -> Tensor:
        key_layer, key_visible = random.split(key)
        drawn = enumerated_sample(*summed, chunk_size=chunk_size)(key_layer, params, num)
        if not over_hidden:
            return drawn
        logits = vmap(visible_logits, (None, 0))(params, drawn)
        if is_gaussian:
            noise = random.normal(key_visible, tuple(logits.shape), dtype=logits.dtype).to(logits.device)
            return logits + noise * torch.exp(params["log_scale"])
        chance = random.uniform(key_visible, tuple(logits.shape), dtype=logits.dtype).to(logits.device)
        return (chance < torch.sigmoid(logits)).to(logits.dtype)

    chunk_size = max(1, 2**21 // (num_visible + num_hidden))
    units = num_visible + num_hidden
    is_visible = torch.arange(units) < num_visible
    bits = spaces.binary(num_visible)
    mixed = {"visible": spaces.real(num_visible), "hidden": spaces.binary(num_hidden)}
    free_energy.space = spaces.real(num_visible) if is_gaussian else bits  # type: ignore[attr-defined]
    joint.space = mixed if is_gaussian else spaces.binary(units)  # type: ignore[attr-defined]
    hidden_free_energy.space = spaces.binary(num_hidden)  # type: ignore[attr-defined]
    return carrying(
        energy,
        free_energy=free_energy,
        joint=joint,
        visible_energy=visible_energy,
        hidden_free_energy=hidden_free_energy,
        hidden_logits=hidden_logits,
        visible_logits=visible_logits,
        conditional=None if is_gaussian else conditional,
        params=make_params,
        init=init,
        space=spaces.real(num_visible) if is_gaussian else bits,
        joint_space=mixed if is_gaussian else spaces.binary(units),
        edges=graphs.layers(widths),
        blocks=torch.stack([is_visible, ~is_visible]),
        log_normalizer=log_normalizer,
        sample=sample,
    )
