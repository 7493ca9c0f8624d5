"""Patches are in force while funcebm compiles and at no other time, and each is still needed."""

from __future__ import annotations

import itertools

import pytest
import torch

import funcebm as ebm
from funcebm import transforms
from funcebm._torch import layout, lowering, patches, plans, recorder

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(not transforms.can_compile(), reason="there is no compiler"),
]


def _attributes() -> dict[str, object]:
    """What of torch funcebm changes for a while, and what it used to change for good."""
    from torch._higher_order_ops.scan import scan_op
    from torch._higher_order_ops.while_loop import while_loop_op
    from torch._inductor import config
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

    found = {patch.name: patch.find() for patch in patches.PATCHES}
    seen = {name: getattr(*place) for name, place in found.items() if place is not None}
    vmap = torch._C._functorch.TransformType.Vmap
    for name, operator in (("scan", scan_op), ("while_loop", while_loop_op)):
        seen[name] = operator.functorch_table.get(vmap)
    seen["finalize_prefix"] = CppWrapperCpu.finalize_prefix
    seen["vec_isa_ok"] = config.cpp.vec_isa_ok
    seen["cpp_wrapper"] = config.cpp_wrapper
    seen["validate_args"] = torch.distributions.Distribution._validate_args
    return seen


def _chain() -> torch.Tensor:
    def energy(params, x):
        return (x**4).sum() / 4 + 0.1234 * (x**2).sum()

    sampler = ebm.samplers.mala(energy, step_size=0.1)
    return ebm.sample(ebm.random.key(0), sampler, (), torch.zeros(4, 2), num_samples=3, jit=True).draws


def test_torch_is_as_it_was_after_compiling():
    before = _attributes()
    transforms.clear_cache()
    _chain()
    ebm.jit(lambda x: (x @ x).sin().sum(0))(torch.ones(3, 3))
    assert _attributes() == before


def test_patches_are_in_force_inside_only():
    places = [patch.find() for patch in patches.switched_on()]
    before = [getattr(*place) for place in places]
    with patches.applied():
        inside = [getattr(*place) for place in places]
    assert all(new is not old for new, old in zip(inside, before, strict=True))
    assert [getattr(*place) for place in places] == before


def test_an_error_inside_takes_them_back():
    place = patches.switched_on()[0].find()
    before = getattr(*place)
    with pytest.raises(KeyError), patches.applied():
        raise KeyError
    assert getattr(*place) is before


def test_the_environment_switches_them(monkeypatch):
    names = [patch.name for patch in patches.PATCHES if patches.is_needed(patch)]
    assert names and [patch.name for patch in patches.switched_on()] == names
    monkeypatch.setenv("FUNCEBM_TORCH_PATCHES", "none")
    assert patches.switched_on() == ()
    monkeypatch.setenv("FUNCEBM_TORCH_PATCHES", names[-1])
    assert [patch.name for patch in patches.switched_on()] == names[-1:]


def test_every_patch_finds_what_it_changes():
    """On a torch that funcebm is tested on none is silently off."""
    assert [patch.name for patch in patches.switched_on() if patch.find() is None] == []


def test_a_torch_that_does_it_right_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.14.1+cu130")
    assert set(patches.switched_on()) == set(patches.PATCHES)
    monkeypatch.setattr(torch, "__version__", "2.15.0a0+git123")
    assert {patch.name for patch in patches.switched_on()} == {"no_isa_trials", "plain_indices"}


# -- canaries: the day torch does it right, these fail, and the patch says since when ---------------------------------


def _canary(name: str) -> pytest.MarkDecorator:
    """Expected to fail on a torch that needs the patch, and to pass on one that does not."""
    patch = next(patch for patch in patches.PATCHES if patch.name == name)
    return pytest.mark.xfail(patches.is_needed(patch), strict=True, reason=f"{name} is needed: {patch.repairs}")


def _num_parallel_regions_inside_of_loops() -> int:
    """Of the C++ for sums over a long axis, with an inner axis that is shorter than a vector."""
    body, record = recorder.record(lambda x: [x.sin().sum(1)], [torch.ones(32, 300, 8)])
    source = plans.make_plan([plans.Part(body, record.fake_mode, False)]).source
    kernel = source[source.index("static void kernel0") :]
    return sum(line.startswith(" " * 12) and "#pragma omp parallel" in line for line in kernel.splitlines())


def test_threads_start_outside_of_loops(monkeypatch):
    monkeypatch.setattr(lowering, "SHARED_FROM", 2**13)
    assert _num_parallel_regions_inside_of_loops() == 0


@_canary("threads_outside")
def test_canary_threads_outside(monkeypatch):
    monkeypatch.setenv("FUNCEBM_TORCH_PATCHES", "none")
    monkeypatch.setattr(lowering, "SHARED_FROM", 2**13)
    assert _num_parallel_regions_inside_of_loops() == 0


def _is_set_up_once() -> bool:
    from torch._inductor.dtype_propagation import DtypePropagationOpsHandler

    handler = DtypePropagationOpsHandler()
    name = next(iter(vars(handler)))
    rule = vars(handler)[name]
    DtypePropagationOpsHandler()
    return vars(handler)[name] is rule


def test_rules_of_dtypes_are_set_up_once():
    with patches.applied():
        assert _is_set_up_once()


@_canary("one_dtype_handler")
def test_canary_one_dtype_handler():
    assert _is_set_up_once()


def _num_searches(monkeypatch) -> int:
    """How often a simpler form of an index without divisions is searched for."""
    import sympy

    owner, name = next(patch for patch in patches.PATCHES if patch.name == "plain_indices").find()
    found = []
    x, y = sympy.symbols("x0 x1", integer=True)
    simplify = getattr(owner, name)
    monkeypatch.setattr(sympy, "simplify", lambda index: found.append(index) or index)
    getattr(simplify, "cache_clear", getattr(simplify, "__wrapped__", simplify).cache_clear)()
    assert simplify(64 * x + y, y, 16) == 64 * x + y
    return len(found)


def test_plain_indices_are_left_alone(monkeypatch):
    with patches.applied():
        assert _num_searches(monkeypatch) == 0


@_canary("plain_indices")
def test_canary_plain_indices(monkeypatch):
    assert _num_searches(monkeypatch) == 0


@pytest.mark.parametrize("sizes", [(64, 64), (1, 100, 3), (1000,) * 5])
def test_places_of_an_arena_do_not_overlap(sizes):
    arena = layout.Arena()
    places = [arena.take(size) for size in sizes]
    arena.give(places[0])
    places = [*places[1:], arena.take(sizes[0]), arena.take(7)]
    spans = sorted((start, start + size) for start, size in places)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert spans[-1][1] <= arena.end
