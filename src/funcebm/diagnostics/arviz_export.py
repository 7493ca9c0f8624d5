"""To ArviZ, for its plots and tables."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import tree
from ..checks import message, require
from .draws import check_shapes
from .sampler_report import is_samples

__all__ = ["to_arviz"]

_SAMPLE_STATS = {  # ours: ArviZ's
    "acceptance_rate": "acceptance_rate",
    "is_accepted": "accepted",
    "is_divergent": "diverging",
    "num_gradients": "n_steps",
    "total_energy": "energy",
    "tree_depth": "tree_depth",
    "is_max_depth": "reached_max_treedepth",
}


def to_arviz(samples: Any, names: str | Sequence[str] | None = None) -> Any:
    """The samples as ArviZ's ``InferenceData``, with the groups ``posterior`` and ``sample_stats``.

    The statistics have ArviZ's names: ``acceptance_rate, accepted, diverging, n_steps, lp, energy, tree_depth,
    reached_max_treedepth, step_size``, each where the sampler tells. ``lp`` is minus the energy (of temperature 1, without
    the normalizer); ``energy`` is the total energy, which only Hamiltonian samplers have, so that ArviZ's E-BFMI is
    right. Other fields of the info keep their names. Needs ArviZ below 1: ``pip install "funcebm[arviz]"``.

    Args:
        samples: what :func:`funcebm.chains.sample` gives, or a tree of draws ``(C, N, *event)``.
        names: the names of the variables, one for each leaf of the draws in order; by default the paths of the leaves,
            such as ``layer/weight``, and ``x`` for a tensor.

    Returns:
        ``arviz.InferenceData``, with copies on the CPU.

    Raises:
        ImportError: ArviZ is not there, or is 1.0 or above.
        ValueError, TypeError: draws that are not ``(C, N, *event)``, or names that do not fit them.

    >>> from funcebm import random
    >>> data = to_arviz({"a": random.normal(random.key(0), (4, 100, 2))})
    >>> data.posterior["a"].shape
    (4, 100, 2)
    """
    arviz = _arviz()
    draws = samples.draws if is_samples(samples) else samples
    check_shapes(draws, minimum=1)
    leaves = tree.leaves(draws)
    if names is None:
        names = [path or "x" for path in tree.paths(draws)]
    names = [names] if isinstance(names, str) else list(names)
    must = "names must be one for each leaf of the draws, all different"
    right = len(names) == len(leaves) == len(set(names))
    require(right, must, f"{names} for {tree.paths(draws)}", "Leave names out to use the paths of the leaves.")
    posterior = {name: _array(leaf) for name, leaf in zip(names, leaves, strict=True)}
    stats = _sample_stats(samples, tuple(leaves[0].shape[:2])) if is_samples(samples) else {}
    return arviz.from_dict(posterior=posterior, sample_stats=stats or None)


def _sample_stats(samples: Any, shape: tuple[int, int]) -> dict[str, Any]:
    fields = samples.info._asdict() if hasattr(samples.info, "_asdict") else {}
    found = {name: value for name, value in fields.items() if isinstance(value, Tensor) and tuple(value.shape) == shape}
    stats = {_SAMPLE_STATS.get(name, name): _array(value) for name, value in found.items() if name != "energy"}
    if "energy" in found:
        stats["lp"] = _array(-found["energy"])
    step_size = getattr(getattr(getattr(samples, "run", ()), "tuning", ()), "step_size", None)
    if isinstance(step_size, Tensor) and step_size.ndim == 0:
        stats["step_size"] = _array(step_size.expand(shape))
    return stats


def _array(value: Tensor) -> Any:
    value = value.detach().cpu()
    if value.is_floating_point() and value.element_size() < 4:
        value = value.float()  # NumPy has no bfloat16
    return value.numpy().copy()


def _arviz() -> Any:
    fix = 'Run: pip install "arviz<1".'
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its next version
        try:
            arviz = importlib.import_module("arviz")
        except ImportError as error:
            raise ImportError(message("to_arviz needs ArviZ", "an environment without it", fix)) from error
    if not hasattr(arviz, "InferenceData"):
        raise ImportError(message("to_arviz needs ArviZ below 1", getattr(arviz, "__version__", "another"), fix))
    return arviz
