r"""Discrete states: which values a position may take, as data beside the energy.

Positions hold floats, so that energies have gradients with respect to them. A :class:`Space` says which floats: two levels for
bits and spins, one-hot rows for categories, whole numbers for ordinals. A tree of spaces, shaped like the position, mixes them,
with :func:`real` for leaves that are real numbers:

>>> from funcebm import random
>>> space = {"pixels": binary((28, 28)), "label": categorical(1, 10), "pose": real(3)}
>>> position = start(space)(random.key(0))
>>> position["label"].shape
torch.Size([1, 10])
"""

from .enumeration import index, num_states, state, states
from .integers import collect, from_integers, to_integers
from .moves import changes, neighbour, shift, site_sizes
from .space import Space, binary, categorical, check, ordinal, real, spins
from .starts import sample, start

__all__ = [
    "Space",
    "binary",
    "categorical",
    "changes",
    "check",
    "collect",
    "from_integers",
    "index",
    "neighbour",
    "num_states",
    "ordinal",
    "real",
    "sample",
    "shift",
    "site_sizes",
    "spins",
    "start",
    "state",
    "states",
    "to_integers",
]
