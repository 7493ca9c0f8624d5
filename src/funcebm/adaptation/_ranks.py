"""A warm-up over ranks: each steps its own chains, and an adaptation sees all of them."""

from __future__ import annotations

import inspect
from typing import Any, Callable

from torch.func import vmap

from .. import tree
from ..distributed.mesh import Mesh, own_rows, shared_rows
from ..distributed.pool import Pool
from ..types import Adaptation, Key, Params, Position, Sampler, Tree, step_of_chains

__all__ = ["over_ranks", "takes_pool", "with_pool"]


def takes_pool(adaptation: Adaptation) -> bool:
    """Whether all functions of an adaptation ask for the pool of chains."""
    functions = [adaptation.init, adaptation.update, adaptation.final, adaptation.refresh]
    return all("pool" in inspect.signature(function).parameters for function in functions if function is not None)


def with_pool(adaptation: Adaptation, pool: Pool) -> Adaptation:
    """The adaptation over a given pool, which is no argument any more."""

    def bound(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: function(*arguments, pool)

    refresh = None if adaptation.refresh is None else bound(adaptation.refresh)
    init, update, final = (bound(function) for function in (adaptation.init, adaptation.update, adaptation.final))
    return adaptation._replace(init=init, update=update, final=final, refresh=refresh)


def over_ranks(sampler: Sampler, mesh: Mesh, is_per_chain: bool) -> Sampler:
    """A sampler of all chains whose steps the ranks share, for an adaptation that knows no pool.

    Each rank makes those of its rows, and one message joins them.

    Its ``batched_step`` takes and gives the states of all chains, the same on all ranks, so that whatever is computed from them
    is the same too, bit for bit, and as in one process. Its noise is the key of each chain: every rank draws that of its rows.

    Args:
        sampler: of one process.
        mesh: of more than one rank.
        is_per_chain: whether the leaves of the tuning lead with the chain axis.
    """
    step = vmap(sampler.step, (None, 0, 0, 0)) if is_per_chain else step_of_chains(sampler)

    def draw(key: Key, position: Position) -> Tree:
        return key

    def batched_step(params: Params, tuning: Tree, state: Any, keys: Key) -> tuple[Any, Any]:
        own_state, own_keys = own_rows((state, keys), mesh)
        noise = vmap(sampler.draw)(own_keys, own_state.position)
        made = step(params, own_rows(tuning, mesh) if is_per_chain else tuning, own_state, noise)
        return shared_rows(made, mesh, tree.batch_size(state))

    return sampler._replace(draw=draw, batched_step=batched_step)
