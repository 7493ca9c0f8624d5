"""Any ``torch.nn.Module`` as a function of one particle and its parameters."""

from __future__ import annotations

import contextlib
import copy
from typing import Any, Callable, Iterator

import torch
from torch import Tensor

from .. import checks, tree
from .._torch.mapped_networks import InPlainOperators
from ..types import Params, Position, Tree

__all__ = ["as_function", "checked_module", "from_module"]

Call = Callable[..., Any]
"""``(module, t, x, *condition) -> output``, of a batch of one."""


def from_module(module: torch.nn.Module, call: Call | None = None) -> tuple[Callable[..., Position], Params]:
    """A module that maps times and a batch to a batch like it, as a field of one particle and its parameters.

    Args:
        module: copied, and the copy put in evaluation mode; what :func:`funcebm.energies.from_module` says of modules holds here:
            no dropout, running statistics, attention and recurrent layers that ``vmap`` goes through.
        call: how the module is called with a time ``(1,)``, a batch of one ``x (1, *event)`` and, where there are any, conditions
            ``(1, ...)``: by default ``module(x, t, *condition)``, the way of SiT, DiT and TorchEBM. Others want
            ``lambda module, t, x: module(torch.cat([x, t[:, None]], 1))`` (the MLP of torchcfm) or
            ``lambda module, t, x, label: module(x, 1000 * t, label).sample`` (diffusers).

    Returns:
        ``(network, params)``. The network is ``(params, t, x, *condition) -> like x``: what flows, solvers and transport losses
        take. ``params`` is a dict of the parameters that have ``requires_grad``, by name; :func:`funcebm.energies.load_into`
        writes trained ones back.

    Raises:
        TypeError: if ``module`` is not a module, or a scripted one; if ``call`` is no function.
        ValueError: parameters without numbers, a lazy module that has not run, batch normalization without running statistics;
            when the network is called, an output that is not like ``x``.

    >>> class Velocity(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(3, 2)
    ...
    ...     def forward(self, x, t):
    ...         return self.layer(torch.cat([x, t[:, None]], 1))
    >>> network, params = from_module(Velocity())
    >>> sorted(params), network(params, torch.tensor(0.5), torch.zeros(2)).shape
    (['layer.bias', 'layer.weight'], torch.Size([2]))
    """
    if call is not None:
        checks.function("call", call, "Write lambda module, t, x: module(x, t), say.")
    run, params = as_function(module, call or (lambda module, t, x, *condition: module(x, t, *condition)))

    def network(params: Params, t: Tensor, x: Position, *condition: Tree) -> Position:
        like = tree.first(x)
        time = torch.as_tensor(t, dtype=like.dtype, device=like.device)
        value = run(params, x, time, x, *condition)
        fix = "A module must return what it is given the shape of; see call."
        checks.like_position("a module", value, tree.map(lambda leaf: leaf[None], x), fix)
        return tree.map(lambda leaf, own: leaf[0].to(own.dtype), value, x)

    return network, params


def as_function(module: torch.nn.Module, call: Call | None = None) -> tuple[Callable[..., Any], Params]:
    """``(params, x, *arguments) -> output`` of a batch of one, whose axis is added here, and the parameters that train.

    ``x`` says which dtype the module computes in where no parameter does. Floating-point arguments have that dtype.
    """
    module = checked_module(module)
    _check_parts(module)
    inner = _copied(module).eval()
    params = {name: value.detach().clone() for name, value in inner.named_parameters() if value.requires_grad}
    inner.requires_grad_(False)
    constants = {name: value.detach() for name, value in inner.named_parameters() if name not in params}
    constants.update({name: value.detach() for name, value in inner.named_buffers()})
    frame = inner if call is None else _Called(inner, call)
    prefix = "" if call is None else "inner."

    def run(params: Params, x: Position, *arguments: Tree) -> Any:
        like = next((leaf for leaf in params.values() if leaf.is_floating_point()), tree.first(x))
        state = {
            name: value.clone() for name, value in tree.cast_like(constants, like).items()
        }  # a module may write there
        batch = tree.map(lambda leaf: torch.as_tensor(leaf).unsqueeze(0), tree.cast_like(arguments, like))
        named = {prefix + name: value for name, value in {**params, **state}.items()}
        with _as_it_was(inner), InPlainOperators():
            return torch.func.functional_call(frame, named, batch)

    return run, params


class _Called(torch.nn.Module):
    """A module that is called in another way."""

    def __init__(self, inner: torch.nn.Module, call: Call) -> None:
        super().__init__()
        self.inner, self.call = inner, call

    def forward(self, *arguments: Any) -> Any:
        return self.call(self.inner, *arguments)


def checked_module(module: torch.nn.Module) -> torch.nn.Module:
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
