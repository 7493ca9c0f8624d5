"""Energy-based models as pure functions on ``torch.func``.

An energy is ``(params, x) -> ()``; samplers, losses and optimizers are tuples of pure functions; :func:`sample` and
:func:`fit` run them, compiled whole.
"""

from . import (
    chains,
    checks,
    energies,
    fields,
    integrators,
    loops,
    metrics,
    random,
    reducers,
    samplers,
    schedules,
    transforms,
    tree,
    types,
)
from .chains import Samples, resume, sample
from .transforms import jit
