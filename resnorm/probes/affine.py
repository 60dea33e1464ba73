"""Read what the norms of a network have learned: the gain and the bias of each."""

from typing import Any

from torch import nn

from resnorm.probes.blocks import blocks_of
from resnorm.words import Block


def affine_maps(model: nn.Module) -> list[dict[str, Any]]:
    r"""Return the gain $\gamma$ and the bias $\beta$ of every norm that a block's word names: one row a norm, tidy.

    `block`: from 1 on, in forward order; `step`: the norm's place among the block's own norms, from 1 on, which for a
    recursive skip is the step of the recursion; `gain`, `bias`: means over the features; `gain_deviation`,
    `bias_deviation`: standard deviations over them. A norm without an affine map has no row, one that steps share has
    a row for each of them. The norms inside a branch that is itself a block are left out.
    Raises `ValueError` where the model shows no blocks. Citation: liu2020rethinking.
    """
    rows = []
    for number, block in enumerate(blocks_of(model), start=1):
        if not isinstance(block, Block):
            continue
        norms = block.parts("n") if "n" in block.word else []
        for step, norm in enumerate(norms, start=1):
            gain, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
            if gain is None:
                continue
            row: dict[str, Any] = {"block": number, "step": step}
            for what, values in (("gain", gain), ("bias", bias)):
                values = None if values is None else values.detach().float()
                row[what] = None if values is None else values.mean().item()
                row[f"{what}_deviation"] = None if values is None else values.std(correction=0).item()
            rows.append(row)
    return rows
