"""Parameters too large for one device: torch's DTensors, for training; chains run with whole ones."""

from __future__ import annotations

from typing import Any

from .. import checks, tree
from ..types import Params

__all__ = ["check_whole", "gathered", "is_cut"]


def is_cut(params: Params) -> bool:
    """Whether there is a DTensor among the parameters."""
    return any(_is_dtensor(leaf) for leaf in tree.leaves(params))


def _is_dtensor(leaf: Any) -> bool:
    kind = type(leaf)
    return kind.__name__ == "DTensor" and kind.__module__.startswith("torch.distributed")


def gathered(params: Params) -> Params:
    """Whole parameters, on every rank, of those that ranks hold parts of; once before chains run, not in each step.

    Training with DTensors is torch's own: an energy of a plain module as template,
    ``energy = lambda params, x: functional_call(template, params, (x,))``, differentiated by ``torch.func.grad`` at a tree of
    DTensors, also twice (score matching), and the optimizers of :mod:`funcebm.optimizers`, whose arithmetic needs no message.
    Gradients of parameters that are replicated must be reduced before: ``gradient.redistribute(placements=[Replicate()])``.
    What does not work in torch 2.13: ``torch.func.jvp`` and ``hessian`` of DTensors, ``functional_call`` of a module under
    ``fully_shard``, and double backward through one unless ``set_reshard_after_backward(False)``.

    Args:
        params: a tree, some of whose leaves may be DTensors; every rank makes this call.

    Returns:
        The tree, with plain tensors.

    >>> import torch
    >>> gathered({"a": torch.ones(2)})["a"]
    tensor([1., 1.])
    """
    return tree.map(lambda leaf: leaf.full_tensor() if _is_dtensor(leaf) else leaf, params)


def check_whole(params: Params, who: str) -> None:
    """Chains, warm-ups and compiled loops take plain parameters."""
    fix = (
        "Call params = funcebm.distributed.gathered(params) once before; to train parameters that no device can hold, "
        "write the loop with torch.func.grad as gathered says, or shard the memory of the optimizer alone: "
        "funcebm.distributed.sharded_optimizer."
    )
    checks.require(not is_cut(params), f"the params of {who} must be whole on every rank", "DTensors", fix)
