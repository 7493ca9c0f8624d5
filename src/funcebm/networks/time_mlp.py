"""A multilayer perceptron that knows the time and a label."""

from __future__ import annotations

import math
from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from .. import checks, random
from ..types import Key, Params
from ._embedding import check_labels, row_of, time_features, zeros
from ._layers import Activation, affine_layer, dense_layers, outputs_of, shaped, stack_widths, widths_of

__all__ = ["time_mlp"]


def time_mlp(
    key: Key,
    size: int | Sequence[int],
    hidden: Sequence[int] = (256, 256, 256),
    *,
    activation: Activation = torch.nn.functional.silu,
    num_frequencies: int = 32,
    num_labels: int | None = None,
    num_outputs: int | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Callable[..., Tensor], Params]:
    r"""A multilayer perceptron of a time and a position: a vector field for small dimensions.

    The first layer sees x, cosines and sines of the time, and a row of a table for the label. The last layer starts at zero, and
    with it the field.

    Args:
        key: for the first parameters, which live on its device. ``(2,)``.
        size: the event: the number of its numbers, or its shape (it is flattened).
        hidden: the widths of the hidden layers.
        activation: elementwise; smooth ones make smooth fields.
        num_frequencies: of the features of the time, on a logarithm from pi/2 to 1000; 0 for the time itself.
        num_labels: K, if the network takes a label: then it is ``(params, t, x, label)``, with an index ``()`` up to K
            (K itself: no label, for guidance), or weights ``(K,)``.
        num_outputs: how many; without it as many as ``x`` has numbers, in the shape of ``x``. With 1, a potential: a ``()``.
        dtype: of the parameters, by default the default dtype. Positions must have the same.

    Returns:
        ``(network, params)``; the network is ``(params, t, x) -> like x``.

    Raises:
        ValueError: counts that are not positive; when called, a position or a label of another size.
        TypeError: when called, a label too many or too few.

    >>> network, params = time_mlp(random.key(0), 2, hidden=(16,), num_labels=3)
    >>> network(params, torch.tensor(0.5), torch.ones(2), torch.tensor(1))
    tensor([0., 0.])
    """
    shape = widths_of("size", size)
    check_labels(num_labels, num_frequencies)
    checks.function("activation", activation, "Write torch.nn.functional.silu, say.")
    key_layers, key_table = random.split(key)
    told = max(2 * num_frequencies, 1)
    width = 0 if num_labels is None else min(64, 4 * (num_labels + 1))
    outputs = outputs_of(num_outputs, math.prod(shape))
    widths = (math.prod(shape) + told + width, *widths_of("hidden", hidden), outputs)
    layers = stack_widths(random.split(key_layers, len(widths) - 1), widths, dtype)
    last = zeros((outputs, widths[-2]), layers[0]["weight"])
    params: dict[str, Any] = {"layers": (*layers[:-1], last)}
    if num_labels is not None:
        params["table"] = random.normal(key_table, (num_labels + 1, width), dtype=dtype)

    def network(params: Params, t: Tensor, x: Tensor, *label: Tensor) -> Tensor:
        if len(label) != (num_labels is not None):
            takes = "(params, t, x)" if num_labels is None else "(params, t, x, label)"
            raise TypeError(f"this network is a function of {takes}, and was given {3 + len(label)} arguments")
        time = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        seen = [shaped(x, shape).reshape(-1), time_features(time, num_frequencies)]
        if label:
            seen.append(row_of(params["table"], label[0]))
        outputs = affine_layer(params["layers"][-1], dense_layers(params["layers"][:-1], activation, torch.cat(seen)))
        if num_outputs is None:
            return outputs.reshape(x.shape)
        return outputs.squeeze(0) if num_outputs == 1 else outputs

    return network, params
