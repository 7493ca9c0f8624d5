"""To ArviZ, for its plots and tables."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import tree
from ..checks import message, require
from ..types import Tree
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


def to_arviz(
    samples: Any,
    names: str | Sequence[str] | None = None,
    *,
    log_likelihood: Tree = (),
    posterior_predictive: Tree = (),
    prior: Tree = (),
    prior_predictive: Tree = (),
    observed_data: Tree = (),
) -> Any:
    """The samples as ArviZ's ``InferenceData``, from ArviZ 1 on an ``xarray.DataTree``, with the groups of ArviZ.

    There are ``posterior``, ``sample_stats``, and those of the arguments that are given. The statistics have ArviZ's names:
    ``acceptance_rate, accepted, diverging, n_steps, lp, energy, tree_depth, reached_max_treedepth, step_size``, each where the
    sampler tells. ``lp`` is minus the energy (of temperature 1, without the normalizer); ``energy`` is the total energy,
    which only Hamiltonian samplers have, so that ArviZ's E-BFMI is right. Other fields of the info keep their names. Needs
    ArviZ: ``pip install "funcebm[arviz]"``.

    Args:
        samples: what :func:`funcebm.chains.sample` gives, or a tree of draws ``(C, N, *event)``.
        names: the names of the variables, one for each leaf of the draws in order; by default the paths of the leaves,
            such as ``layer/weight`` (``layer.weight`` from ArviZ 1 on, whose trees have no slashes in names), and ``x`` for a
            tensor.
        log_likelihood: of each observation at each draw, ``(C, N, *observations)``, which ``az.loo`` reads:
            ``vmap(vmap(log_likelihood, (None, 0)), (None, 0))(data, samples.draws)``.
        posterior_predictive: data drawn at each draw, ``(C, N, *observations)``.
        prior: draws of the prior ``(S, *event)``, independent of one another: they become one chain.
        prior_predictive: data drawn at each of those. ``(S, *observations)``.
        observed_data: ``(*observations,)``. All these are trees; the name of a lone tensor is ``y`` (of the prior ``x``).

    Returns:
        ``arviz.InferenceData`` or ``xarray.DataTree``, with copies on the CPU.

    Raises:
        ImportError: ArviZ is not there.
        ValueError, TypeError: draws that are not ``(C, N, *event)``, names that do not fit them, or log-likelihoods and
            predictions without the chains and draws of the samples.

    >>> from funcebm import random
    >>> draws = {"a": random.normal(random.key(0), (4, 100, 2))}
    >>> data = to_arviz(draws, log_likelihood=-((draws["a"] - 1) ** 2))
    >>> data.posterior["a"].shape, data.log_likelihood["y"].shape
    ((4, 100, 2), (4, 100, 2))
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
    shape = tuple(leaves[0].shape[:2])
    groups = {"posterior": {name: _array(leaf) for name, leaf in zip(names, leaves, strict=True)}}
    groups["sample_stats"] = _sample_stats(samples, shape) if is_samples(samples) else {}
    groups["log_likelihood"] = _of_draws("log_likelihood", log_likelihood, shape)
    groups["posterior_predictive"] = _of_draws("posterior_predictive", posterior_predictive, shape)
    groups["prior"] = _named("prior", tree.map(lambda leaf: leaf[None], prior), "x")
    groups["prior_predictive"] = _named("prior_predictive", tree.map(lambda leaf: leaf[None], prior_predictive))
    groups["observed_data"] = _named("observed_data", observed_data)
    groups = {group: values for group, values in groups.items() if values}
    if hasattr(arviz, "InferenceData"):
        return arviz.from_dict(**groups)
    return arviz.from_dict(
        {group: {name.replace("/", "."): value for name, value in values.items()} for group, values in groups.items()}
    )


def _named(group: str, value: Tree, alone: str = "y") -> dict[str, Any]:
    """The arrays of a tree by their paths, a lone tensor by the name ``alone``."""
    for leaf in tree.leaves(value):
        fix = "Use torch.as_tensor."
        require(isinstance(leaf, Tensor), f"{group} must hold tensors", type(leaf).__name__, fix, TypeError)
    return {path or alone: _array(leaf) for path, leaf in zip(tree.paths(value), tree.leaves(value), strict=True)}


def _of_draws(group: str, value: Tree, shape: tuple[int, int]) -> dict[str, Any]:
    named = _named(group, value)
    for name, array in named.items():
        must = f"{group} must lead with the chains and draws of the samples, {shape}"
        fix = f"Compute it at every draw: vmap(vmap({group}, (None, 0)), (None, 0))(data, samples.draws)."
        require(array.shape[:2] == shape, must, f"{name!r} of shape {array.shape}", fix)
    return named


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
    fix = "Run: pip install arviz."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its next version
        try:
            arviz = importlib.import_module("arviz")
        except ImportError as error:
            raise ImportError(message("to_arviz needs ArviZ", "an environment without it", fix)) from error
    return arviz
