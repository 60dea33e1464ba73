import math
import re
from xml.etree import ElementTree

import matplotlib
import numpy
import pandas
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from resnorm import plots

matplotlib.use("agg")


def runs(labels=("Plain", "Residual"), seeds=(0, 1, 2), steps=40, **columns):
    return pandas.DataFrame(
        [
            dict(label=label, seed=seed, step=step, metric="loss", value=index + seed / 10 + 1 / (1 + step), **columns)
            for index, label in enumerate(labels)
            for seed in seeds
            for step in range(steps)
        ]
    )


def luminance(colour):
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return numpy.dot([0.2126, 0.7152, 0.0722], parts)


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#FFFFFF", "#121212"])
def test_text_and_lines_stand_out_from_both_pages(page):
    assert contrast(plots.GREY, page) > 4
    # Orange and sky blue are light by design of the palette; marker and line style carry them too.
    assert all(contrast(colour, page) > (2.1 if index > 3 else 2.9) for index, colour in enumerate(plots.COLOURS))


def test_nothing_is_told_apart_by_colour_alone():
    axes = plots.curves(runs(["a", "b", "c", "d", "e", "f", "g"])).axes[0]
    looks = {(line.get_marker(), str(line.get_linestyle()), line._unscaled_dash_pattern) for line in axes.lines}
    assert len({marker for marker, *_ in looks}) == 7 == len({dashes for *_, dashes in looks})
    assert len(set(plots.HATCHES)) == 7


def test_the_style_is_left_behind():
    before = dict(matplotlib.rcParams)
    plots.curves(runs())
    assert dict(matplotlib.rcParams) == before


def test_curves_draw_the_mean_and_the_spread_over_seeds():
    axes = plots.curves(runs()).axes[0]
    line = axes.lines[1]
    assert line.get_ydata()[0] == pytest.approx(1 + 0.1 + 1)
    band = axes.collections[1].get_paths()[0].get_extents()
    assert band.y1 == pytest.approx(2.1 + 0.1) and len(axes.collections) == 2


def test_the_alt_text_has_the_numbers_of_the_data():
    assert plots.describe(plots.curves(runs(), ylabel="training loss")) == (
        "Line chart of training loss by step, mean and standard deviation over 3 seeds. "
        "Plain: 1.1 at step 0, 0.125 at 39; Residual: 2.1 at step 0, 1.12 at 39."
    )


def test_one_seed_is_called_one_seed_and_has_no_band():
    figure = plots.curves(runs(seeds=[4]))
    assert not figure.axes[0].collections
    assert "one seed" in figure.alt and figure._supxlabel.get_text() == "one seed"


def test_panels_are_ordered_and_share_their_axis():
    frame = pandas.concat([runs(depth=20), runs(depth=8)])
    figure = plots.curves(frame, panels="depth")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["depth 8", "depth 20"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert "depth 8, Plain: 1.1 at step 0" in figure.alt


def test_a_diverged_value_is_left_out_of_mean_and_alt_text():
    frame = runs(steps=3)
    frame.loc[(frame.label == "Plain") & (frame.step == 2), "value"] = numpy.nan
    figure = plots.curves(frame)
    assert len(figure.axes[0].lines[0].get_xdata()) == 2
    assert "Plain: 1.1 at step 0, 0.6 at 1" in figure.alt


def test_by_depth_sets_measured_points_beside_the_law():
    law = pandas.DataFrame([dict(label="Residual", block=block, forward_rms=2 ** (block / 2)) for block in range(9)])
    measured = pandas.concat([law.assign(seed=seed, forward_rms=law.forward_rms * (1 + seed / 100)) for seed in (0, 1)])
    figure = plots.by_depth(measured, law=law)
    points, line = figure.axes[0].lines
    assert points.get_linestyle() == "None" and line.get_marker() == "None"
    assert list(line.get_ydata()) == pytest.approx(list(law.forward_rms))
    assert figure.axes[0].get_yscale() == "log"
    assert "Points, with predicted lines," in figure.alt and "16.1 at 8" in figure.alt


def test_bars_start_at_zero_show_every_seed_and_say_who_diverged():
    frame = pandas.DataFrame(dict(label=["a"] * 3 + ["b"] + ["c"], seed=[0, 1, 2, 0, 0], error=[0.08, 0.09, 0.10, 0.2, numpy.nan]))
    figure = plots.bars(frame, "error", scale=100, published={"a": 6.37})
    axes = figure.axes[0]
    assert axes.get_xlim()[0] == 0
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([9, 20])
    assert sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o") == 4
    assert "a: 9.0 ± 1.0, published 6.37; b: 20 (one seed); c: diverged" in figure.alt


def gradients(labels=("Plain", "Residual"), steps=(0, 10, 40), blocks=6, seeds=(0, 1)):
    return pandas.DataFrame(
        [
            dict(label=label, seed=seed, step=step, block=block, gradient=10 ** (kind * block + seed + step / 40))
            for kind, label in enumerate(labels)
            for seed in seeds
            for step in steps
            for block in range(blocks)
        ]
    )


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
    levels = plots._levels(low, high)
    assert len(levels) <= 6 and all(low <= level <= high for level in levels)
    assert all(round(10 ** (level % 1), 6) in (1, 2, 5, 10) for level in levels)
    assert high - low < 1 or len(levels) > 1


def dotted(**options):
    frame = pandas.DataFrame(
        dict(
            name=["a"] * 3 + ["b"] + ["c"] + ["d"] * 2,
            seed=[0, 1, 2, 0, 0, 0, 1],
            rate="0.1",
            error=[8.0, 8.0, 9.5, 20.0, numpy.nan, 7.0, numpy.nan],
        )
    )
    return plots.dot_table(frame, "error", "name", **options)


def test_a_dot_table_shows_every_seed_and_sets_the_published_values_on_an_axis_of_their_own():
    figure = dotted(reference="a", published={"a": 6.61, "b": "fail", "e": 6.37})
    ours, theirs = figure.axes
    assert not ours.get_shared_x_axes().joined(ours, theirs) and ours.get_shared_y_axes().joined(ours, theirs)
    (seeds,) = (line for line in ours.lines if len(line.get_xdata()) == 3)
    # Two seeds of one value stand side by side, none hides another.
    assert list(seeds.get_xdata()) == [8, 8, 9.5] and len(set(seeds.get_ydata())) == 3
    assert [line.get_xdata()[0] for line in theirs.lines] == [6.61, 6.37]
    assert any(line.get_xdata()[0] == pytest.approx(8.5) and len(line.get_xdata()) == 2 for line in ours.lines)
    assert [text.get_text() for text in ours.get_yticklabels()] == ["a", "b", "c", "d", "e"]
    assert figure.alt == (
        "Dot chart of error, mean and standard deviation over 3 seeds; beside it the published values. "
        "a: 8.50 ± 0.87, published 6.61; b: 20 (one seed), published fail; c: diverged; "
        "d: 7 (one seed), 1 of 2 diverged; e: not recorded, published 6.37."
    )


def test_a_dot_table_has_a_panel_for_each_value_of_a_column_on_one_axis():
    frame = pandas.DataFrame(dict(name=["a", "a", "b"], rate=["x", "y", "y"], seed=0, error=[1.0, 2.0, 3.0]))
    figure = plots.dot_table(frame, "error", "name", panels="rate")
    first, second = figure.axes
    assert first.get_shared_x_axes().joined(first, second) and [ax.get_title("left") for ax in figure.axes] == ["x", "y"]
    assert figure.alt.endswith("a: x: 1 (one seed), y: 2 (one seed); b: x: not recorded, y: 3 (one seed).")


def values_by_block(panels=("before", "after"), blocks=5, count=400):
    generator = numpy.random.default_rng(0)
    return pandas.DataFrame(
        [
            dict(label=label, block=block, value_of=value * (1 + index * block))
            for index, label in enumerate(panels)
            for block in range(blocks)
            for value in generator.standard_normal(count)
        ]
    )


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


def test_a_ridgeline_has_a_hill_of_equal_height_for_every_row():
    figure = plots.ridgeline(values_by_block(), "value_of", behind="before")
    before, after = figure.axes
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["before", "after"]
    # Five hills, and in the second panel those of the first, dashed.
    assert len(before.patches) == len(after.patches) == len(after.lines) == 5 and not before.lines
    hills = {row: hill.get_xy() for row, hill in zip(range(4, -1, -1), after.patches, strict=True)}
    assert [hill[:, 1].max() - row for row, hill in hills.items()] == pytest.approx([1.3] * 5)
    half = {row: numpy.ptp(hill[hill[:, 1] - row > 0.65, 0]) for row, hill in hills.items()}
    assert half[4] > 3 * half[0]
    assert re.search(r"after: mean -?[\d.]+, deviation (0\.9|1\.0|1)\d* at block 0, mean -?[\d.]+, deviation [45]", figure.alt)
    assert figure._supxlabel.get_text() == "dashed: before"


def test_a_ridgeline_has_a_logarithmic_axis_and_says_where_there_is_no_value():
    frame = values_by_block(["only"])
    frame["size"] = frame.value_of.abs() * 10.0**frame.block
    frame.loc[frame.block == 4, "size"] = numpy.inf
    frame.loc[frame.block == 0, "size"] *= -1
    figure = plots.ridgeline(frame, "size", None, log=True)
    (ax,) = figure.axes
    assert ax.get_xscale() == "log" and len(ax.patches) == 3
    assert [text.get_text() for text in ax.texts] == ["no value"] * 2
    # The hills of blocks 3, 2 and 1 stand a factor of about 10 apart from each other.
    tops = [hill.get_xy()[hill.get_xy()[:, 1].argmax(), 0] for hill in ax.patches]
    assert 40 < tops[0] / tops[2] < 400
    assert figure.alt == (
        "Ridgeline plot, the distribution of size by block on a logarithmic axis. no value at block 0, no value at block 4."
    )
    with pytest.raises(ValueError, match="behind='later' is no panel; allowed: only"):
        plots.ridgeline(frame, "size", behind="later")


def test_wrong_columns_are_named_with_those_there_are():
    with pytest.raises(ValueError, match="no column 'epoch'; allowed: label, seed, step, metric, value"):
        plots.curves(runs(), x="epoch")
    with pytest.raises(ValueError, match="no metric 'bleu'; allowed: .*loss"):
        plots.curves(runs(), y="bleu")
    with pytest.raises(ValueError, match="did all runs diverge"):
        plots.curves(runs().assign(value=numpy.nan))


@pytest.mark.parametrize(
    ("name", "over", "count"),
    [
        ("batch", "samples and positions", 16),
        ("layer", "channels", 6),
        ("layer2d", "channels", 6),
        ("group(groups=1)", "channels and positions", 24),
        ("group(groups=3)", "2 of 6 channels and positions", 8),
        ("instance", "positions", 4),
        ("rms", "channels", 6),
    ],
)
def test_the_cubes_colour_what_the_norm_averages_over(name, over, count):
    shared = plots._shared_statistic(name)
    assert shared.shape == (4, 6, 4) and shared.sum() == count
    assert plots._averaged(shared) == over


def test_norm_cubes_has_a_cube_for_each_and_says_what_it_shows():
    figure = plots.norm_cubes()
    assert [axes.get_title() for axes in figure.axes][:2] == ["Batch norm", "Layer norm"]
    assert "Batch norm (batch): 16 of 96 values, over samples and positions" in figure.alt
    assert len(plots.norm_cubes(["batch", "instance"]).axes) == 2


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.curves(runs()),
        lambda: plots.heat_map(gradients("abcdef", range(22), 55), "gradient"),
        lambda: plots.ridgeline(values_by_block(["a", "b", "c"], 17), "value_of", behind="a"),
        plots.norm_cubes,
    ],
    ids=["curves", "heat map", "ridgeline", "cubes"],
)
def test_the_svg_is_small_transparent_valid_and_reproducible(draw):
    text = plots.svg(draw())
    assert text == plots.svg(draw())
    assert len(text) < 250_000
    assert not re.search(r"<g id=\"patch_1\">\s*<path[^>]*fill: #", text)
    width, height = (float(ElementTree.fromstring(text).get(key).removesuffix("pt")) for key in ("width", "height"))
    assert 400 < width < 600 and 100 < height < 600


def test_show_attaches_the_alt_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, **options: shown.append((bundle, options)))
    figure = plots.curves(runs())
    plots.show(figure)
    plots.show(figure, "another text")
    (bundle, options), (_, others) = shown
    assert bundle["text/plain"] == figure.alt and bundle["image/svg+xml"].lstrip().startswith("<?xml")
    assert options["metadata"]["image/svg+xml"]["alt"] == figure.alt and options["raw"] is True
    assert others["metadata"]["image/svg+xml"]["alt"] == "another text"
    with pytest.raises(ValueError, match=r"no alt text: write one, show\(figure, alt=...\)"):
        plots.show(Figure())


def test_traces_say_how_much_neighbours_have_in_common():
    smooth = [dict(kind="smooth", at=at, y=3 + numpy.sin(at / 20)) for at in range(100)]
    noise = numpy.random.default_rng(0).normal(size=100)
    frame = pandas.DataFrame(smooth + [dict(kind="noise", at=at, y=100 * y) for at, y in enumerate(noise)])
    figure = plots.traces(frame, "at", "y", "kind")
    drawn = [ax.lines[0].get_ydata() for ax in figure.axes]
    assert [ax.get_title() or ax.get_title(loc="left") for ax in figure.axes] == ["smooth", "noise"]
    assert all(values.std(ddof=1) == pytest.approx(1) and abs(values.mean()) < 1e-9 for values in drawn)
    smooth, noise = (float(number) for number in re.findall(r"r = (-?\d\.\d\d)", figure.alt))
    assert smooth > 0.95 and abs(noise) < 0.3
    with pytest.raises(ValueError, match="three or more"):
        plots.traces(frame[:2], "at", "y", "kind")
