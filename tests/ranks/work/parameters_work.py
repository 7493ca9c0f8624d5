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
    refused, loss_of = [], ebm.losses.denoising_score_matching(energy, 0.3)
    clipped = ebm.optimizers.chain(ebm.optimizers.clip_by_global_norm(1.0), ebm.optimizers.adam(0.1))
    shared = distributed.sharded_optimizer(ebm.optimizers.adam(0.1), mesh)
    for run in (
        lambda: ebm.sample(KEY, samplers.mala(energy), parts, x, num_samples=3, jit=False, mesh=mesh),
        lambda: ebm.warm_up(KEY, samplers.mala(energy), parts, x, num_steps=3, jit=False, mesh=mesh),
        lambda: ebm.training.fit_ensemble(
            KEY, loss_of, parts, x, num_steps=2, batch_size=4, optimizer=ebm.optimizers.adam(0.1)
        ),
        lambda: ebm.fit(KEY, loss_of, parts, x, num_steps=2, batch_size=4, optimizer=clipped, mesh=mesh),
        lambda: ebm.fit(KEY, loss_of, parts, x, num_steps=2, batch_size=4, optimizer=shared, mesh=mesh),
        lambda: ebm.fit(KEY, loss_of, parts, x, num_steps=2, batch_size=4, optimizer=ebm.optimizers.adam(0.1)),
    ):
        try:
            run()
        except ValueError as error:
            refused.append(str(error))
    return found, expected, vmap(energy, (None, 0))(found, chains[:, -1]), refused


def fit_cut(mesh, path, jit=False, num=7):
    """Training of DTensors by ``fit``, against whole params: all they end with; what a rank holds; runs that are resumed."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    devices, module = init_device_mesh("cpu", (mesh.size,)), template()
    keys = random.split(random.key(2), 4)
    named = {name: leaf.shape for name, leaf in module.named_parameters()}
    plain = {
        name: random.normal(key, tuple(shape), dtype=torch.float64) / 2
        for key, (name, shape) in zip(keys, named.items(), strict=True)
    }
    kinds = dict(zip(plain, ([Shard(0)], [Replicate()], [Shard(1)], None), strict=True))  # one stays plain
    parts = {
        name: leaf if kinds[name] is None else distribute_tensor(leaf, devices, kinds[name])
        for name, leaf in plain.items()
    }
    data = random.normal(random.key(3), (48, 2), dtype=torch.float64)

    def energy(params, x):
        return (x**2).sum() / 2 + functional_call(module, params, (x,)).sum()

    loss = ebm.losses.denoising_score_matching(energy, 0.3)
    options = {"optimizer": ebm.optimizers.adam(0.05), "batch_size": 16, "jit": jit, "mesh": mesh, "ema_decay": 0.9}
    options |= {"deterministic": True, "validation": ebm.training.Validation(data[:8], every=2)}

    def state(fit):
        best = fit.validation.best_params
        return distributed.gathered((fit.params, fit.ema_params, fit.opt_state, best)), fit.metrics["loss"]

    whole = state(ebm.fit(KEY, loss, plain, data, num_steps=num, **options))
    seen, name = [], next(iter(plain))

    def callback(step, params, metrics):
        seen.append(type(params[name]))

    found = ebm.fit(KEY, loss, parts, data, num_steps=num, callback=callback, **options)
    first_part = ebm.fit(KEY, loss, parts, data, num_steps=4, checkpoint=path, **options)
    resumed = ebm.fit(KEY, loss, parts, data, num_steps=num - 4, resume=first_part, **options)
    mesh.agree(False)
    of_file = ebm.fit(KEY, loss, parts, data, num_steps=num - 4, resume=ebm.training.load(path, parts), **options)
    sizes = [leaf.to_local().numel() for leaf in ebm.tree.leaves(found.opt_state) if hasattr(leaf, "to_local")]
    return whole, [state(fit) for fit in (found, resumed, of_file)], sizes, {kind.__name__ for kind in seen}
