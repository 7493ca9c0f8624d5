"""Modules whose forward pass does more than multiply: they agree with torch, are sampled, and trained by second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcebm as ebm
from funcebm import energies, losses, optimizers, random, samplers

KEY = random.key(6)
X = random.normal(KEY, (5, 4))


class Sequence(nn.Module):
    """A recurrent net over the coordinates, which ends in a number."""

    def __init__(self, kind, **options):
        super().__init__()
        self.net = kind(1, 3, batch_first=True, **options)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.net(x.unsqueeze(-1))[0][:, -1])


class Cells(nn.Module):
    """The same, written as a loop over a cell."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell, nn.Linear(3, 1)

    def forward(self, x):
        state = None
        for column in x.unbind(1):
            state = self.cell(column[:, None], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Tokens(nn.Module):
    """Attention over the coordinates."""

    def __init__(self, kind):
        super().__init__()
        self.start, self.head = nn.Linear(1, 4), nn.Linear(4, 1)
        self.net = {
            "attention": lambda: nn.MultiheadAttention(4, 2, batch_first=True),
            "encoder": lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
            "encoders": lambda: nn.TransformerEncoder(
                nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True), 2, enable_nested_tensor=False
            ),
        }[kind]()

    def forward(self, x):
        tokens = self.start(x.unsqueeze(-1))
        found = self.net(tokens, tokens, tokens)[0] if isinstance(self.net, nn.MultiheadAttention) else self.net(tokens)
        return self.head(found.mean(1))


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return (self.b(torch.tanh(self.a(x))) ** 2).sum(-1)


class Writes(nn.Module):
    """Changes buffers, in place and not, and keeps its last output."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        self.last = self.layer(x)
        return self.last**2


def _net(layer, size=8):
    return nn.Sequential(layer, nn.SiLU(), nn.Linear(size, 1))


def _images(*layers):
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), *layers, nn.Flatten(), nn.LazyLinear(1)
    )


KINDS = {
    "gru": lambda: Sequence(nn.GRU),
    "lstm": lambda: Sequence(nn.LSTM),
    "two_layers_of_rnn": lambda: Sequence(nn.RNN, num_layers=2),
    "lstm_cell": lambda: Cells(nn.LSTMCell(1, 3)),
    "gru_cell": lambda: Cells(nn.GRUCell(1, 3)),
    "rnn_cell": lambda: Cells(nn.RNNCell(1, 3, bias=False)),
    "relu_cell": lambda: Cells(nn.RNNCell(1, 3, nonlinearity="relu")),
    "prelu": lambda: nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 1)),
    "prelu_of_channels": lambda: _images(nn.PReLU(3)),
    "rrelu": lambda: nn.Sequential(nn.Linear(4, 8), nn.RReLU(), nn.Linear(8, 1)),
    "data_parallel": lambda: nn.DataParallel(nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))),
    "attention": lambda: Tokens("attention"),
    "encoder": lambda: Tokens("encoder"),
    "encoders": lambda: Tokens("encoders"),
    "batch_norm_2d": lambda: _images(nn.BatchNorm2d(3), nn.SiLU()),
    "group_norm": lambda: _images(nn.GroupNorm(3, 3), nn.SiLU()),
    "instance_norm": lambda: _images(nn.InstanceNorm2d(3), nn.SiLU()),
    "layer_norm": lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1)),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.SiLU(), nn.Linear(8, 1)),
    "spectral_norm": lambda: _net(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8))),
    "old_spectral_norm": lambda: _net(nn.utils.spectral_norm(nn.Linear(4, 8))),
    "weight_norm": lambda: _net(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))),
    "orthogonal": lambda: _net(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), 4),
    "tied": Tied,
    "writes": Writes,
    "in_place": lambda: nn.Sequential(nn.Linear(4, 8), nn.SiLU(inplace=True), nn.Linear(8, 1)),
    "lazy_that_has_run": lambda: nn.Sequential(nn.LazyLinear(8), nn.SiLU(), nn.LazyLinear(1)),
    "double": lambda: nn.Linear(4, 1).double(),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", list(KINDS))
def test_modules_of_all_kinds(name):
    torch.manual_seed(0)
    module = KINDS[name]()
    module(X.double() if name == "double" else X)  # some want a pass before
    energy, params = energies.from_module(module)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    ours = torch.func.vmap(energy, (None, 0))(params, X)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])
    module.eval()
    theirs = module(X.double() if name == "double" else X).reshape(-1).detach()
    torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-5, rtol=1e-4)
    walled = lambda params, x: energy(params, x) + (x**2).sum() / 2  # noqa: E731
    run = ebm.sample(KEY, samplers.mala(walled, step_size=0.1), params, X, num_samples=2, jit=False)
    assert bool(torch.isfinite(run.draws).all())
    loss = losses.denoising_score_matching(energy, 0.5)
    options = {"optimizer": optimizers.sgd(1e-2), "num_steps": 2, "batch_size": 5, "jit": False}
    fitted = ebm.fit(KEY, loss, params, X, **options)
    assert bool(torch.isfinite(fitted.metrics["loss"]).all())
    assert any(not torch.equal(params[key], fitted.params[key]) for key in params)


def test_second_derivatives_go_through_prelu_and_cells():
    for make in (KINDS["prelu"], KINDS["lstm_cell"], KINDS["gru_cell"]):
        energy, params = energies.from_module(make())
        hessians = torch.func.vmap(torch.func.hessian(energy, 1), (None, 0))(params, X)
        assert hessians.shape == (5, 4, 4)
        torch.testing.assert_close(hessians[2], torch.func.hessian(energy, 1)(params, X[2]))


def test_what_wraps_a_module_is_left_aside():
    plain = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))
    compiled, both = nn.Module(), nn.Module()  # torch.compile itself would switch off all checks of distributions
    compiled._orig_mod, both._orig_mod = plain, nn.DataParallel(plain)
    for wrapped in (nn.DataParallel(plain), compiled, both):
        energy, params = energies.from_module(wrapped)
        assert list(params) == [name for name, _ in plain.named_parameters()]
        torch.testing.assert_close(energy(params, X[0]), plain(X[:1])[0, 0].detach())
        energies.load_into(wrapped, {name: torch.zeros_like(value) for name, value in params.items()})
        assert not plain(X).any()
        energies.load_into(wrapped, params)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modules_without_code_or_numbers_are_told():
    with pytest.raises(TypeError, match=r"made of Python.*Give the module that was scripted or traced"):
        energies.from_module(torch.jit.trace(nn.Linear(4, 1), X))
    with pytest.raises(ValueError, match=r"must have numbers.*Linear '1' on the device meta.*to_empty"):
        energies.from_module(nn.Sequential(nn.SiLU(), nn.Linear(4, 1, device="meta")))


def test_an_energy_that_calls_a_module_is_told_what_it_keeps(monkeypatch):
    from funcebm.chains import _checks

    monkeypatch.setattr(_checks, "_warned", set())
    module = nn.Linear(4, 1)
    with pytest.warns(UserWarning, match="reads tensors that require grad .* keep the graph.*from_module"):
        ebm.sample(KEY, samplers.langevin(lambda p, x: module(x).sum() ** 2), (), X, num_samples=2, jit=False)
    _checks._warned.clear()
    frozen = nn.Linear(4, 1).requires_grad_(False)
    ebm.sample(KEY, samplers.langevin(lambda p, x: frozen(x).sum() ** 2), (), X, num_samples=2, jit=False)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False)),
            "running statistics.*'1'",
        ),
        (lambda: _images(nn.BatchNorm2d(3, track_running_stats=False)), "running statistics.*BatchNorm2d"),
        (lambda: nn.SyncBatchNorm(4, track_running_stats=False), "running statistics"),
        (lambda: nn.LazyLinear(1), "Call it once, on a batch of data"),
        (lambda: nn.Sequential(nn.LazyConv2d(2, 1), nn.Flatten(), nn.Linear(8, 1)), "LazyConv2d '0'"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.LazyBatchNorm1d()), "LazyBatchNorm1d '1'"),
    ],
)
def test_modules_that_are_no_energies_yet(make, words):
    with pytest.raises(ValueError, match=words):
        energies.from_module(make())
