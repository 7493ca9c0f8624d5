"""Many devices, many machines: the same draws and the same training on any number of ranks.

Under ``torchrun --nproc-per-node 8 run.py`` give ``mesh=funcebm.distributed.mesh()`` to ``warm_up``, ``sample``, ``fit`` and the
others; in a lone process that is the identity.

Chain ``c`` is the same whoever runs it: draws and tuning are equal bit for bit on any number of ranks (those of networks,
and compiled with fewer than 8 chains a rank, to rounding), training to rounding, or with ``deterministic=True`` bit for
bit. Nothing is sent while chains run. Draws stay where they are made, or are sent to the first rank or into a folder
(``gather="draws"``, ``"files"``); ``reducers.convergence`` merges R-hat and effective sizes over chains and ranks where
no draw is kept. An error or an interrupt on one rank is one on all, and a killed run continues on another number of ranks
(:func:`save`, ``checkpoint=``).

``mesh=`` of parallel tempering, SVGD, annealed importance sampling and sequential Monte Carlo shares a ladder or a population.
``fit`` of DTensors, :func:`sharded_optimizer`, :func:`gathered` and :func:`funcebm.fields.sharded` are for what is too large for
one device; :func:`simulate` says where another one no longer helps.
"""

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
