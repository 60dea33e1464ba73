"""Which values of an array share one statistic of a norm, as cubes; measured, not drawn by hand."""

import math
from collections.abc import Sequence

from matplotlib.collections import PolyCollection

from resnorm.plots.charts import Chart
from resnorm.plots.house import COLOURS, GREY, HATCHES, shaded, style

_AXES = ("samples", "channels", "positions")
_NORM_TITLES = {
    "batch": ("Batch norm", ""),
    "layer": ("Layer norm", "of one token"),
    "layer2d": ("Layer norm", "of one pixel or token"),
    "group(groups=1)": ("Group norm, one group", "“LayerNorm” in some papers"),
    "group(groups=2)": ("Group norm, two groups", ""),
    "instance": ("Instance norm", ""),
    "rms": ("RMS norm", "of one token; no mean taken"),
}


def norm_cubes(names: Sequence[str] = ("batch", "layer2d", "group(groups=1)", "group(groups=2)", "instance", "rms")):
    """Draw, for each normaliser, which values of a (samples, channels, positions) array share one statistic.

    The coloured values are measured: those on which the output at the front corner depends. Names as in
    `resnorm.norm`. Returns a matplotlib Figure.
    """
    parts = []
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    with style():
        figure = Chart(figsize=(7.6, 3.0 * rows + 0.1))
        # Every cell of the same size, whatever stands below it.
        figure.subplots_adjust(0.01, 0.68 / (3.0 * rows), 0.99, 1 - 0.25 / (3.0 * rows), wspace=0.12, hspace=0.42)
        for index, (ax, name) in enumerate(zip(figure.subplots(rows, columns).flat, names, strict=False)):
            shared = _shared_statistic(name)
            title, note = _NORM_TITLES.get(name, (name, ""))
            over = f"over {_averaged(shared)}"
            _draw_cube(ax, shared, COLOURS[index % len(COLOURS)], HATCHES[index % len(HATCHES)])
            ax.set_title(title, loc="center", pad=2)
            below = "\n".join(filter(None, (name, over, note)))
            ax.text(0.5, -0.03, below, transform=ax.transAxes, ha="center", va="top", fontsize=9.5, linespacing=1.35)
            count = f"{int(shared.sum())} of {shared.numel()} values"
            parts.append(f"{title} ({name}): {count}, {over}" + (f" ({note})" if note else ""))
    size = " × ".join(f"{length} {what}" for length, what in zip(shared.shape, _AXES, strict=True))
    return figure.says(f"Cubes of {size}; in each the values that share one statistic are coloured and hatched", parts)


def _shared_statistic(name: str, samples: int = 4, channels: int = 6, side: int = 2):
    """True where the output at sample 0, channel 0, last position depends on: (samples, channels, positions)."""
    import torch

    from resnorm.norms import LAST_AXIS, call_form, norm

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, channels, side, side, generator=generator, dtype=torch.float64, requires_grad=True)
    module = norm(name, channels).double()
    tokens = call_form(name)[0] in LAST_AXIS  # an image is given to them as a row of tokens
    y = module(x.movedim(1, -1)).movedim(-1, 1) if tokens else module(x)
    (gradient,) = torch.autograd.grad(y[0, 0, -1, -1], x)
    return (gradient != 0).flatten(2)


def _averaged(shared) -> str:
    """In words, the axes over which the statistic is taken."""
    words = []
    for axis, what in enumerate(_AXES):
        others = [other for other in range(3) if other != axis]
        extent = int(shared.any(dim=others[1]).any(dim=others[0]).sum())
        if extent == shared.shape[axis]:
            words.append(what)
        elif extent > 1:
            words.append(f"{extent} of {shared.shape[axis]} {what}")
    return " and ".join(words) if len(words) < 3 else f"{words[0]}, {words[1]} and {words[2]}"


def _draw_cube(ax, shared, colour: str, hatch: str) -> None:
    samples, channels, positions = shared.shape
    faces: dict[float | None, list] = {}

    def at(sample: float, channel: float, position: float) -> tuple[float, float]:
        return 0.866 * (channel - sample), 0.5 * (channel + sample) + position

    def face(corners, on: bool, shade: float) -> None:
        faces.setdefault(shade if on else None, []).append([at(*corner) for corner in corners])

    for c in range(channels):
        for p in range(positions):
            face([(0, c, p), (0, c + 1, p), (0, c + 1, p + 1), (0, c, p + 1)], bool(shared[0, c, p]), 0.0)
    for n in range(samples):
        for p in range(positions):
            face([(n, 0, p), (n + 1, 0, p), (n + 1, 0, p + 1), (n, 0, p + 1)], bool(shared[n, 0, p]), -0.18)
    for n in range(samples):
        for c in range(channels):
            top = [(n, c), (n + 1, c), (n + 1, c + 1), (n, c + 1)]
            face([(a, b, positions) for a, b in top], bool(shared[n, c, positions - 1]), 0.3)
    for shade, polygons in faces.items():
        if shade is None:
            ax.add_collection(PolyCollection(polygons, fc=GREY + "1E", ec=GREY, lw=0.7, zorder=1))
        else:
            fill = shaded(colour, shade)
            ax.add_collection(PolyCollection(polygons, fc=fill, ec="#FFFFFFB0", hatch=hatch, lw=0, zorder=2))
            ax.add_collection(PolyCollection(polygons, fc="none", ec=GREY, lw=0.9, zorder=3))
    for place, right, up, rotation, what in (
        (at(samples / 2, 0, 0), -0.5, -0.35, -30, "samples"),
        (at(0, channels / 2, 0), 0.5, -0.35, 30, "channels"),
        (at(samples, 0, positions / 2), -0.45, 0, 90, "positions"),
    ):
        ax.text(place[0] + right, place[1] + up, what, rotation=rotation, ha="center", va="center", fontsize=9)
    ax.set(aspect="equal", xlim=(-0.866 * samples - 1, 0.866 * channels + 0.6))
    ax.set_ylim(-0.9, 0.5 * (samples + channels) + positions + 0.2)
    ax.axis("off")
