"""What the records of a network of stages say between the first and the last block of a stage."""

import math
from typing import Any

from resnorm.extras import needed_for


def within_stages(probed: Any, blocks: int) -> Any:
    r"""Return the gradient behind the last block of a stage by that behind its first: a row an arm, a column a step.

    $$\exp \operatorname{mean} \big( \ln \lVert dL/dx_{last} \rVert - \ln \lVert dL/dx_{first} \rVert \big)$$

    over seeds and stages, at the first and at the last step. `probed`: a frame with the columns arm, seed, step, block and
    value, as `Study.frame("probes", metric="gradient_norm")` has it; `blocks`: of one stage.
    Raises ValueError where a stage has fewer than two blocks, or the last one is not whole.
    """
    with needed_for("tables of records"):
        import pandas

    last = int(pandas.to_numeric(probed.block).max())
    if blocks < 2 or last % blocks:
        raise ValueError(f"blocks={blocks!r} of a stage do not divide the {last} blocks; give a divisor from 2 on")
    probed = probed[(probed.value > 0) & (probed.block > 0)]
    logs = probed.assign(stage=(probed.block - 1) // blocks, log=probed.value.map(math.log))
    key, place = ["arm", "step", "seed", "stage"], (probed.block - 1) % blocks
    first, end = (logs[place == at].set_index(key).log for at in (0, blocks - 1))
    means = (end - first).groupby(["arm", "step"], sort=False).mean().map(math.exp)
    return means.unstack().iloc[:, [0, -1]]


def second_skip(maps: Any, streams: Any, blocks: int) -> Any:
    r"""Return the weight of the skip in the second addition of every recursive block, $\sigma / \gamma$: a row a block of a run.

    `maps`: the rows of `affine_maps` of recursive skips, with `gain` and `gain_deviation`, of which the first step is read;
    $\gamma$ is the root mean square of its gain. `streams`: rows with `step`, `block` and `value`, the RMS of the stream
    behind that block: the last step gives $\sigma$ to the block after it. Both have the columns merge_norm and seed.
    `blocks`: of one stage; the first of a stage changes the shape and is left out. Adds the column `weight` to the maps.
    """
    key = ["merge_norm", "seed", "block"]
    last = streams[streams.step == streams.step.max()]
    sizes = last.assign(block=last.block + 1)[[*key, "value"]]
    first = maps[(maps.step == 1) & ((maps.block - 1) % blocks > 0)]
    joined = first.merge(sizes, on=key)
    return joined.assign(weight=joined.value / (joined.gain**2 + joined.gain_deviation**2) ** 0.5)
