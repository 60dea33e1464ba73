"""Tables of stages, on records whose numbers are known."""

import pandas
import pytest

from resnorm import probes


def test_the_gradient_within_a_stage_is_a_geometric_mean_over_stages_and_seeds():
    rows = [
        dict(
            arm=arm,
            seed=seed,
            step=step,
            block=block,
            value=(0.5 if arm == "xSkip" else 1.0) ** (block - 1) * (1 + step) * (seed + 1),
        )
        for arm in ("plain", "xSkip")
        for seed in (0, 1)
        for step in (0, 5, 10)
        for block in range(1, 7)
    ]
    # no block: the stream in front of the first one
    rows += [dict(arm="plain", seed=0, step=0, block=0, value=99.0)]
    table = probes.within_stages(pandas.DataFrame(rows), 3)
    assert list(table.columns) == [0, 10]
    assert table.loc["plain"].tolist() == pytest.approx([1.0, 1.0]) and table.loc["xSkip"].tolist() == pytest.approx([0.25, 0.25])
    with pytest.raises(ValueError, match="blocks=4 of a stage do not divide the 6"):
        probes.within_stages(pandas.DataFrame(rows), 4)


def test_the_second_skip_is_the_stream_in_front_of_a_block_by_its_gain():
    maps = pandas.DataFrame(
        [
            dict(merge_norm="batch", seed=0, block=block, step=step, gain=3.0 * step, gain_deviation=4.0)
            for block in range(1, 5)
            for step in (1, 2)
        ]
    )
    streams = pandas.DataFrame(
        [
            dict(merge_norm="batch", seed=0, block=block, step=step, value=10.0 * block + step)
            for block in range(5)
            for step in (0, 7)
        ]
    )
    weights = probes.second_skip(maps, streams, 2).set_index("block").weight
    # the first blocks of the two stages, 1 and 3, are left out; the gain's root mean square is 5
    assert weights.to_dict() == {2: pytest.approx((10 + 7) / 5), 4: pytest.approx((30 + 7) / 5)}
