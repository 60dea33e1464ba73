"""Pictures: images and maps of features in a table, with a name for each row and column."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from resnorm.plots.charts import Chart
from resnorm.plots.house import style
from resnorm.plots.observations import number


def pictures(
    rows: Mapping[str, Sequence[Tensor]],
    columns: Sequence[str] | None = None,
    *,
    span: Mapping[str, tuple[float, float]] | tuple[float, float] = (0.0, 1.0),
    cmap: str = "gray",
    size: float = 1.9,
):
    """Draw a table of images: the rows by their name, each with one image a column.

    ``rows``: images of shape (height, width) or (1, height, width), drawn in shades of ``cmap``, or (3, height, width)
    in colour. ``columns``: what stands above the columns. ``span``: the values that are drawn as the two ends of the
    shades, for all rows or by the name of the row. ``size``: the height of a row in inches. The alt text has the mean and
    the standard deviation of every image. Returns a matplotlib Figure. Raises ValueError where the rows are not of equal
    length, or an image has another shape.
    """
    counts = {name: len(images) for name, images in rows.items()} | ({} if columns is None else {"columns": len(columns)})
    if len(set(counts.values())) != 1:
        raise ValueError(f"the rows need one image for every column; there are {counts}")
    parts = []
    with style():
        count = next(iter(counts.values()))
        figure = Chart(figsize=(7.6, 0.3 + size * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), count, squeeze=False)
        for line, (name, images) in zip(axes, rows.items(), strict=True):
            low, high = span[name] if isinstance(span, Mapping) else span
            for ax, image in zip(line, images, strict=True):
                ax.imshow(_drawable(image, low, high), cmap=cmap, vmin=low, vmax=high)
                ax.set(xticks=[], yticks=[])
                ax.grid(visible=False)
            line[0].set_ylabel(name)
            said = (f"{number(image.float().mean().item())} ± {number(image.float().std().item())}" for image in images)
            parts.append(f"{name}: {', '.join(said)}")
        for ax, title in zip(axes[0], columns or (), strict=False):
            ax.set_title(title, fontsize=10)
    named = f", {', '.join(columns)}" if columns else ""
    return figure.says(f"{len(rows)} rows of {count} pictures{named}; mean ± standard deviation of their values", parts)


def _drawable(image: Tensor, low: float, high: float):
    if image.dim() == 3 and image.shape[0] == 3:
        return ((image - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).numpy()
    if image.dim() == 2 or (image.dim() == 3 and image.shape[0] == 1):
        return image.reshape(image.shape[-2:]).numpy()
    raise ValueError(f"an image has the shape {tuple(image.shape)}; allowed: (height, width), or 1 or 3 channels in front")
