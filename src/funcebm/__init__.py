"""Energy-based models as pure functions on ``torch.func``.

An energy is ``(params, x) -> ()``; samplers, losses and optimizers are tuples of pure functions; :func:`sample` and
:func:`fit` run them, compiled whole.
"""

from . import (
    _deprecated,
    adaptation,
    bijections,
    chains,
    checks,
    couplings,
    datasets,
    diagnostics,
    distributed,
    energies,
    fields,
    flows,
    graphs,
    integrators,
    loops,
    losses,
    metrics,
    networks,
    normalizers,
    optimizers,
    pairwise,
    paths,
    plotting,
    random,
    samplers,
    schedules,
    solvers,
    spaces,
    training,
    transforms,
    tree,
    types,
)
from .adaptation import WarmUp, warm_up
from .chains import Samples, load, reducers, resume, sample, save
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
    "bijections",
    "chains",
    "checks",
    "couplings",
    "datasets",
    "diagnostics",
    "distributed",
    "energies",
    "fields",
    "fit",
    "flows",
    "graphs",
    "integrators",
    "jit",
    "load",
    "loops",
    "losses",
    "metrics",
    "networks",
    "normalizers",
    "optimizers",
    "pairwise",
    "paths",
    "plotting",
    "random",
    "reducers",
    "resume",
    "sample",
    "save",
    "samplers",
    "schedules",
    "solvers",
    "spaces",
    "training",
    "transforms",
    "tree",
    "types",
    "warm_up",
]

__version__ = "0.1.0"

_deprecated.register()


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


for _name in __all__:  # what is public shows, and nothing else: ``dir(funcebm.samplers)``
    _module = globals()[_name]
    if hasattr(_module, "__all__"):
        _module.__dir__ = _module.__all__.copy
