"""Any ``torch.nn.Module`` as an energy and its parameters."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from .. import checks, tree
from ..types import Energy, Params, Position

__all__ = ["from_module", "load_into"]


def from_module(module: torch.nn.Module) -> tuple[Energy, Params]:
    """A module that maps a batch to a batch of energies, as an energy of one particle and its parameters.

    Args:
        module: ``(B, *event) -> (B,)`` or ``(B, 1)``. It is copied, and the copy is put in evaluation mode: an energy
            is deterministic (no dropout) and of one particle (batch normalization uses its running statistics).

    Returns:
        ``(energy, params)``. ``params`` is a dict of the parameters that have ``requires_grad``, by name, detached
        copies: what training changes. Frozen parameters and buffers (running statistics, tables) are constants of the
        energy, as they were at this call, moved to the device and dtype of the position: no optimizer touches them.
        :func:`load_into` writes trained params back.

    Raises:
        TypeError: if ``module`` is not a module.
        ValueError: when the energy is called, if the module's output for one particle is not ``(1,)`` or ``(1, 1)``.

    >>> energy, params = from_module(torch.nn.Linear(2, 1))
    >>> sorted(params)
    ['bias', 'weight']
    >>> energy(params, torch.zeros(2)).shape
    torch.Size([])
    """
    _check_module(module)
    frame = copy.deepcopy(module).eval()
    params = {name: value.detach().clone() for name, value in frame.named_parameters() if value.requires_grad}
    frame.requires_grad_(False)
    constants = {name: value.detach() for name, value in frame.named_parameters() if name not in params}
    constants.update({name: value.detach() for name, value in frame.named_buffers()})

    def energy(params: Params, x: Position) -> Tensor:
        state = tree.cast_like(constants, tree.first(x))
        batch = tree.map(lambda leaf: leaf.unsqueeze(0), x)
        return _one_energy(torch.func.functional_call(frame, {**params, **state}, (batch,)))

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
    _check_module(module)
    own: dict[str, Tensor] = dict(module.named_parameters())
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


def _check_module(module: torch.nn.Module) -> None:
    right = isinstance(module, torch.nn.Module)
    fix = "A function (params, x) -> () already is an energy."
    checks.require(right, "module must be a torch.nn.Module", type(module).__name__, fix, TypeError)


def _one_energy(output: Tensor) -> Tensor:
    if isinstance(output, Tensor) and tuple(output.shape) in ((1,), (1, 1)):
        return output.reshape(())
    got = f"the shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    must = "a module must map a batch of one particle, (1, *event), to (1,) or (1, 1)"
    raise ValueError(checks.message(must, got, "Sum over all axes of the event, and keep the batch axis."))
