"""Any ``torch.nn.Module`` as an energy and its parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, tree
from ..networks.modules import as_function, checked_module
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
    run, params = as_function(module)

    def energy(params: Params, x: Position) -> Tensor:
        return _one_energy(run(params, x, x)).to(tree.first(x).dtype)

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
    own: dict[str, Tensor] = dict(checked_module(module).named_parameters())
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


def _one_energy(output: Tensor) -> Tensor:
    if isinstance(output, Tensor) and tuple(output.shape) in ((1,), (1, 1)):
        return output.reshape(())
    got = f"the shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    must = "a module must map a batch of one particle, (1, *event), to (1,) or (1, 1)"
    raise ValueError(checks.message(must, got, "Sum over all axes of the event, and keep the batch axis."))
