"""Gibbs sampling of discrete positions: one site after the other, or blocks of sites at once."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor

from .. import checks, fields, graphs, loops, random, spaces, tree
from ..types import Energy, Key, Number, Params, Position, Sampler, Tree
from ._heat_bath import DiscreteInfo, heat_bath, logits_of, next_values
from ._moves import num_changed, on_levels, space_for, uniform_like
from .metropolis import unadjusted_info
from .single_site import check_scan, single_site

__all__ = ["BlockGibbsNoise", "BlockGibbsState", "GibbsTuning", "gibbs"]

_UNROLLED = 4  # blocks; for more the loop is one of the compiled program
_BETWEEN = 0.37  # no middle, no end: odd functions have equal slopes there

Conditional = Callable[[Params, Position, Any], Tree]


class BlockGibbsState(NamedTuple):
    """A position, with the energy ``()`` there; 0 where only conditionals are known.

    Attributes:
        fault: 0; NaN where ``init`` found that sites of one block interact. ``()``.
    """

    position: Position
    energy: Tensor
    fault: Tensor


class BlockGibbsNoise(NamedTuple):
    """A uniform number for each site, ``(2, *sites)`` forth and back; ``choice`` of the block ``()``, for a random scan."""

    uniform: Tree
    choice: Tree


class GibbsTuning(NamedTuple):
    """The masks of the blocks ``(B, *sites)``, ``()`` where they have names, and the temperature ``()``."""

    blocks: Tree
    temperature: Tensor


def gibbs(
    energy: Energy | None = None,
    blocks: Tree | Sequence[str] | None = None,
    *,
    space: Tree | None = None,
    conditional: Conditional | None = None,
    scan: str = "systematic",
    is_partial: bool = False,
    temperature: Number = 1.0,
) -> Sampler:
    r"""Gibbs sampling: sites are drawn again from their conditionals, given all others.

    .. math:: x_i \sim p(x_i \mid x_{-i}) \propto e^{-E(x) / T} .

    *Without blocks* one site after the other, for any energy and any space, at one energy for each other value of a site. *With
    blocks* all sites of a block at once (chromatic Gibbs), which is exact where they do not interact. Then the conditionals come
    from one gradient a block: of :math:`-(b - a)\, \partial E / \partial x_i` is the logit of the upper level of two,
    :math:`a < b`, and :math:`-\partial E / \partial x_{iv}` that of the value v of one-hot rows, so the energy must be *linear*
    in each site of the block given the rest (Ising, Potts, Boltzmann machines). Or from ``conditional``. States of infinite
    energy are never visited: a block that would go there stays as it is, which leaves the density invariant (Metropolis's test of
    a conditional without them), flagged ``is_divergent``, at one energy more a block but for the energies that name their blocks.
    One that moves too little needs ``blocks=None``. A ``conditional`` must itself give forbidden states no probability.

    Args:
        energy: ``(params, x) -> ()``. None where only conditionals are known; then the energies of the info are 0.
        blocks: bool masks over the sites, ``(B, *sites)``, one colour a row, as :func:`funcebm.graphs.colouring` makes them; for
            a tree of positions a tree of such masks. Masks are a part of the tuning: others of the same shape compile nothing.
            Or the names of the leaves of a dict of positions, such as ``("hidden", "visible")``: each leaf is a block, and
            nothing is computed for the others. None is one site at a time.
        space: of the positions, from :mod:`funcebm.spaces`; None is that of
            the energy, if it has one that fits (those of :mod:`funcebm.energies`), else bits, 0 and 1.
        conditional: ``(params, x, block) -> logits`` of the sites in one block, the mask or the name of which it is given: like
            the position (of a named block, like the leaf); of the upper level for two levels, else of each value. What it says
            of other sites is not used. Divided by the temperature.
        scan: ``"systematic"``, all blocks in their order, invariant but not reversible; ``"palindromic"``, forth and back,
            reversible; ``"random"``, one block a step, reversible. Static.
        is_partial: sites in no block are meant, and stay as they are (clamped); otherwise they are an error. Static.
        temperature: :math:`T > 0`, in units of energy. ``()``.

    Returns:
        A :class:`~funcebm.types.Sampler` with ``DiscreteInfo``. A uniform number at or above the conditional gives the lower
        level: in an attractive model common numbers keep chains in order.

    Raises:
        ValueError: no energy and no conditional, blocks that do not partition the sites; from ``init``, and at the start of a
            run, a position off the levels, or a block whose conditionals change with its own sites (an edge inside a colour, or
            an energy that is not linear in a site).

    Reference: Geman and Geman (1984), IEEE Transactions on Pattern Analysis and Machine Intelligence 6(6):721-741; colours,
    Gonzalez, Low, Gretton and Guestrin (2011), AISTATS, PMLR 15:324-332.

    >>> from funcebm import graphs
    >>> edges = graphs.grid((4, 4))
    >>> def ising(params, x):
    ...     s = x.reshape(-1)
    ...     return -params * (s[edges[:, 0]] * s[edges[:, 1]]).sum()
    >>> sampler = gibbs(ising, graphs.colouring(edges, shape=(4, 4)), space=spaces.spins((4, 4)))
    >>> state, info = sampler(random.key(0), torch.tensor(0.3), sampler.init(torch.tensor(0.3), torch.ones(4, 4)))
    >>> int(info.num_gradients), state.position.shape
    (2, torch.Size([4, 4]))
    """
    checks.positive("temperature", temperature, "Use 1.0 for the density exp(-E).")
    check_scan(scan)
    fix = "Write gibbs(energy, blocks), or gibbs(conditional=conditional, blocks=blocks)."
    checks.require(
        energy is not None or conditional is not None, "gibbs needs an energy or a conditional", "neither", fix
    )
    space_of = space_for("gibbs", space, energy)
    whole = no_energy if energy is None else energy
    if blocks is None:
        fix = "Give the masks or the names of the blocks that it is called with."
        checks.require(conditional is None, "a conditional needs blocks", "blocks=None", fix)
        return single_site(whole, space, "heat_bath", scan, temperature)
    names = tuple(blocks) if isinstance(blocks, (tuple, list)) and all(isinstance(b, str) for b in blocks) else None
    if names is None:
        _check_masks(blocks, is_partial)
    space_is_known = conditional is None or space is not None
    # of conditionals nothing is known, and energies that name their blocks are finite
    may_forbid = conditional is None and getattr(energy, "blocks", None) is None
    if conditional is None and space is not None:
        right = all(part.kind != "ordinal" for part in tree.leaves(space))
        fix = "Use blocks=None, which takes one site at a time, or give a conditional."
        checks.require(right, "a gradient has no conditionals of ordinal sites", "blocks and an ordinal space", fix)

    # -- one block ------------------------------------------------------------------------------------------------

    def logits_in(params: Params, position: Position, block: Any) -> tuple[Tensor, Tree]:
        """The energy where it costs nothing, and the logits like the position, or like the leaf of a named block."""
        if conditional is not None:
            return torch.zeros_like(tree.first(position).sum()), conditional(params, position, block)
        value, gradient = fields.value_and_gradient(_of_leaf(whole, position, block))(params, _part(position, block))
        return value, tree.map(logits_of, _part(space_of(position), block), gradient)

    def update(params: Params, temperature: Tensor, carry: Tree, block: Any, uniform: Tree) -> Tree:
        """Draws a block; the energy after it, if it is one of a gradient, and how many blocks were refused."""
        position, _, num_refused = carry
        value, logits = logits_in(params, position, block)
        part, old = _part(space_of(position), block), _part(position, block)
        draw_leaf = lambda part, logit, u, x: heat_bath(part, logit / temperature, u, x.dtype)  # noqa: E731
        new = tree.map(draw_leaf, part, logits, _part(uniform, block), old)
        if names is None:
            new = tree.map(lambda part, mask, y, x: torch.where(_wide(part, mask), y, x), part, block, new, old)
        moved = new if names is None else {**position, block: new}
        if not may_forbid:
            # linear in each site, and no interactions inside: what the block changes adds up
            change = lambda part, logit, y, x: -((y - x) * logit).sum() / _unit(part)  # noqa: E731
            value = value + torch.stack(tree.leaves(tree.map(change, part, logits, new, old))).sum()
            return moved, value, num_refused + torch.zeros_like(num_refused)
        # a slope knows no forbidden states; what it proposes is exact but for them, so to stay where it leads there is exact
        new_value = whole(params, moved)
        is_allowed = torch.isfinite(new_value)
        position, value = tree.where(is_allowed, (moved, new_value), (position, value))
        return position, value, num_refused + (~is_allowed).to(num_refused.dtype)

    # -- the sampler ----------------------------------------------------------------------------------------------

    def init(params: Params, position: Position) -> BlockGibbsState:
        own = space_of(position)
        spaces.check(own, position, "positions")
        if names is not None:
            _check_names(names, position, is_partial)
        elif space_is_known:
            _check_shapes(blocks, own)
        zero = torch.zeros_like(tree.first(position).sum())
        value = fields.require_scalar(whole(params, position), position)
        value = torch.where(on_levels(own, position), value, torch.nan)
        fault = zero if conditional is not None else interaction(params, position)
        if checks.is_concrete(fault) and bool(torch.isnan(fault)):
            must = "sites of one block must not interact, and the energy must be linear in each of them"
            got = "a block whose conditionals change when its own sites do"
            fix = "Make blocks with graphs.colouring(edges), or use blocks=None, one site at a time, for any energy."
            raise ValueError(checks.message(must, got, fix))
        return BlockGibbsState(position, value, fault)

    def interaction(params: Params, position: Position) -> Tensor:
        """0, or NaN where the conditionals of a block change when all its sites do."""
        masks = None if names is not None else blocks
        is_wrong = torch.zeros_like(tree.first(position).sum(), dtype=torch.bool)
        for block in _blocks(names, masks):
            part = _part(space_of(position), block)
            # on the way to other values, where what is linear and free of interactions has the same slope
            between = lambda part, x: x + _BETWEEN * (next_values(part, x) - x)  # noqa: E731
            others = tree.map(between, part, _part(position, block))
            if names is None:
                move = lambda part, mask, y, x: torch.where(_wide(part, mask), y, x)  # noqa: E731
                flipped = tree.map(move, part, block, others, position)
            else:
                flipped = {**position, block: others}
            (value, before), (there, after) = logits_in(params, position, block), logits_in(params, flipped, block)
            are_known = torch.isfinite(value) & torch.isfinite(there)  # slopes of forbidden states mean nothing
            masks_of = (
                tree.map(_wide, part, block) if names is None else tree.map(lambda y: torch.ones_like(y).bool(), before)
            )
            for kind, mask, a, b in zip(*map(tree.leaves, (part, masks_of, before, after)), strict=True):
                a, b = _contrast(kind, a), _contrast(kind, b)
                rounding = torch.finfo(a.dtype).eps ** 0.6 * (a.abs().amax() + b.abs().amax())
                is_wrong = is_wrong | (((a - b).abs() > rounding) & mask & are_known).any()
        return torch.where(is_wrong, torch.nan, torch.zeros_like(tree.first(position).sum()))

    def draw(key: Key, position: Position) -> BlockGibbsNoise:
        key_uniform, key_choice = random.split(key)
        own = space_of(position)
        if scan == "palindromic":
            twice = [uniform_like(k, own, position) for k in random.split(key_uniform).unbind(0)]
            return BlockGibbsNoise(tree.stack(twice), ())
        choice = random.randint(key_choice, (), 0, _num(names, blocks)) if scan == "random" else ()
        return BlockGibbsNoise(uniform_like(key_uniform, own, position), choice)

    def step(
        params: Params, tuning: GibbsTuning, state: BlockGibbsState, noise: BlockGibbsNoise
    ) -> tuple[BlockGibbsState, DiscreteInfo]:
        temperature, num = tuning.temperature, _num(names, blocks)

        def sweep(carry: Tree, uniform: Tree, is_back: bool) -> Tree:
            every = _blocks(names, tuning.blocks)
            if names is not None or num <= _UNROLLED:
                for block in every[-2::-1] if is_back else every:
                    carry = update(params, temperature, carry, block, uniform)
                return carry
            rows = tree.map(lambda leaf: leaf.flip(0)[1:], tuning.blocks) if is_back else tuning.blocks
            return loops.fold(lambda carry, row: update(params, temperature, carry, row, uniform), carry, rows)

        carry, num_updates = (state.position, state.energy, torch.zeros_like(state.energy)), num
        if scan == "random":
            carry, num_updates = pick(params, tuning, carry, noise), 1
        elif scan == "palindromic":
            forth, back = (tree.map(lambda leaf: leaf[i], noise.uniform) for i in (0, 1))  # noqa: B023
            carry, num_updates = sweep(sweep(carry, forth, False), back, True), 2 * num - 1
        else:
            carry = sweep(carry, noise.uniform, False)
        position, value, num_refused = carry
        if conditional is not None:
            value = whole(params, position)
        num_gradients = 0 if conditional is not None else num_updates
        info = unadjusted_info(position, value, num_gradients)
        rate, is_divergent = 1 - num_refused / num_updates, info.is_divergent | (num_refused > 0)
        info = info._replace(acceptance_rate=rate, is_accepted=rate > 0, is_divergent=is_divergent)
        changed = num_changed(space_of(position), state.position, position)
        return BlockGibbsState(position, value, state.fault), DiscreteInfo.of(info, changed)

    def pick(params: Params, tuning: GibbsTuning, carry: Tree, noise: BlockGibbsNoise) -> Tree:
        """One block, by its number."""
        if names is None:
            row = lambda leaf: (leaf & _is_row(leaf, noise.choice)).any(0)  # noqa: E731
            return update(params, tuning.temperature, carry, tree.map(row, tuning.blocks), noise.uniform)
        chosen = carry
        for index, name in enumerate(names):
            moved = update(params, tuning.temperature, carry, name, noise.uniform)
            chosen = tree.where(noise.choice == index, moved, chosen)
        return chosen

    masks = () if names is not None else tree.map(torch.as_tensor, blocks)
    return Sampler(init, draw, step, GibbsTuning(masks, torch.as_tensor(temperature)), adaptation="unchanged")


def no_energy(params: Params, position: Position) -> Tensor:
    """0, in place of an energy that nobody knows."""
    return torch.zeros_like(tree.first(position).sum())


# -- parts --------------------------------------------------------------------------------------------------------


def _part(value: Tree, block: Any) -> Tree:
    """The leaf of a named block, or everything."""
    return value[block] if isinstance(block, str) else value


def _of_leaf(energy: Energy, position: Position, block: Any) -> Energy:
    """The energy of a leaf, where the block is one."""
    if not isinstance(block, str):
        return energy
    return lambda params, leaf: energy(params, {**position, block: leaf})


def _unit(space: Any) -> float:
    """The change of a leaf, times its logit over this, is a change of the log density."""
    return 1.0 if space.kind != "binary" else space.levels[1] - space.levels[0]


def _wide(space: Any, mask: Tensor) -> Tensor:
    """A mask over sites as one over the entries of a leaf."""
    is_narrow = space.kind == "categorical" and mask.ndim == len(space.sites)
    return mask[..., None].expand(*mask.shape, space.shape[-1]) if is_narrow else mask


def _contrast(space: Any, logits: Tensor) -> Tensor:
    """Logits up to what they have in common."""
    return logits - logits[..., :1] if space.kind == "categorical" else logits


def _num(names: tuple[str, ...] | None, masks: Tree) -> int:
    return tree.batch_size(masks) if names is None else len(names)


def _blocks(names: tuple[str, ...] | None, masks: Tree) -> list[Any]:
    if names is not None:
        return list(names)
    return [tree.map(lambda leaf: leaf[i], masks) for i in range(tree.batch_size(masks))]  # noqa: B023


def _is_row(masks: Tensor, choice: Tensor) -> Tensor:
    rows = torch.arange(masks.shape[0], device=masks.device) == choice
    return rows.reshape(-1, *(1,) * (masks.ndim - 1))


def _check_masks(blocks: Tree, is_partial: bool) -> None:
    leaves = tree.leaves(blocks)
    fix = "Use graphs.colouring(edges), or the names of leaves."
    right = bool(leaves) and all(isinstance(leaf, Tensor) for leaf in leaves)
    checks.require(right, "blocks must be bool masks, or names of leaves", repr(blocks)[:80], fix, TypeError)
    for leaf in leaves:
        checks.require(leaf.ndim >= 2, "blocks must lead with one row for each colour", str(tuple(leaf.shape)), fix)
        checks.require(
            leaf.dtype == torch.bool, "blocks must be bool", str(leaf.dtype), "Use blocks.bool().", TypeError
        )
    counts = {leaf.shape[0] for leaf in leaves}
    checks.require(len(counts) == 1, "all masks must have one row for each block", f"{sorted(counts)} rows", fix)
    if not is_partial:
        graphs.check_blocks(torch.cat([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], 1))


def _check_shapes(blocks: Tree, space: Tree) -> None:
    """A mask for each leaf, over its sites or over its entries."""
    checks.one_structure("blocks", blocks, "the position", space)
    for mask, part in zip(tree.leaves(blocks), tree.leaves(space), strict=True):
        right = tuple(mask.shape[1:]) in (part.sites, part.shape)
        fix = "Use graphs.colouring(edges, shape=shape), or blocks.reshape(-1, *shape)."
        must = f"blocks must lead with one row for each colour, then have the shape of the sites, {part.sites}"
        checks.require(right, must, str(tuple(mask.shape)), fix)


def _check_names(names: tuple[str, ...], position: Position, is_partial: bool) -> None:
    found = set(position) if isinstance(position, dict) else set()
    must = f"blocks {names} must be the names of leaves of a dict of positions"
    fix = "Name each leaf once; is_partial=True leaves some as they are."
    right = set(names) <= found and len(set(names)) == len(names) and (is_partial or set(names) == found)
    checks.require(right, must, str(sorted(found)) if found else type(position).__name__, fix)
