"""Energy-based models as pure functions on ``torch.func``.

An energy is ``(params, x) -> ()``; samplers, losses and optimizers are tuples of pure functions; :func:`sample` and
:func:`fit` run them, compiled whole.
"""

from . import (
    adaptation,
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
    normalizers,
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
from .adaptation import WarmUp, warm_up
from .chains import Samples, resume, sample
from .training import Fit, fit
from .transforms import jit
from .types import Adaptation, Loss, LossAux, Optimizer, Sampler

__all__ = [
    "Adaptation",
    "Fit",
    "Loss",
    "LossAux",
    "Optimizer",
    "Sampler",
    "Samples",
    "WarmUp",
    "adaptation",
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
    "normalizers",
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
    "warm_up",
]
