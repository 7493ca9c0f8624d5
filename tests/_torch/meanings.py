"""What the tests of meanings share."""

from __future__ import annotations

import functools

import torch

from funcebm._torch.meaning import meaning


def cell(source, **names):
    """Runs source text as a notebook cell would, in a namespace of its own or in the one given; returns the namespace."""
    namespace = names.pop("namespace", None) or {"__name__": "__main__", "torch": torch, **names}
    exec(compile(source, f"<cell {id(source)}>", "exec"), namespace)
    return namespace


def is_same(one, other):
    one, other = meaning(one), meaning(other)
    assert one.is_certain and other.is_certain
    return one.key == other.key and hash(one.key) == hash(other.key)


FUNCTION = (
    "a = 2.0\ndef helper(x):\n    return a * x\ndef f(x, k=1, *, c=3):\n    return helper(x) + torch.sin(x) * k\n"
)
CLASS = """
import abc, dataclasses, enum, functools, typing
class Base:
    scale: float = 2.0
    def __init__(self, k):
        self.k = k
class Kind(enum.Enum):
    FLAT = 1
    CURVED = "curved"
class Flags(enum.IntFlag):
    ONE = 1
    TWO = 2
@dataclasses.dataclass(frozen=True)
class Data:
    width: int | None = 3
    names: list[str] = dataclasses.field(default_factory=list)
class Pair(typing.NamedTuple):
    one: float
    two: float = 2.0
T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    pass
class Abstract(abc.ABC):
    @abc.abstractmethod
    def f(self): ...
class Double(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 2 * x
    @staticmethod
    def setup_context(ctx, inputs, output): ...
    @staticmethod
    def backward(ctx, grad):
        return 2 * grad
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
    def forward(self, x):
        return self.layer(x)
class Energy(Base):
    __slots__ = ("extra", "unbound")
    def __init__(self, k):
        super().__init__(k)
        self.extra = (Kind.FLAT, Flags.ONE, Flags.ONE | Flags.TWO, Data(), Pair(1.0), Box(), Abstract, Double, Net())
    @property
    def twice(self):
        return 2 * self.k
    @functools.cached_property
    def thrice(self):
        return 3 * self.k
    @staticmethod
    def static(x):
        return x
    @classmethod
    def make(cls, k):
        return cls(k)
    def __getattr__(self, name):
        raise RuntimeError("no attribute may be looked up")
    def __eq__(self, other):
        raise RuntimeError("nothing may be compared")
    def __hash__(self):
        raise RuntimeError("nothing may be hashed")
    def __call__(self, x):
        return self.twice * self.scale * x
energy = Energy(1.0)
f = lambda x: energy(x)
"""


def factory(constant):
    return lambda x: constant * x


def around(tensor):
    def inner(x):
        return x @ tensor

    return functools.partial(inner)


def build(make, *args):
    return lambda: make(*args)
