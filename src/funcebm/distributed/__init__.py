"""Many devices, many machines: the same draws and the same training on any number of ranks."""

from .agreement import RankError
from .checkpoint import draws_of, load, save
from .cost import Cost, Network, lockstep, simulate, table
from .local import Workers, run_local
from .mesh import Mesh, Shard, mesh, num_bytes_sent, single
from .optimizer import ShardedState, sharded_optimizer
from .parameters import gathered
from .pool import Pool, make_pool

__all__ = [
    "Cost",
    "Mesh",
    "Network",
    "Pool",
    "RankError",
    "Shard",
    "ShardedState",
    "Workers",
    "draws_of",
    "gathered",
    "load",
    "lockstep",
    "make_pool",
    "mesh",
    "num_bytes_sent",
    "run_local",
    "save",
    "sharded_optimizer",
    "simulate",
    "single",
    "table",
]
