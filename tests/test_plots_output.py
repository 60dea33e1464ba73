"""How a figure leaves: a small SVG, and its alt text."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from resnorm import plots
from tests.frames import gradients, runs, values_by_block


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
