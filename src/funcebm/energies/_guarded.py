"""An energy as samplers call it: what fails at a position is outside of the support, what cannot work says so."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

import torch
from torch import Tensor

from .. import checks, tree
from .._torch.failures import FailuresAreNan, LinAlgError
from .._torch.jitting import TracedValueError, asks_for_value, draws_numbers, users_line
from .._torch.supports import noted
from .._torch.tracing import is_tracing, plain
from ..types import Energy, Position, Tree
from ._carried import with_space_of

__all__ = ["explained", "guarded"]


def guarded(energy: Energy) -> Energy:
    """The energy, made fit for proposals anywhere.

    - A matrix that :mod:`torch.linalg` cannot factorize, invert, solve with or diagonalize gives NaN, in that particle.
    - What the argument checks of ``torch.distributions`` refuse gives an infinite energy; they are as they were afterwards.
    - Errors of torch about control flow, changes in place and dtypes say what to write; those of the user stay theirs.

    Args:
        energy: ``(params, x) -> ()``, or with further arguments.

    Returns:
        A function of the same arguments. The first one that is guarded stays: guarding twice is guarding once.

    Raises:
        ValueError: (on calls) an energy that changes its position.
        TypeError: (on calls) a result that is no floating-point number, dtypes that do not go together.
        TracedValueError: (on calls) control flow on numbers, ``.item()``, numpy.
    """
    if getattr(energy, "is_guarded", False):
        return energy

    def evaluate(*arguments: Any) -> Tensor:
        params, position = arguments[:2]
        before = [] if is_tracing() else [_versions(position), _versions(params)]
        with explained(params=params, positions=position), FailuresAreNan(), noted() as support:
            value = energy(*arguments)
        if not is_tracing() and [_versions(position), _versions(params)] != before:
            raise ValueError(_CHANGED if _versions(position) != before[0] else _CHANGED_OTHERS)
        return _inside(_number(value, position), support.flags)

    evaluate.is_guarded = True  # type: ignore[attr-defined]
    return with_space_of(evaluate, energy)


_CHANGED = checks.message(
    "an energy must not change its position in place",
    "one that does",
    "Write x = x + 1 in place of x += 1, or begin with x = x.clone().",
)


_OF_OTHERS = "change its params, or what it reads from outside, in place"
_CHANGED_OTHERS = checks.message(
    f"an energy must not {_OF_OTHERS}", "one that does", "Write a = a + 1 in place of a += 1."
)

_WRITES = "write numbers of its position into a tensor that has none, or another shape"
_BEGIN = "Begin with x.new_zeros(...) in place of torch.zeros(...), or use torch.stack, torch.cat and torch.where."
_RETURN = "Leave out= away: y = torch.add(x, 1) in place of torch.add(x, 1, out=y)."
_TOLD = (  # words of torch, what a function must not do, what to write
    ("mutate a captured Tensor", _OF_OTHERS, "Write a = a + 1 in place of a += 1, or begin with a = a.clone()."),
    ("(self, *extra_args) is not possible", _WRITES, _BEGIN),
    ("doesn't match the broadcast shape", _WRITES, _BEGIN),
    ("functions with out=", "write results by out=", _RETURN),
    ("work on out= or view ops", "write results by out=", _RETURN),
    ("accessing `data`", "use .data", "Leave it away; x.detach() is what is not differentiated."),
)


def _versions(value: Tree) -> list[int]:
    leaves = [plain(leaf) for leaf in tree.leaves(value) if isinstance(leaf, Tensor)]
    return [0 if leaf.is_inference() else leaf._version for leaf in leaves]


def _number(value: Any, position: Position) -> Any:
    """The value, if it is floating point; what has the wrong shape is told elsewhere."""
    if isinstance(value, Tensor) and not value.is_floating_point():
        must = "an energy must return a floating-point number"
        fix = "Use torch.where(condition, energy, torch.inf) for a region, and .to(x.dtype) for counts."
        raise TypeError(checks.message(must, str(value.dtype), fix))
    return value


def _inside(value: Any, flags: list[Tensor]) -> Any:
    for flag in flags:
        value = torch.where(flag, value, torch.inf)
    return value


@contextlib.contextmanager
def explained(who: str = "an energy", many: str = "all chains", **trees: Any) -> Iterator[None]:
    """Around a user's function: errors of torch that do not say what to write instead do so; others stay as they are.

    Args:
        who: the function, in messages.
        many: what it runs on at once.
        trees: what it is called with; where these are the params and the positions of an energy, other errors say so in a note.
    """
    try:
        with checks.dtypes_explained(**trees):
            yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, TracedValueError):
            raise
        if isinstance(error, LinAlgError):
            must = f"linear algebra in {who} must not fail at a position"
            fix = "Use cholesky_ex, inv_ex or solve_ex of torch.linalg, and torch.where(info == 0, energy, torch.inf)."
            raise LinAlgError(checks.message(must, f"{error}, at {users_line(error)}", fix)) from error
        if asks_for_value(error) and not is_tracing():
            raise TracedValueError(
                f"{who} must not ask a number of its position for its value: it runs on {many} at once. Got "
                f"{users_line(error)}. Use torch.where(condition, a, b) in place of if and of masks as indices, "
                "funcebm.loops.while_loop in place of while, tensors in place of numpy, .item() and float()."
            ) from error
        if "random operation" in text:
            raise ValueError(draws_numbers(error)) from error
        is_backward = "functorch transform" in text and ("backward()" in text or "requires_grad" in text)
        if is_backward or "does not have a grad_fn" in text:
            must = f"{who} must leave its derivatives to who calls it, or take them by torch.func"
            fix = "Return the energy alone; inside of one, torch.func.grad(f)(x) gives the gradient of a function f."
            raise ValueError(checks.message(must, users_line(error), fix)) from error
        for words, must, fix in _TOLD:
            if words in text:
                raise ValueError(checks.message(f"{who} must not {must}", users_line(error), fix)) from error
        if "in-place" in text and ("leaf Variable" in text or "vmap" in text):
            raise ValueError(f"{_CHANGED} At {users_line(error)}.") from error
        if "scaled_dot_product" in text or "transformer_encoder_layer" in text:
            must = f"attention in {who} must run by its formula, which can be mapped and differentiated twice"
            fix = "Use torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around it, or funcebm.energies.from_module."
            raise RuntimeError(checks.message(must, text, fix)) from error
        _note(error, trees)
        raise
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        _note(error, trees)
        raise


_NOTE = "funcebm: an energy is called as energy(params, x) with one particle, and no batch axis"


def _note(error: Exception, trees: dict[str, Any]) -> None:
    """Adds to the error of a user's energy, which stays as it is, what the energy was called with."""
    is_ours = error.__cause__ is not None or any(_NOTE in note for note in getattr(error, "__notes__", ()))
    if hasattr(error, "add_note") and not is_ours and "positions" in trees:  # from Python 3.11 on
        error.add_note(f"{_NOTE}; here params are {_kind(trees['params'])}, x is {_kind(trees['positions'])}.")


def _kind(value: Any) -> str:
    """A tree in words: shapes in place of tensors, types in place of all else."""
    if isinstance(value, Tensor):
        return f"of shape {tuple(value.shape)}"
    parts = [(name, leaf) for name, leaf in zip(tree.paths(value), tree.leaves(value), strict=True)]
    if len(parts) == 1 and not parts[0][0]:
        return f"a {type(value).__name__}"
    shown = ", ".join(f"{name!r} {_kind(leaf)}" for name, leaf in parts[:4])
    return f"a {type(value).__name__} with {shown or 'nothing'}" + (", ..." if len(parts) > 4 else "")
