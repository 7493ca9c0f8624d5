"""Networks ``(params, x) -> outputs`` of one particle, as pure functions.

Each maker returns a network and its first parameters. Without ``num_outputs`` the outputs have the shape of ``x``, as a vector
field needs; with a condition (a time, a noise scale, a label) the network is ``(params, x, condition) -> outputs``. The
makers of the same names in :mod:`funcebm.energies` give energies, with one output as a scalar.
"""

from ._layers import Network
from .conv import conv
from .mlp import mlp
from .modules import from_module
from .resnet import resnet
from .spectral import spectral_norm, spectral_normalised
from .time_mlp import time_mlp
from .transformer import transformer
from .unet import unet

__all__ = [
    "Network",
    "conv",
    "from_module",
    "mlp",
    "resnet",
    "spectral_norm",
    "spectral_normalised",
    "time_mlp",
    "transformer",
    "unet",
]
