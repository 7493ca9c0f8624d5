"""What the ranks of the tests run, by name."""

from .chains_work import (
    another_size,
    draws,
    fails_later,
    in_files,
    interrupted,
    name,
    no_folder,
    reduced_of_all,
    refused,
    shard,
)
from .common import KEY, energy, network
from .compiled_work import compiled_twice
from .data_work import _squares, sharded
from .ensemble_work import ladder_of_other_keys, ladder_refused, normalizer, others_refused, stein, tempering
from .files_work import _of_tree, _part, loaded, loaded_plainly, refuses_to_load, resumed_in_folder, saved
from .fit_work import (
    _model,
    _neural,
    clipped_inside,
    fit,
    fit_coupled,
    fit_interrupted,
    fit_not_finite,
    fit_refused,
    loss_of,
    resume_fit,
)
from .mesh_work import axes, collect, comes_alone, differentiate, notes, scan
from .misuse_work import forgotten, misuse
from .parameters_work import cut, fit_cut
from .pool_work import pooled
from .warm_up_work import sampler_of, warm_up, warm_up_cut, warm_up_fails

__all__ = [
    "KEY",
    "_model",
    "_neural",
    "_of_tree",
    "_part",
    "_squares",
    "axes",
    "collect",
    "comes_alone",
    "differentiate",
    "draws",
    "energy",
    "fails_later",
    "fit",
    "fit_coupled",
    "fit_cut",
    "fit_not_finite",
    "fit_interrupted",
    "fit_refused",
    "interrupted",
    "loaded",
    "loss_of",
    "name",
    "in_files",
    "no_folder",
    "compiled_twice",
    "ladder_of_other_keys",
    "ladder_refused",
    "stein",
    "tempering",
    "forgotten",
    "misuse",
    "normalizer",
    "notes",
    "others_refused",
    "clipped_inside",
    "another_size",
    "cut",
    "loaded_plainly",
    "pooled",
    "reduced_of_all",
    "network",
    "refused",
    "refuses_to_load",
    "resume_fit",
    "resumed_in_folder",
    "sampler_of",
    "saved",
    "scan",
    "shard",
    "sharded",
    "warm_up",
    "warm_up_cut",
    "warm_up_fails",
]
