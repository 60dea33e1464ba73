"""Look how alike the tokens of a sequence become from block to block."""

from typing import Any

from torch import Tensor, nn

from resnorm.norms.checking import evaluating
from resnorm.probes.blocks import watching


def rank_residual(model: nn.Module, x: Tensor, *, part: nn.Module | None = None, **inputs: Any) -> list[dict[str, float | None]]:
    r"""Return how far the stream is from one vector at all tokens, relative to its size: one row a block, tidy.

    $$r(X) = \frac{\lVert X - \mathbf 1 \bar x^\top \rVert_F}{\lVert X \rVert_F}, \qquad \bar x = \tfrac1T X^\top \mathbf 1$$

    `block`: 0 for the stream that enters the first block; `residual`: r, from 0 (all tokens equal, rank one) to 1 (a mean
    of zero), the mean over the sequences of the batch; none for a stream that is zero. The mean over tokens is the
    nearest single vector in this norm. In eval mode; the model is left as it was.
    `part`: the module within the model whose blocks are read, such as `model.decoder`; by default the model.
    Shapes: x as the model takes it; the stream is (batch, tokens, width), of which X is one sequence.
    Which stream that is where one crosses the blocks, and what is raised, `watching` says.
    Citation: dong2021attention, which measures the same distance in another norm.
    """
    with evaluating(model), watching(model if part is None else part) as streams_seen:
        model(x, **inputs)
        streams = streams_seen()
    rows = []
    for block, stream in enumerate(streams):
        stream = stream.double()
        size, distance = (part.flatten(1).norm(dim=1) for part in (stream, stream - stream.mean(1, keepdim=True)))
        residual = (distance / size).mean().item() if size.all() else None
        rows.append({"block": block, "residual": residual})
    return rows
