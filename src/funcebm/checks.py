"""Checks at the door, and the one template of their messages: what must hold, what came, how to fix it."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any, Iterator

import torch
from torch import Tensor

from . import tree
from ._torch.tracing import is_concrete, is_tracing
from .types import Tree

__all__ = [
    "differences",
    "different_names",
    "dtypes_explained",
    "finite",
    "function",
    "given_parts",
    "instance",
    "is_concrete",
    "is_traced",
    "like_position",
    "message",
    "numbers",
    "one_of",
    "one_structure",
    "positive",
    "positive_definite",
    "positive_int",
    "require",
    "same_device",
    "same_shapes",
    "takes",
    "unweighted",
]


def message(must: str, got: str, fix: str) -> str:
    """The text of an error.

    >>> message("step_size must be positive", "-1.0", "Try 0.1.")
    'step_size must be positive. Got -1.0. Try 0.1.'
    """
    return f"{must}. Got {got}. {fix}"


def require(condition: bool, must: str, got: Any, fix: str, error: type[Exception] = ValueError) -> None:
    """Raises ``error`` with the usual message unless the condition holds.

    >>> require(1 < 2, "one must be below two", 1, "Count again.")
    """
    if not condition:
        raise error(message(must, got if isinstance(got, str) else repr(got), fix))


def positive(name: str, value: float | Tensor | None, fix: str = "Give a number above zero.") -> None:
    """``value`` (a number, or a tensor whose every entry) must be above zero and finite.

    >>> positive("step_size", 0.1)
    >>> positive("step_size", -0.1)
    Traceback (most recent call last):
    ValueError: step_size must be ... Got -0.1. Give a number above zero.
    """
    if isinstance(value, Tensor):
        if is_concrete(value) and not bool(((value > 0) & torch.isfinite(value)).all()):
            raise ValueError(message(f"{name} must be positive and finite", str(value.tolist()), fix))
    elif value is not None:
        is_number = hasattr(value, "__float__") and not hasattr(value, "__len__")
        require(is_number, f"{name} must be a number", value, fix, TypeError)
        require(0 < value < float("inf"), f"{name} must be positive and finite", value, fix)


def unweighted(name: str, sampler: Any) -> None:
    """A sampler that others are made of must leave the density invariant, without weights on its draws.

    >>> from funcebm import samplers
    >>> unweighted("cycle", samplers.gibbs(lambda params, x: x.sum()))
    """
    got, fix = "a rejection-free one, whose draws need their holding times", "Leave out rejection_free=True."
    require(not sampler.is_weighted, f"{name} needs kernels that leave the density invariant", got, fix)


def finite(name: str, value: float | Tensor, fix: str = "Give a number.") -> None:
    """``value`` (a number, or a tensor) must be finite.

    >>> finite("weight", float("nan"))
    Traceback (most recent call last):
    ValueError: weight must be finite. Got nan. Give a number.
    """
    is_number = isinstance(value, Tensor) or (hasattr(value, "__float__") and not hasattr(value, "__len__"))
    require(is_number, f"{name} must be a number", value, fix, TypeError)
    if not isinstance(value, Tensor) or is_concrete(value):
        is_finite = bool(torch.isfinite(torch.as_tensor(value)).all())
        require(is_finite, f"{name} must be finite", f"{value}", fix)


def numbers(name: str, values: Any, fix: str) -> tuple[float, ...]:
    """``values`` as floats: a list, tuple, array or tensor of numbers.

    >>> numbers("weights", [1, 2], "Write [1, 2].")
    (1.0, 2.0)
    """
    right = hasattr(values, "__iter__") and not isinstance(values, (str, dict))
    require(right, f"{name} must be a list of numbers", values, fix, TypeError)
    found = tuple(values)
    are_numbers = all(hasattr(value, "__float__") for value in found)
    require(are_numbers, f"{name} must be a list of numbers", values, fix, TypeError)
    return tuple(float(value) for value in found)


def is_traced(value: Tree) -> bool:
    """Whether a compiler, or a transform such as ``vmap``, is at work on these tensors."""
    tensors = [leaf for leaf in tree.leaves(value) if isinstance(leaf, Tensor)]
    return is_tracing() or not all(leaf.is_meta or is_concrete(leaf) for leaf in tensors)


def positive_definite(name: str, matrix: Tensor, fix: str) -> None:
    """A matrix ``(D, D)`` must be finite, symmetric and positive definite; where its numbers cannot be seen it passes.

    >>> positive_definite("metric", torch.eye(2), "Take the identity.")
    """
    if is_concrete(matrix):
        got, scale = (
            "a matrix that is not",
            matrix.diagonal().abs().sqrt(),
        )  # each entry on the scale of its coordinates
        require(bool(torch.isfinite(matrix).all()), f"{name} must be finite", got, fix)
        is_symmetric = ((matrix - matrix.mT).abs() <= 1e-4 * scale[:, None] * scale).all()
        require(bool(is_symmetric), f"{name} must be symmetric", got, fix)
        require(int(torch.linalg.cholesky_ex(matrix)[1]) == 0, f"{name} must be positive definite", got, fix)


def positive_int(name: str, value: int, minimum: int = 1) -> None:
    """``value`` must be an integer of at least ``minimum``.

    >>> positive_int("num_steps", 10)
    """
    is_int = isinstance(value, int) and not isinstance(value, bool)
    fix = (
        f"Give {minimum} or more."
        if is_int
        else f"Write int({name})."
        if hasattr(value, "__index__")
        else "Give an int."
    )
    require(is_int and value >= minimum, f"{name} must be an integer of at least {minimum}", value, fix)


def given_parts(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a combination is made of, which comes one by one, or as one list or tuple.

    >>> given_parts((1, 2)), given_parts(([1, 2],))
    ((1, 2), (1, 2))
    """
    return tuple(given[0]) if len(given) == 1 and type(given[0]) in (list, tuple) else given


def one_of(name: str, value: Any, known: tuple[str, ...], fix: str = "Write one of them.") -> None:
    """``value`` must be among the known names.

    >>> one_of("lengths", "long", ("halton", "uniform"))
    Traceback (most recent call last):
    ValueError: lengths must be one of ('halton', 'uniform'). Got long. Write one of them.
    """
    require(value in known, f"{name} must be one of {known}", value, fix)


def takes(name: str, function: Any, arguments: tuple[str, ...], fix: str) -> None:
    """``function`` must be one that can be called with these arguments; where that cannot be known it passes.

    >>> takes("make_sampler", lambda energy: None, ("energy", "beta"), "Write lambda energy, beta: ...")
    Traceback (most recent call last):
    TypeError: make_sampler must be a function of (energy, beta). Got ... Write lambda energy, beta: ...
    """
    is_right = callable(function) and not hasattr(function, "_fields")
    if is_right:
        with contextlib.suppress(ValueError):  # of what has no signature
            try:
                inspect.signature(function).bind(*arguments)
            except TypeError:
                is_right = False
    got = getattr(function, "__qualname__", None) or f"a {type(function).__name__}"
    require(is_right, f"{name} must be a function of ({', '.join(arguments)})", got, fix, TypeError)


def function(name: str, value: Any, fix: str) -> None:
    """``value`` must be a function (and no tuple of functions, such as a sampler).

    >>> function("weight", 0.5, "Write lambda t: 0.5 + 0 * t.")
    Traceback (most recent call last):
    TypeError: weight must be a function. Got 0.5. Write lambda t: 0.5 + 0 * t.
    """
    require(callable(value) and not hasattr(value, "_fields"), f"{name} must be a function", value, fix, TypeError)


def instance(name: str, value: Any, kind: type, fix: str) -> None:
    """``value`` must be of a type.

    >>> instance("name", 3, str, "Write 'three'.")
    Traceback (most recent call last):
    TypeError: name must be a str. Got 3. Write 'three'.
    """
    right = isinstance(value, kind)
    got = f"the function {value.__name__} itself" if not right and hasattr(value, "__name__") else value
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    require(right, f"{name} must be {article} {kind.__name__}", got, fix, TypeError)


def like_position(name: str, got: Tree, position: Tree, fix: str = "Return one number for each number of it.") -> None:
    """What a function of one particle returns must have the structure and the shapes of the particle. Looks at shapes only.

    >>> like_position("a field", torch.zeros(3), torch.zeros(2))
    Traceback (most recent call last):
    ValueError: a field must return the shapes of the position. Got (3,) for a position of shape (2,). Return one ...
    """
    one_structure(f"the output of {name}", got, "the position", position)
    for leaf_name, have, want in zip(tree.paths(position), tree.leaves(got), tree.leaves(position), strict=True):
        if getattr(have, "shape", None) != want.shape:
            where = f"leaf {leaf_name!r}: " if leaf_name else ""
            found = f"{where}{tuple(getattr(have, 'shape', ()))} for a position of shape {tuple(want.shape)}"
            raise ValueError(message(f"{name} must return the shapes of the position", found, fix))


def one_structure(name: str, got: Tree, expected_name: str, expected: Tree) -> None:
    """Two trees must have one structure; the message names the leaves that differ.

    >>> one_structure("mean", (1, 2), "one position", (3, 4))
    """
    if tree.structure(got) == tree.structure(expected):
        return
    have, want = set(tree.paths(got)), set(tree.paths(expected))
    found = f"leaves missing: {sorted(want - have)}, leaves not expected: {sorted(have - want)}"
    if have == want:  # other containers
        found = f"{tree.structure(got)} in place of {tree.structure(expected)}"
    raise ValueError(
        message(
            f"{name} must be a tree of the same structure as {expected_name}",
            found,
            f"Start from {expected_name} and change its leaves.",
        )
    )


def same_shapes(name: str, got: Tree, expected: Tree, fix: str) -> None:
    """The leaves of two trees of one structure must have the same shapes.

    >>> same_shapes("mean", torch.zeros(2), torch.zeros(3), "Give one position.")
    Traceback (most recent call last):
    ValueError: mean must have the shapes [(3,)]. Got [(2,)]. Give one position.
    """
    have, want = ([tuple(leaf.shape) for leaf in tree.leaves(value)] for value in (got, expected))
    require(have == want, f"{name} must have the shapes {want}", str(have), fix)


def same_device(**trees: Tree) -> None:
    """All leaves of all the trees must be on one device.

    >>> same_device(params=torch.zeros(2), positions=torch.zeros(3))
    """
    devices = {
        name: {str(leaf.device) for leaf in tree.leaves(value) if isinstance(leaf, Tensor)}
        for name, value in trees.items()
    }
    seen = set().union(*devices.values())
    if len(seen) > 1:
        where = ", ".join(f"{name} on {sorted(found)}" for name, found in devices.items() if found)
        fix = "Move them to one device with funcebm.tree.map(lambda leaf: leaf.to(device), ...)."
        raise ValueError(message(f"{' and '.join(devices)} must be on one device", where, fix))


def differences(got: dict[str, Tensor], expected: dict[str, Tensor], *, dtypes: bool = True) -> str:
    """How leaves by name differ from those expected, in words; the empty string where they do not.

    >>> differences({"a": torch.zeros(2), "c": torch.zeros(1)}, {"a": torch.zeros(3), "b": torch.zeros(1)})
    'missing: b; not expected: c; a: (2,) in place of (3,)'
    """
    found = []
    for words, names in (("missing", expected.keys() - got.keys()), ("not expected", got.keys() - expected.keys())):
        if names:
            found.append(f"{words}: {', '.join(sorted(names))}")
    for name in sorted(got.keys() & expected.keys()):
        have, want, label = got[name], expected[name], f"{name}: " if name else ""
        if have.shape != want.shape:
            found.append(f"{label}{tuple(have.shape)} in place of {tuple(want.shape)}")
        elif dtypes and have.dtype != want.dtype:
            found.append(f"{label}{have.dtype} in place of {want.dtype}")
    return "; ".join(found)


def different_names(part: str, names: list[str]) -> None:
    """The leaves of a tree that is written by name must not share one.

    >>> different_names("params", ["a/b", "a/b"])
    Traceback (most recent call last):
    ValueError: leaves of params must have different names. Got a/b twice. Rename keys: ...
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    fix = "Rename keys: 'a/b' of one dict and 'b' of its 'a' are written under one name."
    require(not twice, f"leaves of {part} must have different names", f"{', '.join(twice)} twice", fix)


_ONE_DTYPE = "must have one floating-point dtype"


@contextlib.contextmanager
def dtypes_explained(**trees: Tree) -> Iterator[None]:
    """Around a user's function of these trees: an error about dtypes, where theirs differ, says which has what.

    >>> with dtypes_explained(params=torch.zeros(2, 2), data=torch.zeros(2).double()):
    ...     torch.zeros(2, 2) @ torch.zeros(2).double()
    Traceback (most recent call last):
    TypeError: params and data must have one floating-point dtype. Got params of torch.float32, data of torch.float64 ...
    """
    try:
        yield
    except (RuntimeError, TypeError) as error:
        text = str(error)
        kinds = {
            name: sorted({str(leaf.dtype) for leaf in tree.leaves(value) if isinstance(leaf, Tensor)})
            for name, value in trees.items()
        }
        found = {kind for names in kinds.values() for kind in names}
        is_told = _ONE_DTYPE in text  # by the same, further inside
        if is_told or not ("dtype" in text or "scalar type" in text) or len(found) < 2:
            raise
        got = ", ".join(f"{name} of {' and '.join(names)}" for name, names in kinds.items() if names)
        name = list(trees)[-1]
        fix = (
            f"Convert the one or the other: {name}.to(torch.float32) (integers, such as images, {name}.float() / 255), or "
            "funcebm.tree.map(lambda leaf: leaf.to(torch.float64), params)."
        )
        raise TypeError(message(f"{' and '.join(trees)} {_ONE_DTYPE}", f"{got} ({text})", fix)) from error
