"""TorchEBM, eagerly, as its samplers and losses run; training with ``torch.optim``."""

from __future__ import annotations

from typing import Callable

from . import rows


def load() -> tuple[str, rows.Build]:
    import torch
    import torchebm
    from torch import Tensor, nn
    from torchebm.core import BaseModel, DoubleWellModel
    from torchebm.losses import ContrastiveDivergence, DenoisingScoreMatching, SlicedScoreMatching
    from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

    device = rows.device()

    class Diagonal(BaseModel):  # TorchEBM's own Gaussian multiplies by a dense precision, which is slower
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.register_buffer("precision", torch.linspace(*rows.PRECISION, dim))

        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * (self.precision * x * x).sum(-1)

    class Network(BaseModel):
        def __init__(self, dim: int, width: int) -> None:
            super().__init__()
            layers = [nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)]
            self.layers = nn.Sequential(*layers)

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).squeeze(-1)

    def model_of(row: rows.Row) -> BaseModel:
        torch.manual_seed(1)
        if row.energy == "double_well":
            return DoubleWellModel(barrier_height=2.0).to(device)
        return (Diagonal(row.dim) if row.energy == "gaussian" else Network(row.dim, row.width)).to(device)

    def sampling(row: rows.Row) -> Callable[[int], float]:
        model = model_of(row).requires_grad_(False)  # no gradients of parameters are wanted here
        if row.algorithm == "langevin":
            sampler = LangevinDynamics(model, step_size=row.step_size, device=device)
        else:
            sampler = HamiltonianMonteCarlo(
                model, step_size=row.step_size, n_leapfrog_steps=rows.NUM_LEAPFROG, device=device
            )
        positions = torch.randn(row.num_chains, row.dim, device=device)
        return lambda num_steps: float(sampler.sample(x=positions, n_steps=num_steps).square().mean())

    def loss_of(row: rows.Row, model: BaseModel) -> Callable[[Tensor], Tensor]:
        if row.algorithm == "dsm":
            return DenoisingScoreMatching(model, noise_scale=rows.NOISE_SCALE, device=device)
        if row.algorithm == "sliced":
            return SlicedScoreMatching(model, n_projections=1, device=device)
        sampler = LangevinDynamics(model, step_size=rows.CD_STEP_SIZE, device=device)
        contrast = ContrastiveDivergence(model, sampler, k_steps=rows.CD_STEPS, energy_reg_weight=0.0, device=device)
        return lambda batch: contrast(batch)[0]

    def training(row: rows.Row) -> Callable[[int], float]:
        data = torch.randn(rows.NUM_DATA, row.dim, device=device)

        def call(num_steps: int) -> float:
            model = model_of(row)
            loss = loss_of(row, model)
            optimizer = torch.optim.Adam(model.parameters(), lr=row.step_size, fused=True)
            for _ in range(num_steps):
                optimizer.zero_grad()
                value = loss(data[torch.randint(rows.NUM_DATA, (row.num_chains,), device=device)])
                value.backward()
                optimizer.step()
            return float(value.detach())

        return call

    description = f"TorchEBM {torchebm.__version__}, torch {torch.__version__}"
    return description, lambda row: training(row) if row.algorithm in rows.TRAINING else sampling(row)


if __name__ == "__main__":
    rows.serve(load)
