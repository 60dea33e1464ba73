"""What a word costs to call: `Block` beside the same block written by hand, eager, on a tensor of (4, 64).

    python benchmarks/block_call.py

Prints one row a word: the median ratio of the two call times, with the smallest and the largest of all rounds. The two are
timed in turn in every round, so that a machine that slows down slows both. The goal is a ratio of at most 1.6.
"""

import statistics
import timeit

import torch
from torch import nn

from resnorm.words import Block

ROUNDS, CALLS, SHAPE = 15, 2000, (4, 64)
WIDTH = SHAPE[1]


def linear(width: int) -> nn.Module:
    return nn.Linear(width, width)


class Pre(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.branch = nn.LayerNorm(WIDTH), linear(WIDTH)

    def forward(self, x):
        return x + self.branch(self.norm(x))


class Post(Pre):
    def forward(self, x):
        return self.norm(x + self.branch(x))


class Recursive(Pre):
    def __init__(self):
        super().__init__()
        self.second = nn.LayerNorm(WIDTH)

    def forward(self, x):
        return self.second(x + self.norm(x + self.branch(x)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Pre(), Pre()

    def forward(self, x):
        return self.second(self.first(x))


PEERS = {"nFa": Pre, "Fan": Post, "Fanan": Recursive, "nAa nMa": Encoder}


@torch.no_grad()
def ratios(word: str) -> list[float]:
    """The ratio of the call times, word over hand-written, in each round."""
    ours = Block(word, WIDTH, n="layer", **{letter: linear for letter in "FAM" if letter in word})
    theirs, x = PEERS[word](), torch.randn(SHAPE)
    clock = lambda block: timeit.timeit(lambda: block(x), number=CALLS)  # noqa: E731
    return [clock(ours) / clock(theirs) for _ in range(ROUNDS)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {ROUNDS} rounds of {CALLS} calls, eager, one thread, shape {SHAPE}")
    for word in PEERS:
        found = ratios(word)
        print(f"{word:10s} {statistics.median(found):5.2f}  ({min(found):.2f} to {max(found):.2f})")
