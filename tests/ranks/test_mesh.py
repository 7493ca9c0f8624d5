"""The mesh: its four functions, its operator under transforms, and no other collective anywhere."""

from __future__ import annotations

import pathlib
import re

import pytest
import torch

import funcebm as ebm
from funcebm import distributed
from tests.ranks import work


def test_one_process_is_the_identity():
    mesh = distributed.mesh(chains=1)
    x = {"a": torch.arange(3.0)}
    assert (mesh.rank, mesh.size) == (0, 1)
    assert mesh.sum(x) is x
    assert mesh.gather(x) is x
    assert mesh.take(x) is x
    assert mesh.agree(True) is True
    assert mesh.agree(False) is False
    assert mesh.axes["chains"].size == 1


def test_ranks_gather_take_add_and_agree(two):
    for found in two.run(work.collect):
        assert found.pop("sum") == found.pop("large sum") == 3
        assert found.pop("agree") == (True, False)
        assert all(found.values()), found


@pytest.mark.parametrize("mapped", [False, True])
def test_a_derivative_of_a_collective_is_an_error_on_every_rank(two, mapped):
    for text in two.run(work.differentiate, mapped):
        assert "derivatives do not go through a mesh" in text


def test_axes_are_meshes_of_the_ranks_in_a_line(two):
    for rank, (lines, text) in enumerate(two.run(work.axes)):
        assert lines == {"chains": (0, 1, 1.0), "rungs": (rank, 2, 2.0)}
        assert "must multiply to the number of ranks" in text


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_does_not_come_is_an_error_in_time(two, rank):
    """It is named where the first rank waits for it; the next mesh is one of all again."""
    found = two.run(work.comes_alone, rank)
    (text, differ), seconds, both = found[1 - rank]
    assert f"rank {rank} of 2 did not come within 0.5 s" in text
    assert 0.5 <= seconds < 5
    assert both == found[rank][2] == 2
    for other in (differ, *found[rank][0]):
        assert "Got mesh(chains=2, rungs=1) on rank 1, mesh(chains=2) on rank 0" in other


def test_a_mesh_does_not_read_notes_of_another(two):
    assert two.run(work.notes) == [("1", "")] * 2


@pytest.mark.compiled
def test_a_sum_in_a_compiled_loop_is_that_of_an_eager_one(two):
    for eager, compiled in two.run(work.scan):
        torch.testing.assert_close(compiled, eager, rtol=1e-6, atol=0)
        assert eager[1].tolist() == [2] * 20


def test_the_library_has_one_collective():
    """Functional collectives under vmap give uninitialised numbers: nothing but our operator may speak to other ranks."""
    root = pathlib.Path(ebm.__file__).parent
    words = re.compile(
        r"all_reduce|all_gather|reduce_scatter|all_to_all|_functional_collectives|\bdist\.(broadcast|barrier)"
    )
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if words.search(path.read_text())}
    assert found == {"_torch/collectives.py"}


@pytest.mark.parametrize(("num", "size"), [(10, 4), (9, 4), (3, 4), (1001, 3)])
def test_every_row_belongs_to_one_rank(num, size):
    from funcebm.distributed.mesh import bounds

    rows = [row for rank in range(size) for row in range(*bounds(num, rank, size))]
    assert rows == list(range(num))


def test_a_sum_by_halving_is_the_sum():
    from funcebm.distributed.mesh import tree_sum

    for num in (1, 2, 3, 8, 13):
        values = torch.arange(num * 2.0).reshape(num, 2)
        assert torch.equal(tree_sum(values), values.sum(0))
