"""Measurements over a grid of settings and seeds, and their distance from a law."""

import pandas
import pytest
import torch

from resnorm import lab


def test_a_number_is_one_row_of_every_setting_and_seed():
    table = lab.tabulate(lambda depth, width: depth * width, seeds=(3, 4), depth=(1, 2), width=(10,))
    assert table.to_dict("list") == {"depth": [1, 1, 2, 2], "width": [10] * 4, "seed": [3, 4, 3, 4], "value": [10, 10, 20, 20]}


def test_every_call_begins_with_its_seed():
    table = lab.tabulate(lambda width: torch.randn(width).sum().item(), seeds=(0, 1, 0), width=(5,))
    first, second, again = table.value
    assert first == again != second


def test_names_stand_in_the_frame_and_values_are_measured():
    def rows(word):
        return [{"block": block, "length": len(word)} for block in (0, 1)]

    table = lab.tabulate(rows, seeds=None, word={"Pre-Norm": "nFa", "plain": "F"})
    assert table.to_dict("list") == {"word": ["Pre-Norm"] * 2 + ["plain"] * 2, "block": [0, 1, 0, 1], "length": [3, 3, 1, 1]}


def test_generators_and_dictionaries_are_rows():
    assert len(lab.tabulate(lambda n: ({"step": i} for i in range(n)), seeds=(0,), n=(2, 3))) == 5
    assert lab.tabulate(lambda n: {"square": n**2}, seeds=(0,), n=(3,)).square.tolist() == [9]


def test_nothing_measured_is_said():
    with pytest.raises(ValueError, match=r"nothing was measured; give values of every setting \(depth\)"):
        lab.tabulate(lambda depth: depth, depth=())


def test_the_distance_from_a_law_is_that_of_the_mean_over_seeds():
    law = pandas.DataFrame({"block": [0, 1, 2], "size": [1.0, 2.0, 4.0]})
    table = pandas.DataFrame({"block": [0, 0, 1, 1], "seed": [0, 1, 0, 1], "size": [0.9, 1.1, 2.0, 2.4]})
    assert lab.distance_from_law(table, law, "size", ["block"]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="share no values of block"):
        lab.distance_from_law(table, law.assign(block=law.block + 10), "size", ["block"])


def test_a_line_is_fitted_to_every_group():
    table = pandas.DataFrame({"word": list("aaabb"), "seed": [0, 0, 0, 1, 1], "x": [0, 1, 2, 3, 5], "y": [1, 3, 5, 4, 3]})
    assert lab.slopes(table, "x", "y", ["word", "seed"]).to_dict() == {("a", 0): 2.0, ("b", 1): -0.5}
    assert lab.slopes(table, "x", "y", ["seed"]).to_dict() == {0: 2.0, 1: -0.5}
    with pytest.raises(ValueError, match="a line needs two values of x or more; .* has 1"):
        lab.slopes(table.assign(x=1), "x", "y", ["word"])


def test_a_law_of_known_shape_takes_its_size_from_the_data():
    law = pandas.DataFrame({"word": list("aabb"), "x": [1, 2, 1, 2], "y": [1.0, 3.0, 1.0, 1.0]})
    table = law.assign(y=[4.0, 12.0, 5.0, 7.0])
    assert lab.scaled_law(law, pandas.concat([table, table]), "y", "word").y.tolist() == [4, 12, 6, 6]
