"""Parameters of which ranks hold parts: trained as DTensors of torch, gathered for chains, refused where they would not work."""

from __future__ import annotations

import torch

from tests.ranks import work


def test_a_template_trains_with_dtensors(two):
    (found, expected, values, refused), (other, _, others, _) = two.run(work.cut)
    for name, leaf in expected.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-10, atol=1e-12)
        assert torch.equal(found[name], other[name])
    assert torch.equal(values, others)
    assert len(refused) == 3
    assert all("distributed.gathered(params)" in text for text in refused)
