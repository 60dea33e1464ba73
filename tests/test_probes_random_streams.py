"""Random stacks of several words beside each other, on equal branches."""

import math

import pytest
import torch

from resnorm import probes, theory


def test_words_beside_each_other_have_the_same_branches():
    torch.manual_seed(0)
    x = torch.randn(4, 16, dtype=torch.float64)
    words = {"plain": ("F", 1.0), "skip": ("Fa", 1.0), "half": ("Fa", 0.5)}
    start, first, _ = probes.random_streams(words, 2, x)
    assert all(stream is x for stream in start.values())
    assert torch.allclose(first["skip"], x + first["plain"]) and torch.allclose(first["half"], x + 0.5 * first["plain"])
    low = list(probes.random_streams({"norm": ("Fan", 1.0)}, 1, x.half()))[-1]["norm"]
    assert low.dtype == torch.float16


def test_a_constant_part_of_the_branch_is_the_same_for_every_input():
    torch.manual_seed(0)
    x = torch.randn(2000, 32, dtype=torch.float64)
    *_, end = probes.random_streams({"plain": ("F", 1.0)}, 1, x, constant=0.75)
    assert (end["plain"].mean(0).square().mean() / end["plain"].square().mean()).item() > 0.7
    with pytest.raises(ValueError, match=r"constant is 1\.5: give a part"):
        next(probes.random_streams({"plain": ("F", 1.0)}, 1, x, constant=1.5))


def test_pairs_have_the_cosine_and_the_size_that_was_asked_for():
    both = probes.pairs(-0.3, 5, 16)
    assert both.shape == (10, 16) and both.square().mean(1) == pytest.approx(torch.ones(10))
    assert torch.nn.functional.cosine_similarity(both[:5], both[5:]).tolist() == pytest.approx([-0.3] * 5)
    assert probes.cosine_of(both) == pytest.approx(-0.3)
    with pytest.raises(ValueError, match="cosine is 2"):
        probes.pairs(2, 5, 16)


def test_two_inputs_become_alike_as_the_shares_say():
    torch.manual_seed(0)
    *_, end = probes.random_streams({"pre": ("nFa", 1.0)}, 12, probes.pairs(0.0, 32, 512))
    law = theory.cosines(theory.branch_shares("nFa", 12))[-1]
    assert probes.cosine_of(end["pre"]) == pytest.approx(law, abs=0.05) and math.isfinite(law)


def test_signal_gradient_and_share_follow_the_laws_and_the_gradient_is_that_of_each_blocks_own_weights():
    torch.manual_seed(0)
    words = {"pre": ("nFa", 1.0), "small": ("Fa", 0.5), "post": ("Fan", 1.0)}
    rows = probes.random_passage(words, 6, 512, constant=0.2)
    laws = theory.passage(words, 6, constant=0.2)
    assert [row["block"] for row in rows] == 3 * list(range(7)) and [row.keys() for row in rows] == [law.keys() for law in laws]
    assert [row["word"] for row in rows] == [law["word"] for law in laws]
    # What is the same for all inputs brings no gradient back: a fifth of the branch's part is missing in it.
    for quantity in ("forward_rms", "share", "distance"):
        assert [row[quantity] for row in rows] == pytest.approx([law[quantity] for law in laws], rel=0.15, nan_ok=True)
    rows, laws = probes.random_passage(words, 6, 512), theory.passage(words, 6)
    assert [row["gradient"] for row in rows] == pytest.approx([law["gradient"] for law in laws], rel=0.1)
    # Without a kink on its way a block is linear in x, so by Euler the gradient along x is the output itself.
    torch.manual_seed(1)
    x, g = torch.randn(2, 4, 16, dtype=torch.float64)
    *_, end = probes.random_streams({"small": ("Fa", 0.5)}, 5, x.requires_grad_())
    (gradient,) = torch.autograd.grad((end["small"] * g).sum(), x)
    assert (gradient * x).sum().item() == pytest.approx((end["small"] * g).sum().item())
