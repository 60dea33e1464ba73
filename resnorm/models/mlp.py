"""Stacks of fully connected branches: the smallest network in which depth, skip and norm can be studied."""

from torch import Tensor, nn

from resnorm import catalog, init
from resnorm.branches import mlp
from resnorm.recursion import fuse
from resnorm.streams import Stack
from resnorm.words import BRANCHES, Block, residual_branches


class MLPStack(nn.Module):
    """Embed the flattened input, run the stack, classify; see `mlp_stack`."""

    def __init__(self, inputs: int, stack: Stack, classes: int):
        super().__init__()
        width = stack.blocks[0].width
        self.stem = nn.Linear(inputs, width)
        self.stack = stack
        self.head = nn.Linear(stack.out_width, classes)
        # unit variance in, unit variance out: the stream starts at RMS 1 for normalised inputs
        nn.init.normal_(self.stem.weight, std=inputs**-0.5)
        nn.init.zeros_(self.stem.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(self.stem(x.flatten(1))))


def mlp_stack(
    *,
    inputs,
    classes,
    depth=8,
    width=64,
    variant="residual",
    norm="layer",
    hidden=1,
    activation="relu",
    initialisation=None,
    **options,
) -> MLPStack:
    r"""Build a classifier of `depth` blocks with an MLP branch each: $y = W_{out}\, B_L(\dots B_1(W_{in} x))$.

    `variant`: one of the catalog with the branch F, alone or in a stream, `options` are the variant's; `hidden`: the
    expansion of the branch's hidden layer; `initialisation`: a rule of `resnorm.init`, by default the variant's own,
    else "he".
    Shapes: input (batch, ...) with `inputs` values a sample, output (batch, classes).
    Raises `ValueError` for a depth below 1, an unknown option, or a variant without F.
    """
    chosen = catalog.variant(variant)
    if depth < 1:
        raise ValueError(f"mlp_stack: depth={depth}; it needs at least one block")
    count = residual_branches(chosen.spell(**options))
    known = [
        chosen.complete(options, depth=count * depth, dim=-1, block=count * block, layer=block) for block in range(1, depth + 1)
    ]
    word = chosen.spell(**known[0])
    if set(word) & set(BRANCHES) != {"F"}:
        raise ValueError(f"mlp_stack takes a generic variant, with the branch F; {variant!r} is {word!r}")
    blocks = [Block(word, width, F=mlp(hidden, activation), **chosen.settings_for(n=norm, **own)) for own in known]
    stack = fuse(Stack(blocks, chosen.carry(width, depth, norm, **options), last=norm))
    model = MLPStack(inputs, stack, classes)
    init.initialise(model.stack, initialisation or chosen.init or "he", count * depth, model.head)
    return model
