"""Streams: the four verbs, and that a stream with plain branches equals the words that carry their merge themselves."""

import pytest
import torch
from torch import nn

from resnorm.letters import concat
from resnorm.streams import Dense, Plain, Stack, Stream, Sum
from resnorm.words import Block


def linear(width):
    return nn.Linear(width, 3)


def square(width):
    return nn.Linear(width, width)


def test_a_sum_stream_of_branches_is_a_plain_stream_of_residual_words():
    branches = Stack([Block("nF", 6, n="layer", F=square) for _ in range(4)], Sum(), last="layer")
    words = Stack([Block("nFa", 6, n="layer", F=square) for _ in range(4)], last="layer")
    words.load_state_dict(branches.state_dict())
    x = torch.randn(5, 6)
    torch.testing.assert_close(branches(x), words(x))


def test_a_dense_stream_is_a_plain_stream_of_concatenating_words():
    branches = Stack([Block("nF", 6 + 3 * i, n="layer", F=linear) for i in range(4)], Dense(dim=-1), last="layer")
    words = Stack([Block("nFc", 6 + 3 * i, n="layer", F=linear, c=concat(dim=-1)) for i in range(4)], last="layer")
    assert branches.out_width == words.out_width == 18
    words.load_state_dict(branches.state_dict())
    x = torch.randn(5, 6)
    torch.testing.assert_close(branches(x), words(x))


@pytest.mark.parametrize(("word", "needs"), [("nFa", True), ("Fan", False), ("nFna", True), ("nFan", False)])
def test_the_last_norm_follows_from_the_word(word, needs):
    stack = Stack([Block(word, 6, n="layer", F=square)], last="layer")
    assert (stack.last is not None) is needs
    assert Stack([Block(word, 6, n="layer", F=square)]).last is None


def test_extra_inputs_reach_every_block():
    class Shift(nn.Module):
        def __init__(self, width):
            super().__init__()

        def forward(self, x, by=0.0):
            return torch.full_like(x, by)

    stack = Stack([Block("Fa", 2, F=Shift) for _ in range(3)])
    assert torch.equal(stack(torch.zeros(1, 2), F=dict(by=2.0)), torch.full((1, 2), 6.0))


def test_a_stream_may_learn_and_may_hold_any_state():
    class Average(Stream):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.5))

        def open(self, x):
            return [x]

        def read(self, S, i):
            return self.weight * torch.stack(S).mean(0)

        def write(self, S, h, i):
            return [*S, h]

        def close(self, S):
            return S[-1]

    stack = Stack([square(4) for _ in range(2)], Average(), width=4)
    stack(torch.randn(2, 4)).sum().backward()
    assert stack.stream.weight.grad is not None


def test_errors():
    with pytest.raises(ValueError, match="at least one block"):
        Stack([])
    with pytest.raises(ValueError, match="do not tell their width"):
        Stack([nn.ReLU()], Sum(), last="layer")
    with pytest.raises(NotImplementedError):
        Stack([nn.ReLU()], Stream())(torch.zeros(1))
    assert Plain().close(3) == 3
