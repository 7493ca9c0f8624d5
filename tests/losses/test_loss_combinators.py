"""Losses to losses."""

from __future__ import annotations

import pytest
import torch
from tests import cases_losses as cases

from funcebm import losses, random


def test_a_weighted_sum_is_one():
    parts = {"a": cases.LOSSES["denoising"](), "b": cases.LOSSES["hutchinson"]()}
    loss = losses.weighted_sum(parts, {"b": 3.0, "a": 0.5})
    params, batch = cases.params(), cases.batch()
    noise = loss.draw(random.key(0), batch)
    value, aux = loss.value(params, loss.init(random.key(1), params, batch), batch, noise)
    alone = [part.value(params, (), batch, n)[0] for part, n in zip(parts.values(), noise, strict=True)]
    torch.testing.assert_close(value, 0.5 * alone[0] + 3.0 * alone[1])
    assert torch.equal(aux.metrics["a/loss"], alone[0]) and torch.equal(aux.metrics["b/loss"], alone[1])
    assert loss(random.key(0), params, batch)[0] == value  # memoryless parts need no memory
    by_keyword = losses.weighted_sum(parts, weights={"a": 0.5, "b": 3.0})
    assert by_keyword.value(params, (), batch, noise)[0] == value
    for same in (
        losses.weighted_sum(*parts.values(), weights=[0.5, 3.0]),
        losses.weighted_sum(list(parts.values()), [0.5, 3.0]),
    ):
        assert same.value(params, (), batch, noise)[0] == value
    plain = losses.weighted_sum(*parts.values()).value(params, (), batch, noise)[0]
    torch.testing.assert_close(plain, alone[0] + alone[1])


def test_the_parts_of_a_sum_have_noise_of_their_own():
    part = cases.LOSSES["denoising"]()
    first, second = losses.weighted_sum([part, part], [1.0, 1.0]).draw(random.key(0), cases.batch())
    assert not torch.equal(first, second)


def test_members_of_an_ensemble_have_noise_of_their_own_where_asked():
    part, batch = cases.LOSSES["denoising"](), cases.batch()
    assert losses.ensemble(part, 2).draw(random.key(0), batch).shape == (2, *batch.shape)
    assert torch.equal(losses.ensemble(part).draw(random.key(0), batch), part.draw(random.key(0), batch))


def test_the_gradient_of_a_penalty_counts():
    part, params, batch = cases.LOSSES["denoising"](), cases.params(), cases.batch()
    loss = losses.penalised(part, lambda params, batch: params["k"] ** 3 + batch.sum(), 0.5)
    noise = loss.draw(random.key(0), batch)
    with_penalty = torch.func.grad(lambda p: loss.value(p, (), batch, noise)[0])(params)
    without = torch.func.grad(lambda p: part.value(p, (), batch, noise)[0])(params)
    torch.testing.assert_close(with_penalty["k"] - without["k"], 0.5 * 3 * params["k"] ** 2)
    torch.testing.assert_close(with_penalty["bump"], without["bump"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda part: losses.weighted_sum([], []), "weighted_sum needs losses"),
        (lambda part: losses.weighted_sum([part], [1.0, 2.0]), "losses and weights must match"),
        (lambda part: losses.weighted_sum({"a": part}, {"b": 1.0}), "losses and weights must match"),
        (lambda part: losses.ensemble(part, 0), "num_members must be an integer of at least 1"),
        (lambda part: losses.ensemble(part, 3).init(random.key(0), torch.zeros(2), torch.zeros(4, 1)), "num_members"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(make, words):
    with pytest.raises(ValueError, match=words):
        make(cases.LOSSES["denoising"]())
