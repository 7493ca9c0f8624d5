"""Members of an ensemble are trained as each would be alone."""

from __future__ import annotations

import pytest
import torch
from tests import cases_losses as cases
from tests.training.runs import DATA, assert_close, assert_same, assert_same_run, evolved, pcd
from torch.func import vmap

from funcebm import chains, energies, losses, optimizers, random, samplers, tree
from funcebm.training import TrainState, Validation, fit_ensemble, load, save, train_step
from funcebm.types import Loss, LossAux

M = 3
HYPER = {"rate": torch.tensor([0.001, 0.02, 0.1]), "noise_scale": torch.tensor([0.2, 0.5, 1.0])}


def _stacked():
    return tree.stack([tree.scale(1 + 0.2 * index, cases.params()) for index in range(M)])


def _optimizer(hyper):
    return optimizers.chain(optimizers.clip_by_global_norm(1.0), optimizers.adam(hyper["rate"]))


def _denoising(hyper):
    return losses.denoising_score_matching(cases.energy, hyper["noise_scale"])


def _persistent(hyper):
    return pcd()


def _train(loss, num_steps=6, data=DATA, hyper=HYPER, **options):
    settings = {"optimizer": _optimizer, "batch_size": 8, "jit": False, "ema_decay": 0.9, **options}
    return fit_ensemble(random.key(41), loss, _stacked(), data, hyper=hyper, num_steps=num_steps, **settings)


def _alone(loss, member, num_steps):
    """One member by hand, with the keys that the docstring promises."""
    key_init, key_steps, key_epochs = random.split(random.key(41), 3)
    key_init, key_steps = random.split(key_init, M)[member], random.split(key_steps, M)[member]
    params = tree.map(lambda leaf: leaf[member], _stacked())
    optimizer = _optimizer(tree.map(lambda leaf: leaf[member], HYPER))
    state = TrainState(params, params, optimizer.init(params), loss.init(key_init, params, DATA[:8]))
    metrics = []
    for step in range(num_steps):
        rows = random.permutation(random.fold_in(key_epochs, step // 4), len(DATA))[8 * (step % 4) : 8 * (step % 4) + 8]
        noise = loss.draw(random.fold_in(key_steps, step), DATA[:8])
        state, numbers = train_step(loss, optimizer, state, DATA[rows], noise, ema_decay=0.9)
        metrics.append(numbers)
    return state, tree.stack(metrics)


@pytest.mark.parametrize("loss", [_denoising, _persistent])
def test_each_member_is_trained_as_it_would_be_alone(loss):
    result = _train(loss)
    for member in range(M):
        state, metrics = _alone(loss(tree.map(lambda leaf: leaf[member], HYPER)), member, 6)  # noqa: B023
        assert_close(tree.map(lambda leaf: leaf[member], TrainState(*result[:4])), state, rtol=1e-4, atol=1e-5)  # noqa: B023
        assert_close(tree.map(lambda leaf: leaf[:, member], result.metrics), metrics, rtol=1e-4, atol=1e-4)  # noqa: B023


@pytest.mark.parametrize(("name", "own"), [("contrastive", {}), ("persistent_contrastive", {"buffer_size": 8})])
def test_what_a_loss_remembers_is_made_of_each_member_alone(name, own):
    energy, first = energies.mlp(random.key(7), 3, (4,))  # layers: they fit no params of all members
    make = getattr(losses, f"{name}_divergence")
    loss = make(energy, samplers.langevin(energy, step_size=0.1), 1, **own)  # compared with the energy at the door
    stacked = tree.stack([tree.scale(1 + 0.2 * index, first) for index in range(M)])
    options = {"optimizer": optimizers.sgd(0.01), "num_steps": 2, "batch_size": 8, "jit": False}
    assert fit_ensemble(random.key(41), loss, stacked, DATA, **options).metrics["loss"].isfinite().all()


def test_a_loss_and_an_optimizer_may_be_the_same_for_all():
    loss = losses.denoising_score_matching(cases.energy, 0.5)
    result = _train(loss, hyper=(), optimizer=optimizers.adam(0.02))
    same = _train(loss, optimizer=lambda hyper: optimizers.adam(0.02))
    assert_same(evolved(result), evolved(same))
    assert len(result.params["k"].unique()) == M


def test_chunks_cuts_loaders_and_files_change_nothing(tmp_path):
    validation = Validation(DATA[:9], every=4)
    whole = _train(_persistent, 10, validation=validation)
    assert whole.validation.values.shape == (2, M)
    assert_same_run(_train(_persistent, 10, validation=validation, chunk_size=3), whole)
    first = _train(_persistent, 5, validation=validation)
    pytest.importorskip("safetensors")
    save(first, tmp_path / "run")
    resumed = _train(_persistent, 5, validation=validation, resume=load(tmp_path / "run", _stacked()))
    assert_same_run(resumed, whole)
    key_epochs = random.split(random.key(41), 3)[2]
    batches = lambda epoch: DATA[random.permutation(random.fold_in(key_epochs, epoch), len(DATA))].split(8)  # noqa: E731
    assert_same(evolved(_train(_persistent, 10, data=batches)), evolved(whole))


def _breaks_for(member):
    """A loss that is NaN for one member from its fourth step on; its memory counts steps."""

    def of(hyper):
        def value(params, memory, batch, noise):
            loss = (params["k"] - batch).square().mean()
            loss = torch.where((hyper["member"] == member) & (memory >= 3), torch.nan, loss)
            return loss, LossAux(memory + 1, {})

        return Loss(lambda key, params, batch: torch.zeros(()), lambda key, batch: (), value)

    return of


def test_a_member_that_diverges_stops_alone_and_is_named():
    hyper = {"member": torch.arange(M), "rate": torch.full((M,), 0.05)}
    with pytest.warns(RuntimeWarning, match=r"members \[1\] of the ensemble ended with 7 skipped steps"):
        result = _train(_breaks_for(1), 10, hyper=hyper, max_bad_steps=5)
    assert result.num_steps == 10
    assert result.memory.tolist() == [10, 3, 10]
    assert result.metrics["skipped"].sum(0).tolist() == [0, 7, 0]
    healthy = _train(_breaks_for(-1), 10, hyper=hyper)
    short = _train(_breaks_for(-1), 3, hyper=hyper)
    for member, other in ((0, healthy), (1, short), (2, healthy)):
        assert_same(result.params["k"][member], other.params["k"][member])


def test_an_ensemble_stops_when_all_have_diverged():
    hyper = {"member": torch.zeros(M, dtype=torch.int64), "rate": torch.full((M,), 0.05)}
    with pytest.warns(RuntimeWarning, match="training diverged: loss was nan in step 3"):
        result = _train(_breaks_for(0), 30, hyper=hyper, max_bad_steps=5, chunk_size=4)
    assert (result.num_steps, result.is_complete) == (2, False)


def test_each_member_keeps_its_own_best_params():
    values = iter([[3.0, 1.0, 2.0], [2.0, 2.0, 2.5], [4.0, 3.0, 1.0], [5.0, 5.0, 5.0], [6.0, 6.0, 6.0]])
    seen, rows = {}, []

    def metric(params, data):  # mapped over the members
        return (torch.tensor(rows[-1]) * torch.eye(M)[params["index"].long()]).sum()

    def next_row(step, params, metrics):
        seen[step] = params
        rows.append(next(values, None))

    rows.append(next(values, None))
    params = {**_stacked(), "index": torch.arange(3.0)}
    loss = losses.denoising_score_matching(cases.energy, 0.5)
    options = {"validation": Validation(DATA, 2, metric, patience=2), "callback": next_row, "num_steps": 20}
    settings = {"optimizer": optimizers.sgd(0.1), "batch_size": 8, "jit": False, **options}
    result = fit_ensemble(random.key(0), loss, params, DATA, **settings)
    assert result.num_steps == 10
    assert result.validation.best_step.tolist() == [4, 2, 6]
    assert result.validation.best_value.tolist() == [2.0, 1.0, 1.0]
    for member, step in enumerate((4, 2, 6)):
        assert_same(result.validation.best_params["k"][member], seen[step]["k"][member])


def test_one_samples_from_all_members_and_from_their_product():
    """Gaussians N(0, 1/k): all at once by vmap; the geometric mean has the mean precision."""
    energy = lambda params, x: params * (x**2).sum() / 2  # noqa: E731
    params, starts = torch.tensor([0.5, 1.0, 2.5]), random.normal(random.key(5), (400, 1))

    def sample(energy, params):
        sampler = samplers.hmc(energy, step_size=0.7, num_leapfrog=3)
        options = {"num_samples": 1, "num_burn_in": 12, "jit": False}
        return chains.sample(random.key(6), sampler, params, starts, **options).draws

    each = vmap(lambda params: sample(energy, params))(params).reshape(M, -1)
    pooled = sample(energies.product_of_members(energy), params).reshape(-1)
    error = 5 * (2 / 400) ** 0.5  # of a variance, relative
    assert bool(((each.var(1) * params - 1).abs() < error).all())
    assert abs(float(pooled.var()) * float(params.mean()) - 1) < error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"hyper": {"rate": torch.ones(2), "noise_scale": torch.ones(3)}},
            r"must lead with one axis.* Got lengths \[2, 3\]",
        ),
        ({"hyper": {"rate": torch.tensor(0.1)}}, r"must lead with one axis.* Got lengths \[0, 3\]"),
    ],
)
def test_members_must_be_as_many(change, words):
    with pytest.raises(ValueError, match=words):
        _train(_denoising, **change)
