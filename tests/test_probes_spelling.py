"""The word of a layer that somebody else wrote: found by its own parts, for written layers and for those of transformers."""

import pytest
import torch
from torch import nn

from resnorm import probes
from resnorm.models.famous import FAMOUS
from resnorm.streams import Stack
from resnorm.words import Block, ends_in_merge


class Mixer(nn.Module):
    """A branch with a further argument and a second output, as attention has them."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x, scale=1.0):
        return scale * self.inner(x), "weights"


class Written(nn.Module):
    def __init__(self, pre):
        super().__init__()
        self.pre, self.mix, self.first, self.second = pre, Mixer(), nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.act, self.down = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)

    def mlp(self, x):
        return self.down(self.act(self.up(x)))

    def forward(self, x):
        if self.pre:
            x = x + self.mix(self.first(x), scale=3.0)[0]
            return x + self.mlp(self.second(x))
        x = self.first(x + self.mix(x, scale=3.0)[0])
        return self.second(x + self.mlp(x))


PARTS = {"A": "mix", "M": "up act down", "n": "first second"}


@pytest.mark.parametrize(("pre", "word"), [(True, "nAa nMa"), (False, "Aan Man")])
def test_a_written_layer_is_spelled(pre, word):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), Written(pre)).train()
    gaps = probes.spelling(model, "1", PARTS, input=torch.randn(4, 8))
    (best, distance), (_, next_best), *_ = gaps.items()
    assert best == word and distance == 0 and next_best > 0.05 and len(gaps) == 4
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_the_norms_must_fit_the_branches():
    with pytest.raises(ValueError, match="3 norms for the branches A, M; give one or two a branch"):
        probes.spelling(nn.Sequential(Written(True)), "0", PARTS | {"n": "first second first"}, input=torch.randn(4, 8))


def test_the_same_parts_in_another_word():
    torch.manual_seed(0)
    layers = {letter: lambda width: nn.Linear(width, width) for letter in "AM"}
    block = Block("nAa nMa", 8, n="layer", **layers)
    stack = probes.respelled(Stack([block]), "Aan Man")
    (attend, other), (first, second) = (block.parts(letter)[0] for letter in "AM"), block.parts("n")
    x = torch.randn(4, 8)
    y = first(x + attend(x))
    assert torch.equal(stack(x), second(y + other(y))) and stack.last is None
    assert isinstance(probes.respelled(stack, "nAa nMa").last, nn.LayerNorm)


WORDS = {
    "Transformer, encoder": "Aan Man",
    "Transformer, decoder": "Aan Xan Man",
    "GPT": "Aan Man",
    "BERT": "Aan Man",
    "T5, decoder": "nAa nXa nMa",
    "OLMo 2": "Ana Mna",
    "Gemma 2": "nAna nMna",
    "Pythia": "[nA,nM]a",
}


@pytest.mark.parametrize("name", FAMOUS)
def test_a_famous_layer_is_one_word(name):
    layer = FAMOUS[name]
    model = layer.build(0)
    (word, distance), (_, off), *_ = probes.spelling(model, layer.path, layer.parts, **layer.inputs()).items()
    assert word == WORDS.get(name, "nAa nMa")
    assert distance < 1e-5 and off > 0.1
    assert (probes.last_norm(model, layer.path) != "none") == ends_in_merge(word)
    assert torch.equal(*(next(layer.build(1).parameters()) for _ in range(2)))
