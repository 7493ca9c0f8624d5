"""Energy-based models as pure functions on ``torch.func``.

An energy is ``(params, x) -> ()``; samplers, losses and optimizers are tuples of pure functions; :func:`sample` and
:func:`fit` run them, compiled whole.
"""

from . import (
    chains,
    checks,
    datasets,
    diagnostics,
    energies,
    fields,
    integrators,
    loops,
    losses,
    metrics,
    optimizers,
    plotting,
    random,
    reducers,
    samplers,
    schedules,
    training,
    transforms,
    tree,
    types,
)
from .chains import Samples, resume, sample
from .training import Fit, fit
from .transforms import jit
from .types import Loss, LossAux, Optimizer, Sampler

__all__ = [
    "Fit",
    "Loss",
    "LossAux",
    "Optimizer",
    "Sampler",
    "Samples",
    "chains",
    "checks",
    "datasets",
    "diagnostics",
    "energies",
    "fields",
    "fit",
    "integrators",
    "jit",
    "loops",
    "losses",
    "metrics",
    "optimizers",
    "plotting",
    "random",
    "reducers",
    "resume",
    "sample",
    "samplers",
    "schedules",
    "training",
    "transforms",
    "tree",
    "types",
]
