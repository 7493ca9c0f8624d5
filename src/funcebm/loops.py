"""Loops that mean the same eager and compiled: ``scan`` and its friends.

Under :func:`funcebm.transforms.jit` a loop is one higher-order operator with a compiled body; otherwise it is a Python
loop, the reference semantics, with the same numbers. Inside ``torch.func.grad`` it is always a Python loop, which the
compiler unrolls: the operator cannot be differentiated through.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from . import mapped_loops, tree
from .mapped_loops import own
from .types import Tree

_scan_operator: Any
_while_operator: Any
try:
    from torch._higher_order_ops.scan import scan as _scan_operator
    from torch._higher_order_ops.scan import scan_op
    from torch._higher_order_ops.while_loop import while_loop as _while_operator
    from torch._higher_order_ops.while_loop import while_loop_op

    mapped_loops.register(scan_op, while_loop_op)
except (ImportError, AttributeError):  # a torch without the operators: every loop is a Python loop
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


def scan(
    body: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree, *, is_plain: bool = False
) -> tuple[Tree, Tree]:
    """Carries a state through ``body`` along the leading axis of ``xs``, and stacks what it emits.

    Args:
        body: ``(carry, x) -> (carry, y)``; the carry keeps its structure, shapes and dtypes. ``y`` may be ``()``.
        init: the first carry.
        xs: a tree whose leaves share a leading axis of length ``T``.
        is_plain: whether ``y`` has no NamedTuple in it, but dicts, lists and tuples alone. Then the compiler goes through a
            long body once, and not twice.

    Returns:
        The last carry, and the ``y`` stacked on a leading axis of length ``T``.

    >>> total, sums = scan(lambda carry, x: (carry + x, carry + x), torch.tensor(0), torch.arange(4))
    >>> total, sums
    (tensor(6), tensor([0, 1, 3, 6]))
    """
    if is_compiling() and has_scan and not _is_differentiating():
        if is_plain:
            return _call_operator(body, init, xs)
        # only a call can tell what the body emits; this one is dead code, which the compiler drops
        structure = tree.structure(body(init, tree.map(lambda leaf: leaf[0], xs))[1])
        carry, y_leaves = _call_operator(_with_leaves(body), init, xs)
        return carry, tree.unflatten(structure, y_leaves)
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


def while_loop(
    condition: Callable[[Tree], Tensor], body: Callable[[Tree], Tree], init: Tree, *, is_masked: bool = True
) -> Tree:
    """Applies ``body`` while ``condition`` holds; many loops at once go on in lock step until the last has ended.

    Args:
        condition: ``carry -> ()`` bool. It may have leading axes, one for each of many loops, which every leaf of the
            carry then leads with: a loop whose condition is False keeps its carry as it is while others go on.
        body: ``carry -> carry``; it keeps structure, shapes and dtypes.
        init: the first carry.
        is_masked: False where ``body`` itself leaves a carry whose condition is False as it is, which saves a copy a turn.

    Returns:
        The last carry.

    >>> while_loop(lambda x: x < 10, lambda x: 2 * x, torch.tensor([1, 3, 50]))
    tensor([16, 12, 50])
    """

    def masked(carry: Tree) -> Tree:
        if not is_masked:
            return body(carry)
        goes_on = condition(carry)
        keep = lambda new, old: torch.where(goes_on.reshape(goes_on.shape + (1,) * (new.ndim - goes_on.ndim)), new, old)  # noqa: E731
        return tree.map(keep, body(carry), carry)

    if is_compiling() and _while_operator is not None:
        leaves, structure = tree.flatten(init)

        def goes_on(is_first: Tensor, *leaves: Tensor) -> Tensor:
            return is_first | condition(tree.unflatten(structure, list(leaves))).any()

        def turn(is_first: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
            after = tree.leaves(masked(tree.unflatten(structure, list(leaves))))
            return (torch.zeros_like(is_first), *(own(leaf) for leaf in after))

        # always one turn, if only of no effect: a compiled loop of none hands on memory that is used again
        is_first = torch.ones((), dtype=torch.bool, device=leaves[0].device)
        last = _while_operator(goes_on, turn, (is_first, *(own(leaf) for leaf in leaves)))
        return tree.unflatten(structure, list(last[1:]))
    carry = init
    while _any(condition(carry)):
        carry = masked(carry)
    return carry


def _any(flags: Tensor) -> bool:
    """Whether any flag is set, in any of the loops that ``vmap`` maps over."""
    while torch._C._functorch.is_functorch_wrapped_tensor(flags):
        flags = torch._C._functorch.get_unwrapped(flags)
    return bool(flags.any())


def _with_leaves(body: Callable[[Tree, Tree], tuple[Tree, Tree]]) -> Callable[[Tree, Tree], tuple[Tree, list[Tensor]]]:
    """A body that emits the leaves of what the other one does."""

    def with_leaves(carry: Tree, x: Tree) -> tuple[Tree, list[Tensor]]:
        carry, y = body(carry, x)
        return carry, tree.leaves(y)

    return with_leaves


def _call_operator(body: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, xs: Tree) -> tuple[Tree, Tree]:
    """The last carry, and what was emitted, stacked: dicts, lists and tuples.

    The operator takes flat lists, refuses aliases of its inputs, and wants at least one output to stack.
    """
    init_leaves, carry_structure = tree.flatten(init)
    all_x_leaves, x_structure = tree.flatten(xs)

    def flat_body(carry_leaves: list[Tensor], x_leaves: list[Tensor]) -> tuple[list[Tensor], tuple[Tree, Tensor]]:
        carry, y = body(tree.unflatten(carry_structure, carry_leaves), tree.unflatten(x_structure, x_leaves))
        filler = torch.zeros((), device=carry_leaves[0].device)
        return [own(leaf) for leaf in tree.leaves(carry)], (tree.map(own, y), filler)

    # the operator traces its body with contiguous slices, and so they must be
    all_x_leaves = [leaf.contiguous() for leaf in all_x_leaves]
    carry_leaves, (ys, _) = _scan_operator(flat_body, [own(leaf) for leaf in init_leaves], all_x_leaves)
    return tree.unflatten(carry_structure, carry_leaves), ys
