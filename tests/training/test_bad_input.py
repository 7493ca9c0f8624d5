"""Bad input is refused at the door, with the fix."""

from __future__ import annotations

import pytest
import torch
from tests import cases_losses as cases
from tests.training.runs import DATA, OPTIMIZER, pcd, train

from funcebm import losses, random, tree
from funcebm.training import Validation, fit
from funcebm.types import Loss, LossAux

# -- bad input ----------------------------------------------------------------------------------------------------

NAN = torch.where(torch.arange(37)[:, None] == 5, torch.nan, DATA)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": torch.zeros(3, dtype=torch.int32)}, "a key must be"),
        ({"key": 0}, "a key must be"),
        ({"data": NAN}, r"data must be finite. Got 1 rows .* first 5"),
        ({"data": {"a": DATA, "b": DATA[:5]}}, "all leaves of data must share one leading axis"),
        ({"data": torch.tensor(1.0)}, "data must be tensors with a leading axis"),
        ({"batch_size": 38}, "batch_size must be at most the number of rows. Got 38 of 37"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1"),
        ({"num_steps": -3}, "num_steps must be an integer of at least 1"),
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1"),
        (
            {"data": (DATA, torch.zeros(36))},
            r"must share one leading axis. Got lengths 37 of '0', 36 of '1'. Give one label",
        ),
        ({"limits": {"gap": 1.0}}, r"limits must name metrics of the loss. Got 'gap'. There are \['acceptance_rate'"),
        ({"limits": {"loss": -1.0}}, r"limits\['loss'\] must be positive"),
        ({"max_bad_steps": 0}, "max_bad_steps must be an integer of at least 1"),
        ({"validation": DATA}, "validation must be a Validation. Got Tensor"),
        ({"validation": Validation(NAN, 5)}, r"validation.data must be finite. Got 1 rows .* first 5"),
        ({"validation": Validation(DATA, 0)}, "validation.every must be an integer of at least 1"),
        ({"validation": Validation(DATA, 5, patience=0)}, "validation.patience must be an integer of at least 1"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
        ({"data": DATA[:0]}, "data must hold an example. Got none"),
        ({"data": DATA.numpy()}, "data must be tensors .* Got ndarray. .* torch.as_tensor"),
        ({"data": (DATA.numpy(),)}, r"data must be tensors .* Got \['ndarray'\]"),
        ({"data": [DATA, DATA]}, r"Got a list, which could be either. Write tuple\(data\) .* lambda epoch: data"),
        ({"validation": Validation({"a": DATA}, 5)}, "validation.data must be a tree of the same structure"),
        (
            {"validation": Validation(DATA[:, :2], 5)},
            r"validation.data must be like .* \(\(2,\), .* in place of \(\(3,\)",
        ),
        (
            {"validation": Validation(DATA.double(), 5)},
            "validation.data must be like .*float64.* in place of .*float32",
        ),
        ({"loss": cases.energy}, "loss must be a Loss. Got function"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, "optimizer must be an Optimizer. Got SGD"),
        ({"resume": "run.safetensors"}, r"resume must be a Fit. Got str. .* training.load\(path, params\)"),
        ({"params": ()}, "params must hold a tensor"),
        ({"params": {"k": torch.tensor(1)}}, r"params must be floating-point tensors. Got k: torch.int64"),
        ({"params": {"k": 1.0}}, r"params must be floating-point tensors. Got k: float"),
        ({"params": tree.map(lambda leaf: leaf.to("meta"), cases.params())}, "params and data must be on one device"),
        (
            {"loss": Loss(lambda *_: (), lambda *_: (), lambda p, m, b, n: (b, LossAux((), {})))},
            "a loss must return a 0-d",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_bad_input_is_refused_at_the_door(change, words):
    arguments = {"key": random.key(0), "loss": pcd(), "params": cases.params(), "data": DATA, **change}
    settings = {"optimizer": OPTIMIZER, "num_steps": 3, "batch_size": 8, "jit": False}
    for name in list(arguments):
        if name not in ("key", "loss", "params", "data"):
            settings[name] = arguments.pop(name)
    with pytest.raises((ValueError, TypeError), match=words):
        fit(**arguments, **settings)


def test_resume_needs_the_same_params():
    first = train(pcd(), num_steps=2)
    settings = {"optimizer": OPTIMIZER, "num_steps": 3, "batch_size": 8, "jit": False}
    loss = losses.score_matching(lambda params, x: params["other"] * (x**2).sum())
    with pytest.raises(ValueError, match="resume must be a run of this model"):
        fit(random.key(0), loss, {"other": torch.tensor(1.0)}, DATA, resume=first, **settings)


@pytest.mark.parametrize("label", [-1, 3])
def test_one_label_out_of_range_anywhere_in_the_data_is_refused_at_the_door(label):
    labels = torch.arange(37) % 3
    labels[30] = label
    loss = cases.LOSSES["joint_energy"]()
    with pytest.raises(ValueError, match=rf"labels must be in 0 .. 2.* Got {label} .. {label}"):
        train(loss, data=(DATA, labels), num_steps=1)


def test_a_metric_of_validation_is_a_number():
    validation = Validation(DATA, 2, metric=lambda params, data: data.mean(0))
    with pytest.raises(ValueError, match=r"validation.metric must return a number. Got the shape \(3,\)") as caught:
        train(pcd(), num_steps=4, validation=validation)
    assert caught.value.fit.num_steps == 2
