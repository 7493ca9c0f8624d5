"""Parameters of which ranks hold parts: trained as DTensors of torch, gathered for chains, refused where they would not work."""

from __future__ import annotations

import pytest
import torch

from funcebm import tree
from tests.ranks import work


def test_a_template_trains_with_dtensors(two):
    (found, expected, values, refused), (other, _, others, _) = two.run(work.cut)
    for name, leaf in expected.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-10, atol=1e-12)
        assert torch.equal(found[name], other[name])
    assert torch.equal(values, others)
    words = [*["distributed.gathered(params)"] * 3, "must be element-wise", "must be plain", "over the ranks of mesh="]
    assert [word in text for word, text in zip(words, refused, strict=True)] == [True] * 6, refused


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=[pytest.mark.compiled, pytest.mark.slow])])
def test_fit_trains_dtensors_as_whole_params(two, tmp_path, jit):
    """Params, their average, the memory of the optimizer, the best params and the loss, to the last bit; also when resumed."""
    pytest.importorskip("safetensors")
    for rank, (whole, found, sizes, kinds) in enumerate(two.run(work.fit_cut, str(tmp_path / "run.safetensors"), jit)):
        for each in found:
            for name, got, leaf in zip(tree.paths(whole), tree.leaves(each), tree.leaves(whole), strict=True):
                assert torch.equal(got, leaf), (rank, name)
        assert sizes == [8, 8, 4] * 2  # of 16, 8 (whole) and 8 numbers, twice
        assert kinds == {"DTensor"}


@pytest.mark.slow
def test_four_ranks_train_dtensors_as_whole_params(four, tmp_path):
    pytest.importorskip("safetensors")
    for whole, found, *_ in four.run(work.fit_cut, str(tmp_path / "run.safetensors")):
        for each in found:
            assert all(map(torch.equal, tree.leaves(each), tree.leaves(whole)))
