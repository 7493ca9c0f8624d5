"""Operators that draw from torch's own generator: in a program their numbers would depend on no key, so they are refused."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["RandomnessAsked", "refuse_generators"]

_NAMES = {
    "bernoulli",
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "multinomial",
    "native_dropout",
}
_NAMES |= {"normal", "normal_", "normal_functional", "poisson", "rand", "rand_like", "randint", "randint_like", "randn"}
_NAMES |= {"randn_like", "random_", "randperm", "rrelu_with_noise", "uniform_"}


class RandomnessAsked(RuntimeError):
    """A traced function draws random numbers of torch."""


def refuse_generators(operator: Any) -> None:
    """An error where an operator of a program draws random numbers.

    Attention has the tag of those that do, and draws none without dropout.
    """
    if torch.Tag.nondeterministic_seeded in operator.tags and operator.overloadpacket.__name__ in _NAMES:
        raise RandomnessAsked(f"{operator} draws random numbers of torch")
