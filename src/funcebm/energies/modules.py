"""Any ``torch.nn.Module`` as an energy and its parameters."""

from __future__ import annotations

import contextlib
import copy
from typing import Iterator

import torch
from torch import Tensor

from .. import checks, tree
from .._torch.mapped_networks import InPlainOperators
from ..types import Energy, Params, Position

__all__ = ["from_module", "load_into"]


def from_module(module: torch.nn.Module) -> tuple[Energy, Params]:
    """A module that maps a batch to a batch of energies, as an energy of one particle and its parameters.

    Args:
        module: ``(B, *event) -> (B,)`` or ``(B, 1)``. It is copied, and the copy is put in evaluation mode: an energy
            is deterministic (no dropout) and of one particle (batch normalization uses its running statistics). Of
            ``DataParallel`` and of what ``torch.compile`` returns, the module inside is taken. Attention
            runs by its formula (torch's ``MATH`` back end), recurrent layers as loops: ``vmap`` and second derivatives go
            through them. What the forward pass writes into buffers or attributes is dropped.

    Returns:
        ``(energy, params)``. ``params`` is a dict of the parameters that have ``requires_grad``, by name, detached
        copies: what training changes. Frozen parameters and buffers (running statistics, tables) are constants of the
        energy, as they were at this call: no optimizer touches them. Positions and constants are moved to the dtype of the
        params, the energy to that of the position. :func:`load_into` writes trained params back.

    Raises:
        TypeError: if ``module`` is not a module, or a scripted one.
        ValueError: parameters without numbers, a lazy module that has not run, batch normalization without running statistics;
            when the energy is called, if the module's output for one particle is not ``(1,)`` or ``(1, 1)``.

    >>> energy, params = from_module(torch.nn.Linear(2, 1))
    >>> sorted(params)
    ['bias', 'weight']
    >>> energy(params, torch.zeros(2)).shape
    torch.Size([])
    """
    module = _checked(module)
    _check_parts(module)
    frame = _copied(module).eval()
    params = {name: value.detach().clone() for name, value in frame.named_parameters() if value.requires_grad}
    frame.requires_grad_(False)
    constants = {name: value.detach() for name, value in frame.named_parameters() if name not in params}
    constants.update({name: value.detach() for name, value in frame.named_buffers()})

    def energy(params: Params, x: Position) -> Tensor:
        like = next((leaf for leaf in params.values() if leaf.is_floating_point()), tree.first(x))
        state = {
            name: value.clone() for name, value in tree.cast_like(constants, like).items()
        }  # a module may write there
        batch = tree.map(lambda leaf: leaf.unsqueeze(0), tree.cast_like(x, like))
        with _as_it_was(frame), InPlainOperators():
            output = torch.func.functional_call(frame, {**params, **state}, (batch,))
        return _one_energy(output).to(tree.first(x).dtype)

    return energy, params


def load_into(module: torch.nn.Module, params: Params) -> torch.nn.Module:
    """Writes params of :func:`from_module` into a module, in its dtype and on its device.

    Args:
        module: with the parameters that ``params`` names; it is changed in place. Its buffers and frozen parameters stay.
        params: ``{name: value}``, all that train in the module, such as ``fit.params`` or ``fit.ema_params``.

    Returns:
        The module.

    Raises:
        ValueError: if names or shapes differ; the message names the leaves, and the module stays as it was.
        TypeError: if ``module`` is not a module.

    >>> module = torch.nn.Linear(2, 1)
    >>> energy, params = from_module(module)
    >>> trained = tree.map(torch.zeros_like, params)
    >>> load_into(module, trained)(torch.ones(1, 2)).tolist()
    [[0.0]]
    """
    own: dict[str, Tensor] = dict(_checked(module).named_parameters())
    trained = {name for name, value in own.items() if value.requires_grad}
    right = isinstance(params, dict)
    fix = "Pass the params of from_module for this module, once trained."
    checks.require(right, "params must be a dict of parameters by name", type(params).__name__, fix)
    expected = {name: value for name, value in own.items() if name in trained or name in params}
    found = checks.differences(params, expected, dtypes=False)
    checks.require(not found, "params must be those that train in the module", found, fix)
    with torch.no_grad():
        for name, value in params.items():
            own[name].copy_(value)
    return module


def _checked(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself, without what spreads it over devices or compiles it."""
    right = isinstance(module, torch.nn.Module)
    fix = "A function (params, x) -> () already is an energy."
    checks.require(right, "module must be a torch.nn.Module", type(module).__name__, fix, TypeError)
    module = getattr(module, "_orig_mod", module)
    is_wrapped = isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel))
    module = module.get_submodule("module") if is_wrapped else module
    fix = "Give the module that was scripted or traced."
    right = not isinstance(module, torch.jit.ScriptModule)
    checks.require(right, "module must be made of Python", type(module).__name__, fix, TypeError)
    return module


def _check_parts(module: torch.nn.Module) -> None:
    """What has no meaning for one particle, or no shape yet."""
    for name, part in module.named_modules():
        values = (*part.parameters(recurse=False), *part.buffers(recurse=False))
        got = f"{type(part).__name__} {name!r}"
        must, fix = "a lazy module must know its shapes", "Call it once, on a batch of data: module(batch)."
        checks.require(not any(map(torch.nn.parameter.is_lazy, values)), must, got, fix)
        must, fix = (
            "parameters must have numbers",
            "Make them: module.to_empty(device='cpu'), then initialize or load them.",
        )
        checks.require(not any(value.is_meta for value in values), must, f"{got} on the device meta", fix)
        is_coupled = isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.running_mean is None
        must = "an energy is of one particle: batch normalization must have running statistics"
        fix = "Use track_running_stats=True, or torch.nn.GroupNorm or LayerNorm, which need no batch."
        checks.require(not is_coupled, must, got, fix)


def _copied(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy; tensors that a forward pass left as attributes, which torch does not copy, are detached."""
    left = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in left if not value.is_leaf})


@contextlib.contextmanager
def _as_it_was(module: torch.nn.Module) -> Iterator[None]:
    """Afterwards the attributes of the module and its parts are what they were."""
    before = [(part, dict(vars(part))) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes in before:
            now = vars(part)
            if len(now) != len(attributes) or any(now.get(name) is not value for name, value in attributes.items()):
                vars(part).clear()
                vars(part).update(attributes)


def _one_energy(output: Tensor) -> Tensor:
    if isinstance(output, Tensor) and tuple(output.shape) in ((1,), (1, 1)):
        return output.reshape(())
    got = f"the shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    must = "a module must map a batch of one particle, (1, *event), to (1,) or (1, 1)"
    raise ValueError(checks.message(must, got, "Sum over all axes of the event, and keep the batch axis."))
