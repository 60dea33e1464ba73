"""The distance to rank one: what it is on streams that are known, and what attention does to it."""

import math

import pytest
import torch
from torch import nn

from resnorm import Block, Stack, attention, init, mlp
from resnorm.probes import rank_residual


class Given(nn.Module):
    """A branch that returns the tokens that it was made of, whatever it reads."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = nn.Parameter(tokens)

    def forward(self, x):
        return self.tokens.expand_as(x)


def test_the_residual_is_the_distance_from_the_mean_token():
    same, opposite = torch.tensor([[3.0, 4.0]]).repeat(2, 1), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    blocks = [Block("F", 2, F=lambda width, tokens=tokens: Given(tokens)) for tokens in (same, opposite, same + opposite, 0 * same)]
    stack = Stack(blocks).train()
    x = torch.stack((same + opposite, opposite))
    rows = rank_residual(stack, x)
    mixed = math.sqrt(2 / (4**2 + 4**2 + 2**2 + 4**2))
    assert [row["block"] for row in rows] == [0, 1, 2, 3, 4]
    # The mean over sequences of different sizes, and not the ratio of the sums.
    assert [row["residual"] for row in rows[:4]] == pytest.approx([(mixed + 1) / 2, 0, 1, mixed])
    assert rows[4]["residual"] is None  # all zero: there is nothing to divide by
    assert stack.training and not any(block._forward_hooks for block in stack.blocks)


def test_attention_alone_cubes_a_small_residual():
    torch.manual_seed(0)
    stack = Stack([Block("A", 32, A=attention(2))]).double()
    init.xavier(stack)
    common, own = torch.randn(1, 1, 32).double(), torch.randn(2, 16, 32).double()
    before, after = zip(
        *([math.log(row["residual"]) for row in rank_residual(stack, common + size * own)] for size in (1e-2, 1e-3)), strict=True
    )
    assert (after[0] - after[1]) / (before[0] - before[1]) == pytest.approx(3, abs=0.02)


@pytest.mark.parametrize(("word", "keeps"), [("A", False), ("A M", False), ("An", False), ("Aa", True), ("nAa nMa", True)])
def test_only_a_skip_keeps_tokens_apart(word, keeps):
    torch.manual_seed(0)
    letters = dict(A=attention(2), M=mlp(2), n="layer")
    stack = Stack([Block(word, 32, **{name: one for name, one in letters.items() if name in word}) for _ in range(8)])
    init.xavier(stack)
    last = rank_residual(stack, torch.randn(2, 16, 32))[-1]["residual"]
    assert last > 0.1 if keeps else last < 1e-5
