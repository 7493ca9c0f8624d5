"""Parameters of which ranks hold parts."""

from __future__ import annotations

import torch
from torch.func import functional_call, grad, vmap

import funcebm as ebm
from funcebm import distributed, random, samplers
from tests.ranks.work.common import KEY


def template():
    """A plain module, whose params are given to it."""
    layers = [torch.nn.Linear(2, 8), torch.nn.Softplus(), torch.nn.Linear(8, 1)]
    return torch.nn.Sequential(*layers).double()


def cut(mesh):
    """Training by the template route with DTensors, against plain tensors; and what is refused of them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    devices = init_device_mesh("cpu", (mesh.size,))
    module = template()
    shapes = {name: leaf.shape for name, leaf in module.named_parameters()}
    keys = random.split(random.key(2), len(shapes))
    plain = {
        name: random.normal(keys[index], tuple(shape), dtype=torch.float64) / 2
        for index, (name, shape) in enumerate(shapes.items())
    }
    kinds = {name: [Shard(0)] if leaf.shape[0] % mesh.size == 0 else [Replicate()] for name, leaf in plain.items()}
    parts = {name: distribute_tensor(leaf, devices, kinds[name]) for name, leaf in plain.items()}
    x = random.normal(random.key(3), (6, 2), dtype=torch.float64)
    noise = random.normal(random.key(4), (6, 2), dtype=torch.float64) * 0.3

    def energy(params, x):
        return (x**2).sum() / 2 + functional_call(module, params, (x,)).sum()

    def loss(params, rows, noise):
        """Denoising score matching, a gradient inside of the one by the params."""
        scores = grad(lambda x: functional_call(module, params, (x,)).sum() + (x**2).sum() / 2)(rows + noise)
        return ((scores - noise / 0.09) ** 2).mean()

    def trained(params, rows, noise):
        optimizer = ebm.optimizers.adam(0.05)
        state = optimizer.init(params)
        for _ in range(4):
            gradients = grad(loss)(params, rows, noise)
            gradients = {
                name: leaf.redistribute(placements=kinds[name]) if hasattr(leaf, "redistribute") else leaf
                for name, leaf in gradients.items()
            }
            updates, state = optimizer.update(gradients, state, params)
            params = ebm.optimizers.apply_updates(params, updates)
        return params

    whole = [distribute_tensor(value, devices, [Replicate()]) for value in (x, noise)]
    found = distributed.gathered(trained(parts, *whole))
    expected = trained(plain, x, noise)
    chains = ebm.sample(KEY, samplers.mala(energy), found, x, num_samples=3, jit=False).draws
    refused = []
    for run in (
        lambda: ebm.sample(KEY, samplers.mala(energy), parts, x, num_samples=3, jit=False, mesh=mesh),
        lambda: ebm.warm_up(KEY, samplers.mala(energy), parts, x, num_steps=3, jit=False, mesh=mesh),
        lambda: ebm.fit(
            KEY,
            ebm.losses.denoising_score_matching(energy, 0.3),
            parts,
            x,
            optimizer=ebm.optimizers.adam(0.1),
            num_steps=2,
            batch_size=4,
            mesh=mesh,
        ),
    ):
        try:
            run()
        except ValueError as error:
            refused.append(str(error))
    return found, expected, vmap(energy, (None, 0))(found, chains[:, -1]), refused
