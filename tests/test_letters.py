"""A letter is one object: what it says of itself is all that the rest of the package needs to know."""

import copy
import pickle

import pytest
import torch
from torch import nn

from resnorm import theory
from resnorm.branches import mlp
from resnorm.letters import LETTERS, Letter, Scalar, add
from resnorm.words import BRANCHES, GLUE, MARKS, MERGES, Block, WordError, draw, ends_in_merge, equation


class Twice(nn.Module):
    def __init__(self, width):
        super().__init__()

    def forward(self, h):
        return 2 * h


class Double(Letter):
    role, sums, default, named = "glue", None, "double", {"double": lambda: Twice}

    def equation(self, write, h, x, first, notation):
        return write.scale("2", h)

    def predict(self, h, x, first, scalars):
        return 2.0 * h


def test_a_new_letter_is_written_in_one_place(monkeypatch):
    monkeypatch.setitem(LETTERS, "t", Double("t", "double"))
    block = Block("n[Ft,F]ta", 6, n="layer", F=lambda width: nn.Linear(width, width))
    x = torch.randn(3, 6)
    n, (F, other) = block.parts("n")[0], block.parts("F")
    torch.testing.assert_close(block(x), x + 2 * (2 * F(n(x)) + other(n(x))))
    assert equation("n[Ft,F]ta") == "x1 = n(x)\ny = x + 2·(2·F(x1) + F(x1))"
    assert "<title>double</title>" in draw("Fta")
    assert ends_in_merge("Fat") and not ends_in_merge("Ft")
    assert theory.through_block("Ft")["variance"] == 4.0
    with pytest.raises(WordError, match="letter 't' at position 1 .* unknown setting 'triple'; allowed: double"):
        Block("Ft", 6, F=lambda width: nn.Linear(width, width), t="triple")


def test_every_letter_says_what_the_grammar_asks():
    assert [*BRANCHES, *MERGES, *GLUE, *MARKS] == list(LETTERS) and set(LETTERS).isdisjoint("[,]")
    for symbol, letter in LETTERS.items():
        assert letter.symbol == symbol and letter.title and type(letter).__mro__[-2] is Letter
        assert letter.takes_setting <= bool(letter.default or letter.example or letter.named)
        placed = letter.at(7)
        assert (placed.position, placed.name) == (7, f"7_{symbol}") and letter.position == 0
        for copied in (copy.deepcopy(placed), pickle.loads(pickle.dumps(placed))):
            assert vars(copied).keys() == vars(placed).keys() and type(copied) is type(placed)


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({}, True),
        ({"skip": 1, "gain": 1}, True),
        ({"gain": 2.0}, False),
        ({"learn": "gain"}, False),
        ({"shortcut": "linear"}, False),
        ({"dropout": 0.1}, False),
        ({"gate": "exclusive"}, False),
    ],
)
def test_a_plain_sum_is_x_plus_h_and_knows_it(options, plain):
    merge, (h, x) = add(**options)(4, 4), torch.randn(2, 3, 4, 4, 4)[:, 0]
    assert merge.plain is plain
    if plain:
        assert torch.equal(merge(h, x), x + h)
        merge.skip = 3.0
        assert not merge.plain and torch.equal(merge(h, x), torch.add(h, x, alpha=3.0))


def test_a_sum_is_written_with_the_scalars_that_it_has_now():
    block = Block("Fa", 4, F=mlp(), a=add(skip=Scalar("α", 2.0)))
    (merge,) = block.parts("a")
    assert block.equation() == "α·x + F(x)"
    merge.skip, merge.gain = 3.0, 0.5
    assert block.equation() == "3·x + 0.5·F(x)" and "3·x + 0.5·h" in repr(block)
    merge.skip, merge.gain = 1.0, nn.Parameter(torch.tensor(0.5))
    assert block.equation() == "x + g·F(x)"
