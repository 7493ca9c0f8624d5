"""Many devices, many machines: the same draws and the same training on any number of ranks."""

from .agreement import RankError
from .local import Workers, run_local
from .mesh import Mesh, Shard, mesh, num_bytes_sent, single

__all__ = ["Mesh", "RankError", "Shard", "Workers", "mesh", "num_bytes_sent", "run_local", "single"]
