"""Batches from a loader are batches from a tensor, given the same order; and what happens where there are no more."""

from __future__ import annotations

import pytest
import torch
from tests import cases_losses as cases
from tests.training.runs import DATA, assert_same, assert_same_run, evolved, pcd, train
from torch.utils.data import DataLoader, TensorDataset

from funcebm import losses, optimizers, random, tree
from funcebm.training import fit
from funcebm.types import Loss, LossAux

ROWS, BATCH = len(DATA), 8


def _order(epoch):
    """The order in which ``fit`` goes through the rows of a tensor, with the key of ``train``."""
    return random.permutation(random.fold_in(random.split(random.key(41), 3)[2], epoch), ROWS)


def _epoch(epoch):
    """The batches of an epoch in that order, with the rows left over at its end."""
    return DATA[_order(epoch)].split(BATCH)


class _Shuffled:
    """A loader that is told the epoch, by a sampler."""

    def __init__(self):
        self.sampler, self.told = self, []

    def set_epoch(self, epoch):
        self.told.append(epoch)
        self.epoch = epoch

    def __iter__(self):
        return iter(_epoch(self.epoch))


def _sources():
    return {
        "function": _epoch,
        "told": _Shuffled(),
        "generator": (batch for epoch in range(99) for batch in _epoch(epoch) if len(batch) == BATCH),
    }


@pytest.mark.parametrize("kind", ["function", "told", "generator"])
@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_a_loader_is_the_tensor_given_the_same_order(kind, chunk_size):
    loss = pcd()
    result = train(loss, data=_sources()[kind], batch_size=None, chunk_size=chunk_size)
    assert_same(evolved(result), evolved(train(loss)))


@pytest.mark.parametrize("kind", ["shuffle", "subset", "weighted"])
def test_a_loader_that_shuffles_by_the_global_generator_warns_once(kind, monkeypatch):
    from torch.utils.data import SubsetRandomSampler, WeightedRandomSampler

    from funcebm.training import data as module

    monkeypatch.setattr(module, "_warned", [])
    loss = losses.denoising_score_matching(cases.energy, 0.5)
    samplers = {"subset": SubsetRandomSampler(range(24)), "weighted": WeightedRandomSampler(torch.ones(24), 24)}
    how = {"shuffle": True} if kind == "shuffle" else {"sampler": samplers[kind]}
    loader = DataLoader(TensorDataset(DATA[:24]), batch_size=BATCH, **how)
    with pytest.warns(UserWarning, match=r"global generator: the key does not fix.*generator=\.\.\."):
        train(loss, data=loader, batch_size=None, num_steps=2)
    train(loss, data=loader, batch_size=None, num_steps=2)  # warnings are errors here


def test_a_loader_without_shuffling_goes_through_its_rows_again():
    loss, data = losses.denoising_score_matching(cases.energy, 0.5), DATA[:24]
    loader = DataLoader(TensorDataset(data), batch_size=BATCH)  # lists of one tensor
    result = train(loss, data=loader, batch_size=None, num_steps=7)
    assert_same_run(result, train(loss, data=lambda epoch: data.split(BATCH), num_steps=7))
    assert (result.epoch, result.epoch_steps) == (2, 1)


def _first_of_each():
    def value(params, memory, batch, noise):
        points, labels = batch
        return (params * points).square().mean(), LossAux((), {"label": labels[0].float(), "point": points[0, 0]})

    return Loss(lambda key, params, batch: (), lambda key, batch: (), value)


def test_points_and_labels_stay_together_in_tensors_and_loaders():
    labels = torch.arange(ROWS)
    settings = {"optimizer": optimizers.sgd(0.1), "num_steps": 9, "jit": False}
    shuffled = DataLoader(TensorDataset(DATA, labels), batch_size=BATCH, shuffle=True, generator=torch.Generator())
    for data in ((DATA, labels), shuffled):
        size = BATCH if isinstance(data, tuple) else None
        result = fit(random.key(0), _first_of_each(), torch.tensor(1.0), data, batch_size=size, **settings)
        assert torch.equal(DATA[result.metrics["label"].long(), 0], result.metrics["point"])
        assert len(result.metrics["label"].unique()) > 2


def test_batches_of_dicts_and_a_dataset_of_workers():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return {"a": DATA[index], "b": DATA[index, :2].reshape(2, 1)}

    loss = losses.denoising_score_matching(cases.energy, 0.5)
    whole = {"a": DATA[:20], "b": DATA[:20, :2].unsqueeze(-1)}
    loader = DataLoader(Rows(), batch_size=BATCH)
    parts = [tree.map(lambda leaf: leaf[:8], whole), tree.map(lambda leaf: leaf[8:16], whole)]
    expected = train(loss, data=lambda epoch: parts, num_steps=5)
    assert_same_run(train(loss, data=loader, num_steps=5), expected)


# -- going on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("kind", ["function", "told"])
def test_a_run_on_a_loader_goes_on_bit_for_bit(cut, kind):
    loss = pcd()
    first = train(loss, data=_sources()[kind], num_steps=cut, batch_size=None)
    second = train(loss, data=_sources()[kind], num_steps=10 - cut, batch_size=None, resume=first)
    assert_same_run(second, train(loss, data=_epoch, num_steps=10))


def test_an_iterator_goes_on_where_it_is():
    loss, batches = pcd(), _sources()["generator"]
    first = train(loss, data=batches, num_steps=6, batch_size=None)
    second = train(loss, data=batches, num_steps=4, batch_size=None, resume=first)
    assert_same(evolved(second), evolved(train(loss, num_steps=10)))


# -- no more ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 2, 100])
def test_an_iterator_that_ends_early_is_an_error_that_has_what_was_trained(chunk_size):
    loss, batches = pcd(), list(_epoch(0)[:4]) + list(_epoch(1)[:1])
    words = r"data must give a whole batch of 8 for each step. Got 5 batches, and then no more.* or num_steps=5"
    with pytest.raises(ValueError, match=words) as caught:
        train(loss, data=iter(batches), chunk_size=chunk_size)
    partial = caught.value.fit
    assert (partial.num_steps, partial.is_complete) == (5, False)
    assert "no more" in partial.report
    assert_same(evolved(partial), evolved(train(loss, num_steps=5)))
    rest = (batch for epoch in range(1, 99) for batch in _epoch(epoch)[epoch == 1 : 4])
    assert_same(evolved(train(loss, data=rest, num_steps=18, resume=partial)), evolved(train(loss)))


def test_an_iterable_that_is_empty_the_second_time_is_told():
    class Once:
        def __init__(self):
            self.left = list(_epoch(0)[:3])

        def __iter__(self):
            while self.left:
                yield self.left.pop(0)

    with pytest.raises(ValueError, match=r"Got 3 batches, and then no more") as caught:
        train(pcd(), data=Once())
    assert caught.value.fit.num_steps == 3


@pytest.mark.parametrize("empty", [[], [DATA[:0]]])
def test_a_loader_without_a_batch_is_told(empty):
    with pytest.raises(ValueError, match=r"data must give a whole batch.*Got 0 batches|rows in batch 0"):
        train(pcd(), data=lambda epoch: empty)


def test_an_error_of_the_loader_comes_as_it_is_with_what_was_trained():
    def batches(epoch):
        yield from _epoch(0)[:3]
        raise OSError("mine")

    with pytest.raises(OSError, match=r"^mine$") as caught:
        train(pcd(), data=batches, chunk_size=2)
    assert caught.value.fit.num_steps == 3


# -- bad batches --------------------------------------------------------------------------------------------------

NAN = torch.where(torch.arange(8)[:, None] == 5, torch.nan, DATA[:8])


@pytest.mark.parametrize(
    ("third", "words"),
    [
        (NAN, r"data must be finite. Got NaN or infinity in batch 2 of this call"),
        (DATA[:9], r"every batch must have 8 rows, .* Got 9 rows in batch 2"),
        (DATA[:7], r"every batch must have 8 rows, .* Got 7 rows in batch 2"),
        ((DATA[:8], DATA[:8]), "every batch must be like the first. Got another structure in batch 2"),
        ((DATA[:8], DATA[:7]), r"all leaves of a batch must share one leading axis. Got lengths \[8, 7\]"),
        (torch.tensor(1.0), "batches must be tensors with a leading axis"),
        ("text", "batches must be tensors with a leading axis"),
        (DATA[:8, :2], r"every batch must be like the first. Got \(8, 2\) in place of \(8, 3\) in batch 2"),
    ],
    ids=["nan", "larger", "smaller", "structure", "lengths", "scalar", "text", "shape"],
)
@pytest.mark.parametrize("chunk_size", [1, 100])
def test_a_bad_batch_is_an_error_that_has_what_was_trained(third, words, chunk_size):
    batches = [*_epoch(0)[:2], third, *_epoch(0)[3:]]
    with pytest.raises(ValueError, match=words) as caught:
        train(pcd(), data=lambda epoch: batches, chunk_size=chunk_size)
    assert caught.value.fit.num_steps == 2
    assert_same(evolved(caught.value.fit), evolved(train(pcd(), num_steps=2)))


def test_batch_size_may_be_given_and_must_be_right():
    with pytest.raises(ValueError, match="every batch must have 7 rows"):
        train(pcd(), data=_epoch, batch_size=7)
    with pytest.raises(
        ValueError, match=r"batch_size must be given where data are tensors\. Got None\. Try 128, or 37"
    ):
        train(pcd(), batch_size=None)


def test_what_gives_no_batches_is_refused():
    for data in ("text", DATA.numpy(), 3, [1, 2]):
        with pytest.raises(ValueError, match="data must be tensors with a leading axis"):
            train(pcd(), data=data)


def test_resuming_with_a_shorter_loader_is_refused():
    first = train(pcd(), data=_epoch, num_steps=3)
    with pytest.raises(ValueError, match=r"must have the 3 batches that the run has seen of it already. Got 2 batches"):
        train(pcd(), data=lambda epoch: _epoch(epoch)[:2], num_steps=3, resume=first)


def test_a_loader_that_has_no_whole_batch_is_told_so():
    loader = DataLoader(TensorDataset(DATA[:, 0]), batch_size=2 * ROWS, drop_last=True)
    loss = losses.score_matching(lambda params, x: params * x**2)
    with pytest.raises(ValueError, match=r"Got 0 batches, and then no more. Give one batch or more; .* drop_last"):
        fit(random.key(0), loss, torch.tensor(1.0), loader, optimizer=optimizers.sgd(0.1), num_steps=3, jit=False)
