"""Loops that mean the same eager and compiled: ``scan`` and its friends.

Under :func:`funcebm.transforms.jit` a loop is one higher-order operator with a compiled body; otherwise it is a Python
loop, the reference semantics, with the same numbers. Inside ``torch.func.grad`` it is always a Python loop, which the
compiler unrolls: the operator cannot be differentiated through.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from . import tree
from .types import Tree

_scan_operator: Any
_while_operator: Any
try:
    from torch._higher_order_ops.scan import scan as _scan_operator
    from torch._higher_order_ops.while_loop import while_loop as _while_operator
    from torch._higher_order_ops.while_loop import while_loop_op as _while_primitive
except ImportError:  # a torch without the operators: every loop is a Python loop
    _scan_operator = _while_operator = None

__all__ = ["fold", "has_scan", "is_compiling", "repeat", "scan", "while_loop"]

has_scan = _scan_operator is not None
"""Whether this torch can compile a loop."""


def is_compiling() -> bool:
    """Whether the code that asks is being traced by ``torch.compile``."""
    check = getattr(getattr(torch, "compiler", None), "is_compiling", None)
    return check() if check is not None else False


def _is_differentiating() -> bool:
    """Whether the code that asks runs inside ``torch.func.grad`` (``jacrev``, ``vjp``)."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Grad for level in stack)


def _is_mapping() -> bool:
    """Whether the code that asks runs inside ``torch.func.vmap``."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)


for _question in (_is_differentiating, _is_mapping):
    _question._dynamo_marked_constant = True  # type: ignore[attr-defined]  # asked while tracing, not traced


def scan(body: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree) -> tuple[Tree, Tree]:
    """Carries a state through ``body`` along the leading axis of ``xs``, and stacks what it emits.

    Args:
        body: ``(carry, x) -> (carry, y)``; the carry keeps its structure, shapes and dtypes. ``y`` may be ``()``.
        init: the first carry.
        xs: a tree whose leaves share a leading axis of length ``T``.

    Returns:
        The last carry, and the ``y`` stacked on a leading axis of length ``T``.

    >>> total, sums = scan(lambda carry, x: (carry + x, carry + x), torch.tensor(0), torch.arange(4))
    >>> total, sums
    (tensor(6), tensor([0, 1, 3, 6]))
    """
    if is_compiling() and has_scan and not _is_differentiating():
        # only a call can tell what the body emits; this one is dead code, which the compiler drops
        after, y = body(init, tree.map(lambda leaf: leaf[0], xs))
        carry, y_leaves = _call_operator(body, _mapped_like(init, after) if _is_mapping() else init, xs)
        return carry, tree.unflatten(tree.structure(y), y_leaves)
    carry, ys = init, []
    for index in range(tree.batch_size(xs)):
        carry, y = body(carry, tree.map(lambda leaf: leaf[index], xs))  # noqa: B023
        ys.append(y)
    return carry, tree.stack(ys)


def fold(body: Callable[[Tree, Tree], Tree], init: Tree, xs: Tree) -> Tree:
    """A :func:`scan` that emits nothing: ``body`` is ``(carry, x) -> carry``, the result the last carry.

    >>> fold(lambda carry, x: carry + x, torch.tensor(0), torch.arange(4))
    tensor(6)
    """
    if is_compiling() and has_scan and not _is_differentiating():
        if _is_mapping():
            init = _mapped_like(init, body(init, tree.map(lambda leaf: leaf[0], xs)))
        return _call_operator(lambda carry, x: (body(carry, x), ()), init, xs)[0]
    carry = init
    for index in range(tree.batch_size(xs)):
        carry = body(carry, tree.map(lambda leaf: leaf[index], xs))  # noqa: B023
    return carry


def repeat(function: Callable[[Tree], Tree], init: Tree, num: int) -> Tree:
    """Applies ``function`` ``num`` times.

    >>> repeat(lambda x: 2 * x, torch.tensor(1), 3)
    tensor(8)
    """
    if num == 0:
        return init
    if num == 1:
        return function(init)
    return fold(lambda carry, _: function(carry), init, torch.zeros(num, device=tree.first(init).device))


def while_loop(condition: Callable[[Tree], Tensor], body: Callable[[Tree], Tree], init: Tree) -> Tree:
    """Applies ``body`` while ``condition`` holds; many loops at once go on in lock step until the last has ended.

    Args:
        condition: ``carry -> ()`` bool. It may have leading axes, one for each of many loops, which every leaf of the
            carry then leads with: a loop whose condition is False keeps its carry as it is while others go on.
        body: ``carry -> carry``; it keeps structure, shapes and dtypes.
        init: the first carry.

    Returns:
        The last carry.

    >>> while_loop(lambda x: x < 10, lambda x: 2 * x, torch.tensor([1, 3, 50]))
    tensor([16, 12, 50])
    """

    def masked(carry: Tree) -> Tree:
        goes_on, after = condition(carry), body(carry)
        if goes_on.ndim == 0 and not _is_mapping():
            return after
        keep = lambda new, old: torch.where(goes_on.reshape(goes_on.shape + (1,) * (new.ndim - goes_on.ndim)), new, old)  # noqa: E731
        return tree.map(keep, after, carry)

    if is_compiling() and _while_operator is not None:
        leaves, structure = tree.flatten(_mapped_like(init, body(init)) if _is_mapping() else init)
        shapes = [leaf.shape for leaf in leaves]

        def unpack(leaves: tuple[Tensor, ...]) -> Tree:
            return tree.unflatten(structure, [leaf.reshape(shape) for leaf, shape in zip(leaves, shapes, strict=True)])

        last = _while_operator(
            lambda *leaves: condition(unpack(leaves)).any(),
            lambda *leaves: tuple(_own(leaf) for leaf in tree.leaves(masked(unpack(leaves)))),
            tuple(_own(leaf) for leaf in leaves),
        )
        return unpack(last)
    carry = init
    while _any(condition(carry)):
        carry = masked(carry)
    return carry


def _any(flags: Tensor) -> bool:
    """Whether any flag is set, in any of the loops that ``vmap`` maps over."""
    while torch._C._functorch.is_functorch_wrapped_tensor(flags):
        flags = torch._C._functorch.get_unwrapped(flags)
    return bool(flags.any())


def _mapped_like(init: Tree, after: Tree) -> Tree:
    """The same numbers, all mapped by each ``vmap`` that maps a leaf of ``after``, the carry of one step later.

    The operator wants it of its carry from the start; what one step maps in one leaf, the next may map in others.
    """
    never = torch.stack([leaf.new_zeros((), dtype=torch.bool) for leaf in tree.leaves(after)]).any()
    return tree.map(lambda leaf: torch.where(never, leaf, leaf), init)


def _own(leaf: Tensor) -> Tensor:
    """A copy with the plain strides of its shape: the operator compares strides too."""
    return leaf.clone(memory_format=torch.contiguous_format)


def _map_while_loop(interpreter: Any, condition: Any, body: Any, carried: Any, additional: Any, **_: Any) -> Any:
    """The rule of ``vmap`` for the operator, which has none: the mapped loops go on in lock step."""
    from torch._functorch.vmap import restore_vmap, unwrap_batched, wrap_batched

    size, level = interpreter.batch_size(), interpreter.level()
    (carried, additional), (carried_dims, additional_dims) = unwrap_batched((carried, additional), level)
    front = [
        leaf.expand(size, *leaf.shape) if dim is None else leaf.movedim(dim, 0)
        for leaf, dim in zip(carried, carried_dims, strict=True)
    ]
    in_dims = ((0,) * len(front) + tuple(additional_dims),)
    count = len(front)

    def mapped(function: Any, leaves: Any) -> list[Tensor]:
        outs, dims = restore_vmap(function, in_dims[0], size, interpreter.randomness())(*leaves)
        if isinstance(outs, Tensor):
            outs, dims = (outs,), (dims,)
        return [
            out.expand(size, *out.shape) if dim is None else out.movedim(dim, 0)
            for out, dim in zip(outs, dims, strict=True)
        ]

    def any_goes_on(*leaves: Tensor) -> Tensor:
        return mapped(condition, leaves)[0].any()

    def lock_step(*leaves: Tensor) -> tuple[Tensor, ...]:
        goes_on = mapped(condition, leaves)[0]
        pairs = zip(mapped(body, leaves), leaves[:count], strict=True)
        return tuple(_own(torch.where(goes_on.reshape(-1, *[1] * (old.ndim - 1)), new, old)) for new, old in pairs)

    with interpreter.lower():
        last = _while_primitive(any_goes_on, lock_step, tuple(_own(leaf) for leaf in front), tuple(additional))
    return wrap_batched(tuple(last), (0,) * count, level)


if _while_operator is not None:
    _while_primitive.py_impl(torch._C._functorch.TransformType.Vmap)(_map_while_loop)


def _call_operator(body: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree) -> tuple[Tree, list[Tensor]]:
    """The last carry, and the stacked leaves of what was emitted.

    The operator takes flat lists, refuses aliases of its inputs, and wants at least one output to stack.
    """
    init_leaves, carry_structure = tree.flatten(init)
    all_x_leaves, x_structure = tree.flatten(xs)
    shapes, is_mapping = [leaf.shape for leaf in init_leaves], _is_mapping()

    def pack(leaf: Tensor) -> Tensor:  # an axis of length 1 has no one stride, and vmap gives it several
        return _own(leaf.squeeze() if is_mapping else leaf)

    def flat_body(carry_leaves: list[Tensor], x_leaves: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        carry_leaves = [leaf.reshape(shape) for leaf, shape in zip(carry_leaves, shapes, strict=True)]
        carry, y = body(tree.unflatten(carry_structure, carry_leaves), tree.unflatten(x_structure, x_leaves))
        filler = torch.zeros((), device=carry_leaves[0].device)
        return [pack(leaf) for leaf in tree.leaves(carry)], [*(_own(leaf) for leaf in tree.leaves(y)), filler]

    carry_leaves, y_leaves = _scan_operator(flat_body, [pack(leaf) for leaf in init_leaves], all_x_leaves)
    carry_leaves = [leaf.reshape(shape) for leaf, shape in zip(carry_leaves, shapes, strict=True)]
    return tree.unflatten(carry_structure, carry_leaves), y_leaves[:-1]
