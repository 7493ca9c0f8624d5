r"""Differential operators on energies: gradient, force, score, Hessian, Laplacian; each a function of an energy.

Everything here takes an energy (or a vector field) and returns a function of one particle: add chains with
``torch.func.vmap``. Positions may be trees; a gradient has the structure of the position. Randomness is data: the
stochastic estimators take their probe as an argument.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor

from . import checks, tree
from ._torch.summed import summed_value
from .distributed.agreement import failing_together
from .distributed.mesh import Mesh
from .types import Energy, Params, Position, Tree

__all__ = [
    "divergence",
    "force",
    "gradient",
    "hessian",
    "hutchinson_divergence",
    "hutchinson_laplacian",
    "hvp",
    "laplacian",
    "per_example_gradients",
    "require_scalar",
    "score",
    "sharded",
    "value",
    "value_and_gradient",
]

VectorField = Callable[[Params, Position], Position]


def _shapes(position: Tree) -> str:
    return ", ".join(str(tuple(leaf.shape)) for leaf in tree.leaves(position) if isinstance(leaf, Tensor))


def require_scalar(value: Any, position: Position, name: str = "an energy") -> Tensor:
    """The value, if it is a 0-d tensor; else an error that says what to write. Looks at shapes only.

    Args:
        value: what an energy returned.
        position: where.
        name: what the message calls the energy.

    Returns:
        The value.

    Raises:
        ValueError: an energy that is not a scalar.

    >>> require_scalar(torch.zeros(3), torch.zeros(3, 2))
    Traceback (most recent call last):
    ...
    ValueError: an energy must return a 0-d tensor for one particle. Got the shape (3,) for a position of shape ...
    """
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    got = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise ValueError(
        checks.message(
            f"{name} must return a 0-d tensor for one particle",
            f"{got} for a position of shape {_shapes(position)}",
            "Sum over all axes of the position, or squeeze a trailing axis of length 1; "
            "write no batch axis: torch.func.vmap, and the samplers, add it.",
        )
    )


def _no_module(energy: Any) -> None:
    must, fix = (
        "an energy must be a function (params, x) -> ()",
        "Write energy, params = funcebm.energies.from_module(module).",
    )
    checks.require(not isinstance(energy, torch.nn.Module), must, "a torch.nn.Module", fix, TypeError)


def value(energy: Energy) -> Energy:
    """The energy itself, which must return a scalar.

    Args:
        energy: ``(params, x) -> ()``.

    Returns:
        ``(params, x) -> E(x)``.

    Raises:
        ValueError: when called, if the energy does not return a 0-d tensor.

    >>> value(lambda params, x: (x**2).sum())((), torch.tensor([1.0, 2.0]))
    tensor(5.)
    """
    _no_module(energy)
    return lambda params, position: require_scalar(energy(params, position), position)


def value_and_gradient(energy: Energy) -> Callable[[Params, Position], tuple[Tensor, Position]]:
    r"""The energy and its gradient at once, for the cost of the gradient.

    Args:
        energy: ``(params, x) -> ()``.

    Returns:
        ``(params, x) -> (E(x), grad_x E(x))``; the gradient has the structure of ``x``.

    Raises:
        ValueError: when called, if the energy does not return a 0-d tensor.

    >>> value, slope = value_and_gradient(lambda params, x: (x**2).sum())((), torch.tensor([1.0, 2.0]))
    >>> value, slope
    (tensor(5.), tensor([2., 4.]))
    """
    _no_module(energy)

    def function(params: Params, position: Position) -> tuple[Tensor, Position]:
        def scalar(position: Position) -> Tensor:
            return require_scalar(energy(params, position), position)

        slope, value = torch.func.grad_and_value(scalar)(position)
        return value, slope

    return function


def gradient(energy: Energy) -> VectorField:
    r"""The gradient of an energy, :math:`\nabla_x E`.

    Args:
        energy: ``(params, x) -> ()``.

    Returns:
        ``(params, x) -> grad_x E(x)``, with the structure of ``x``.

    >>> gradient(lambda params, x: (x**2).sum())((), torch.tensor([1.0, 2.0]))
    tensor([2., 4.])
    """
    both = value_and_gradient(energy)
    return lambda params, position: both(params, position)[1]


def force(energy: Energy) -> VectorField:
    r"""What pulls a particle downhill, :math:`-\nabla_x E`.

    Args:
        energy: ``(params, x) -> ()``.

    Returns:
        ``(params, x) -> -grad_x E(x)``, with the structure of ``x``.

    >>> force(lambda params, x: (x**2).sum())((), torch.tensor([1.0, 2.0]))
    tensor([-2., -4.])
    """
    uphill = gradient(energy)
    return lambda params, position: tree.map(torch.neg, uphill(params, position))


def score(energy: Energy) -> VectorField:
    r"""The gradient of the log density, :math:`\nabla_x \log p = -\nabla_x E`: the force at temperature one.

    Args:
        energy: ``(params, x) -> ()``, with :math:`p = e^{-E}/Z`.

    Returns:
        ``(params, x) -> grad_x log p(x)``, with the structure of ``x``.

    >>> score(lambda params, x: 0.5 * (x**2).sum())((), torch.tensor([1.0, 2.0]))
    tensor([-1., -2.])
    """
    return force(energy)


def hvp(energy: Energy) -> Callable[[Params, Position, Position], Position]:
    r"""Hessian-vector products, :math:`\nabla^2 E(x)\,v`, for the cost of a few gradients.

    Args:
        energy: ``(params, x) -> ()``.

    Returns:
        ``(params, x, v) -> H v``; ``v`` and the result have the structure of ``x``.

    Reverse over reverse, :math:`\nabla_x (v \cdot \nabla_x E)`: unlike forward over reverse it needs no forward rules
    of the energy's operators, and can be differentiated, mapped and compiled again.

    >>> hvp(lambda params, x: (x**3).sum())((), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    tensor([ 6., 12.])
    """
    slope = gradient(energy)

    def function(params: Params, position: Position, vector: Position) -> Position:
        return torch.func.grad(lambda at: tree.dot(slope(params, at), vector))(position)

    return function


def _jacobian(field: VectorField) -> Callable[[Params, Position], Tensor]:
    """The Jacobian ``(D, D)`` over the ravelled position."""

    def function(params: Params, position: Position) -> Tensor:
        vector, back = tree.ravel(position)

        def flat(vector: Tensor) -> Tensor:
            value, _ = tree.ravel(field(params, back(vector)))
            return value

        matrix = torch.func.jacrev(flat)(vector)
        if matrix.shape[0] != matrix.shape[1]:
            must = "a vector field must return a tree of the shapes of the position"
            got = f"{matrix.shape[0]} numbers for a position of {matrix.shape[1]}"
            raise ValueError(checks.message(must, got, "Return one number for each number of the position."))
        return matrix

    return function


def hessian(energy: Energy) -> Callable[[Params, Position], Tensor]:
    r"""The matrix of second derivatives, :math:`\nabla^2 E(x)`.

    Args:
        energy: ``(params, x) -> ()``.

    Returns:
        ``(params, x) -> (D, D)`` over the numbers of ``x`` in the order of :func:`funcebm.tree.ravel`.

    >>> hessian(lambda params, x: (x**3).sum())((), torch.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    return _jacobian(gradient(energy))


def divergence(field: VectorField) -> Callable[[Params, Position], Tensor]:
    r"""The exact divergence of a vector field, :math:`\sum_i \partial f_i / \partial x_i`.

    Takes D backward passes (as one ``vmap``) and D x D numbers of memory for each particle.

    Args:
        field: ``(params, x) -> f``, with the structure of ``x``.

    Returns:
        ``(params, x) -> ()``.

    >>> divergence(lambda params, x: x**2)((), torch.tensor([1.0, 2.0]))
    tensor(6.)
    """
    jacobian = _jacobian(field)
    return lambda params, position: jacobian(params, position).diagonal().sum()


def laplacian(energy: Energy) -> Callable[[Params, Position], Tensor]:
    r"""The exact Laplacian of an energy, :math:`\sum_i \partial^2 E / \partial x_i^2 = \mathrm{tr}\,\nabla^2 E`.

    Args:
        energy: ``(params, x) -> ()``.

    Returns:
        ``(params, x) -> ()``, at the cost and memory of :func:`divergence`.

    >>> laplacian(lambda params, x: (x**3).sum())((), torch.tensor([1.0, 2.0]))
    tensor(18.)
    """
    return divergence(gradient(energy))


def hutchinson_divergence(field: VectorField) -> Callable[[Params, Position, Position], Tensor]:
    r"""One unbiased sample of the divergence, :math:`v^\top (\partial f / \partial x)\,v`, for one backward pass.

    Args:
        field: ``(params, x) -> f``, with the structure of ``x``.

    Returns:
        ``(params, x, probe) -> ()``. The probe has the structure of ``x`` and :math:`E[v v^\top] = I`: draw it with
        :func:`funcebm.tree.normal_like` or :func:`funcebm.random.rademacher` (less variance, and exact for a diagonal
        Jacobian). Average over probes with ``torch.func.vmap``.

    Reference: Hutchinson (1990), Communications in Statistics 19(2):433-450.

    >>> hutchinson_divergence(lambda params, x: x**2)((), torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0]))
    tensor(6.)
    """

    def function(params: Params, position: Position, probe: Position) -> Tensor:
        pull = torch.func.vjp(lambda at: field(params, at), position)[1]
        return tree.dot(pull(probe)[0], probe)

    return function


def hutchinson_laplacian(energy: Energy) -> Callable[[Params, Position, Position], Tensor]:
    r"""One unbiased sample of the Laplacian, :math:`v^\top \nabla^2 E(x)\,v`, whose mean is the whole trace.

    Args:
        energy: ``(params, x) -> ()``.

    Returns:
        ``(params, x, probe) -> ()``, with probes as for :func:`hutchinson_divergence`.

    Reference: Hutchinson (1990), Communications in Statistics 19(2):433-450.

    >>> hutchinson_laplacian(lambda params, x: (x**3).sum())((), torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0]))
    tensor(18.)
    """
    return hutchinson_divergence(gradient(energy))


def per_example_gradients(function: Callable[[Params, Any], Tensor]) -> Callable[[Params, Tree], Params]:
    r"""Gradients with respect to the parameters, one for each example of a batch.

    Args:
        function: ``(params, example) -> ()``: an energy, or a loss of one example.

    Returns:
        ``(params, batch) -> gradients`` with the structure of ``params`` and a leading axis B on every leaf.

    >>> per_example_gradients(lambda params, x: params * x.sum())(torch.tensor(2.0), torch.tensor([[1.0], [3.0]]))
    tensor([1., 3.])
    """

    def scalar(params: Params, example: Any) -> Tensor:
        return require_scalar(function(params, example), example, "the function")

    return torch.func.vmap(torch.func.grad(scalar), in_dims=(None, 0))


def sharded(energy: Energy, mesh: Mesh) -> Energy:
    r"""An energy that is a sum over data that ranks hold parts of: :math:`E(x) = \sum_r E_r(\theta_r, x)`.

    Each rank calls it with the same position and params of its own (its rows of the data among them). Value and gradient by
    ``x`` are found where the data are, and added up over the ranks by one message; so one chain moves on all ranks alike. It
    goes into any sampler; mapped over chains, all of them share the message.

    Args:
        energy: ``(params, x) -> ()``, the part of one rank. A prior belongs into one of them, or is divided by ``mesh.size``.
        mesh: from :func:`funcebm.distributed.mesh`.

    Returns:
        ``(params, x) -> ()``, equal on all ranks.

    Raises:
        RuntimeError: when called, for a derivative by the params (they differ between ranks; train with ``fit(mesh=)``), or a
            second one by ``x``, which no message brings.

    >>> from funcebm.distributed import single
    >>> energy = sharded(lambda data, x: ((data - x) ** 2).sum() / 2, single)
    >>> torch.func.grad(energy, argnums=1)(torch.tensor([1.0, 3.0]), torch.tensor(0.0))
    tensor(-4.)
    """
    if not mesh.name:
        return energy
    both = value_and_gradient(energy)

    def function(params: Params, position: Position) -> Tensor:
        leaves, structure = tree.flatten(position)
        param_leaves, param_structure = tree.flatten(params)

        def total(given: list[Tensor], at: list[Tensor]) -> list[Tensor]:
            with failing_together(mesh):  # an error where some of the data are
                value, slope = both(tree.unflatten(param_structure, given), tree.unflatten(structure, at))
                return tree.leaves(mesh.sum((value, slope)))

        return summed_value(total, param_leaves, leaves)

    for name in ("space", "joint_space"):  # of its states, where it has one
        if hasattr(energy, name):
            setattr(function, name, getattr(energy, name))
    return function
