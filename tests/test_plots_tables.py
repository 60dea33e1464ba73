"""Tables of numbers."""

import math

import pandas

from resnorm import plots


def test_cells_show_the_mean_of_the_seeds_and_mark_what_has_no_value():
    frame = pandas.DataFrame(
        [("pre", 0.1, seed, 1.0 + seed) for seed in (0, 1)]
        + [("pre", 0.01, 0, 3.0), ("post", 0.1, 0, math.nan), ("post", 0.1, 1, math.nan)],
        columns=["word", "rate", "seed", "loss"],
    )
    figure = plots.cells(frame, "loss", "rate", "word", names=["post", "pre"])
    texts = {tuple(text.get_position()): text.get_text() for text in figure.axes[0].texts}
    assert texts == {(1, 0): "×", (1, 1): "1.50", (0, 1): "3.00"}  # rates are sorted; what never ran stays empty
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0.01", "0.1"]
    assert "post: × at 0.1; pre: 3.00 at 0.01, 1.50 at 0.1" in figure.alt and "mean over 2 seeds" in figure.alt
    panels = plots.cells(frame.assign(norm=["LN", "RMS", "LN", "LN", "LN"]), "loss", "rate", "word", panels="norm")
    assert [ax.get_title(loc="left") for ax in panels.axes] == ["LN", "RMS"] and "RMS, pre: 2.00 at 0.1" in panels.alt
