"""Many devices, many machines: the same draws and the same training on any number of ranks."""

from .mesh import Mesh, Shard, mesh, num_bytes_sent, single

__all__ = ["Mesh", "Shard", "mesh", "num_bytes_sent", "single"]
