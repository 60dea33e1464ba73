"""Heat maps on one scale, readable without their colours."""

import numpy
import pytest

from resnorm import plots
from resnorm.plots.maps import _levels
from tests.frames import gradients


def test_a_heat_map_shares_one_scale_and_takes_the_geometric_mean():
    figure = plots.heat_map(gradients(), "gradient", ylabel="gradient norm")
    plain, residual, bar = figure.axes
    images = [axes.collections[0] for axes in (plain, residual)]
    # The seeds' values 1 and 10 have the geometric mean 10^0.5, at step 40 ten times it.
    assert list(images[0].get_array()[0]) == pytest.approx([0.5, 0.75, 1.5])
    assert images[0].get_clim() == images[1].get_clim() == pytest.approx((0.5, 6.5))
    assert bar.get_ylabel() == "gradient norm"
    assert figure.alt == (
        "Heat map of gradient norm by step and block on a logarithmic scale, geometric mean over 2 seeds. "
        "Plain: 3.16 to 31.6; at step 0 3.16 at block 0, 3.16 at block 5; at step 40 31.6 at block 0, 31.6 at block 5. "
        "Residual: 3.16 to 3.2e+06; at step 0 3.16 at block 0, 3.2e+05 at block 5; "
        "at step 40 31.6 at block 0, 3.2e+06 at block 5."
    )


def test_a_heat_map_reads_without_its_colours():
    plain, residual, _ = plots.heat_map(gradients(), "gradient").axes
    written = [{text.get_text() for text in axes.texts} for axes in (plain, residual)]
    assert "3.16 to 31.6" in written[0] and {"10", "100", "1000"} <= written[1]
    # The cells are as wide as the probes are apart.
    assert plain.get_xlim() == pytest.approx((-5, 55))


def test_a_heat_map_takes_one_column_one_panel_and_a_run_that_diverged():
    assert [axes.get_title(loc="left") for axes in plots.heat_map(gradients(["a"]), "gradient", None).axes] == ["", ""]
    assert plots.heat_map(gradients(steps=[7]), "gradient").axes[0].get_xlim() == (6.5, 7.5)
    frame = gradients()
    frame.loc[(frame.label == "Plain") & (frame.step > 0), "gradient"] = numpy.nan
    figure = plots.heat_map(frame, "gradient")
    assert "Plain: 3.16 to 3.16; at step 0 3.16 at block 0, 3.16 at block 5. Residual" in figure.alt
    frame.loc[frame.label == "Plain", "gradient"] = numpy.nan
    assert "Plain: diverged. Residual" in plots.heat_map(frame, "gradient").alt
    triangle = gradients(["a"], range(6)).query("step <= block")
    assert "at step 5 4.22 at block 5." in plots.heat_map(triangle, "gradient").alt
    assert len(plots.heat_map(gradients("abcd"), "gradient").axes) == 5
    flat = gradients().assign(gradient=lambda data: data.gradient.where(data.label == "Residual", 3.0))
    assert "Plain: 3 to 3;" in plots.heat_map(flat, "gradient").alt
    with pytest.raises(ValueError, match="no value of 'gradient' is above 0"):
        plots.heat_map(frame.assign(gradient=0.0), "gradient")


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0.1, 0.15), (0, 1.5), (-2, 3), (-12, 5.6), (0, 250)])
def test_equal_value_lines_are_few_and_round(low, high):
    levels = _levels(low, high)
    assert len(levels) <= 6 and all(low <= level <= high for level in levels)
    assert all(round(10 ** (level % 1), 6) in (1, 2, 5, 10) for level in levels)
    assert high - low < 1 or len(levels) > 1
