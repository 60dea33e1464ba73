"""What a word costs to call: `Block` beside the same block written by hand, eager, on a tensor of (4, 64).

    python benchmarks/block_call.py

Prints one row a word: the ratio of the two call times, each the quickest of many short rounds, which a busy machine does not
slow down, and the middle half of the ratios of single rounds. The two are timed in turn in every round. The goal is a ratio
of at most 1.0, with every module called.
"""

import statistics
import timeit

import torch
from torch import nn

from resnorm.words import Block

ROUNDS, CALLS, SHAPE = 600, 100, (4, 64)
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
def times(word: str) -> tuple[list[float], list[float]]:
    """Seconds of a round of calls of the word, and of the hand-written block, round by round."""
    ours = Block(word, WIDTH, n="layer", **{letter: linear for letter in "FAM" if letter in word})
    theirs, x = PEERS[word](), torch.randn(SHAPE)
    pairs = [[timeit.timeit(lambda: block(x), number=CALLS) for block in (ours, theirs)] for _ in range(ROUNDS + 1)]  # noqa: B023
    return tuple(zip(*pairs[1:], strict=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {ROUNDS} rounds of {CALLS} calls, eager, one thread, shape {SHAPE}")
    for word in PEERS:
        ours, theirs = times(word)
        quick, quick_peer = min(ours), min(theirs)
        low, _, high = statistics.quantiles([one / other for one, other in zip(ours, theirs, strict=True)], n=4)
        print(f"{word:10s} {quick / quick_peer:5.2f}  ({low:.2f} to {high:.2f}), {quick / CALLS * 1e6:.1f} µs a call")
