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
