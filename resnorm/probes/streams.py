"""Look into the stream of a trained stack: how large single values become, and how its rows are mixed."""

from typing import Any

import torch
from torch import Tensor, nn

from resnorm.norms.checking import evaluating
from resnorm.probes.blocks import watching
from resnorm.streams import Hyper, Stack


def activations(model: nn.Module, x: Tensor, *, part: nn.Module | None = None, **inputs: Any) -> list[dict[str, Any]]:
    r"""Return how large the stream is after every block, and its largest single value: one row a block, tidy.

    `block`: 0 for the stream that enters the first block; `rms`, $\sqrt{\operatorname{mean} x_l^2}$; `median` and
    `largest`, of $|x_l|$ over all values; `feature` and `token`: where the largest one stands; `angle`, in degrees, the
    mean angle of a token's $x_{l-1}$ and $x_l$ (none for block 0): how far the block turns the stream.
    A value that is thousands of times the median is a massive activation. In eval mode; the model is left as it was.
    `part`: the module within the model whose blocks are read, such as `model.decoder`; by default the model.
    Shapes: x as the model takes it; the stream is (batch, tokens, width).
    Which stream that is where one crosses the blocks, and what is raised, `watching` says. Citation: sun2024massive.
    """
    with evaluating(model), watching(model if part is None else part) as streams_seen:
        model(x, **inputs)
        streams = [stream.float() for stream in streams_seen()]
    rows = []
    for block, stream in enumerate(streams):
        size = stream.abs()
        at = size.argmax().item()
        angle = None
        if block and streams[block - 1].shape == stream.shape:
            cosine = nn.functional.cosine_similarity(streams[block - 1], stream, dim=-1).clamp(-1, 1)
            angle = torch.arccos(cosine).mean().rad2deg().item()
        rows.append(
            {
                "block": block,
                "rms": stream.square().mean().sqrt().item(),
                "median": size.median().item(),
                "largest": size.max().item(),
                "feature": at % stream.shape[-1],
                "token": at // stream.shape[-1] % stream.shape[-2],
                "angle": angle,
            }
        )
    return rows


def mixing(model: nn.Module, x: Tensor, **inputs: Any) -> list[dict[str, Any]]:
    r"""Return what the matrices of Hyper-Connections do to the rows when they are multiplied up: one row a block, tidy.

    $$P_l = M_l M_{l-1} \cdots M_1, \qquad \text{forward gain} = \max_i \sum_j |P_{ij}|, \qquad
    \text{backward gain} = \max_j \sum_i |P_{ij}|$$

    `block`: from 1 on; `forward_gain`, `backward_gain`: of the product up to this block, `forward_gain_alone` and
    `backward_gain_alone`: of this block's matrix alone; each the largest over the tokens of the batch. A doubly
    stochastic matrix has 1. In eval mode; the model is left as it was.
    Shapes: x as the model takes it. Raises `ValueError` where the stack has another stream.
    Citation: xie2025mhc.
    """
    streams = [one.stream for one in model.modules() if isinstance(one, Stack) and isinstance(one.stream, Hyper)]
    if not streams:
        raise ValueError(
            f"no stack of this {type(model).__name__} has Hyper-Connections; build it with variant='hyper_connections'"
        )
    made: list[Tensor] = []
    hooks = [
        one.register_forward_hook(lambda _, given, mixings: made.append(mixings[2].detach().double()))
        for one in streams[0].connections
    ]
    try:
        with evaluating(model):
            model(x, **inputs)
    finally:
        for hook in hooks:
            hook.remove()
    rows, product = [], None
    for block, mix in enumerate(made, start=1):
        product = mix if product is None else mix @ product
        row: dict[str, Any] = {"block": block}
        for name, matrix in (("", product), ("_alone", mix)):
            row[f"forward_gain{name}"] = matrix.abs().sum(-1).max().item()
            row[f"backward_gain{name}"] = matrix.abs().sum(-2).max().item()
        rows.append(row)
    return rows
