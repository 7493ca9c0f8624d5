r"""Schedules: pure functions of the step index, ``step () -> value ()``.

A schedule has no state, so there is nothing to reset: the value at step ``n`` is the same however often, in whatever
order and in how many places it is asked for. All of them are elementwise tensor arithmetic: they run under ``vmap`` and
``torch.compile``, and ``schedule(torch.arange(100))`` is a curve to plot. The value has the default dtype, or that of
the step or of the numbers where those are floating-point tensors.

Numbers given as 0-d tensors may be traced (``vmap`` over them, differentiate through them); counts are static.
"""

from ._composition import join, piecewise, temperature, warm_up
from ._decay import constant, cosine, exponential, geometric, linear, logarithmic, polynomial

__all__ = [
    "constant",
    "cosine",
    "exponential",
    "geometric",
    "join",
    "linear",
    "logarithmic",
    "piecewise",
    "polynomial",
    "temperature",
    "warm_up",
]
