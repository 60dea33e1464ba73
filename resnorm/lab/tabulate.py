"""Measurements over a grid of settings and seeds as tidy frames, and how far they lie from a law."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from resnorm.extras import needed_for


def tabulate(measurement: Callable[..., Any], seeds: Iterable[int] | None = range(5), **grid: Any):
    """Measure at every combination of settings, once a seed, and return a tidy frame: a column a setting, `seed`, what came out.

    ``measurement``: takes the settings by name, torch freshly seeded, and returns a number (the column `value`), a dictionary
    of columns, or rows of them. ``grid``: of each setting its values; a dictionary names them, as in
    ``word={"Pre-Norm": "nFa"}``, and its keys stand in the frame. ``seeds``: None for a law, which is drawn from nothing.
    Raises ValueError where nothing was measured.
    """
    with needed_for("tables of measurements"):
        import pandas

    choices = [list(values.items() if isinstance(values, dict) else zip(values, values, strict=True)) for values in grid.values()]
    rows = []
    for combination in itertools.product(*choices):
        named = {setting: name for setting, (name, _) in zip(grid, combination, strict=True)}
        settings = {setting: value for setting, (_, value) in zip(grid, combination, strict=True)}
        for seed in [None] if seeds is None else seeds:
            head = named
            if seed is not None:
                torch.manual_seed(seed)
                head = named | {"seed": seed}
            rows += [head | row for row in _rows(measurement(**settings))]
    if not rows:
        raise ValueError(f"nothing was measured; give values of every setting ({', '.join(grid)}) and at least one seed")
    return pandas.DataFrame(rows)


def distance_from_law(table, law, y: str, by: Sequence[str]) -> float:
    """Return the largest relative distance of the mean over seeds from a law, $\\max |\\bar y / y_{law} - 1|$.

    ``table``, ``law``: frames with the column ``y`` and the columns ``by``, at whose values they are compared.
    Raises ValueError where the two share none.
    """
    by = list(by)
    ratio = (table.groupby(by)[y].mean() / law.groupby(by)[y].mean()).dropna()
    if not len(ratio):
        raise ValueError(f"table and law share no values of {', '.join(by)}")
    return float((ratio - 1).abs().max())


def scaled_law(law, table, y: str, by: str):
    """Return a law whose shape alone is predicted, times one constant for each value of ``by``, which the data give.

    The constant makes the means of the column ``y`` equal in both frames, at the same points of each.
    """
    constant = table.groupby(by)[y].mean() / law.groupby(by)[y].mean()
    return law.assign(**{y: law[y] * law[by].map(constant)})


def slopes(table, x: str, y: str, by: Sequence[str]):
    """Fit a line to each group of rows, $y = a + b x$, and return b by group.

    ``table``: a frame with the columns ``x`` and ``y``; ``by``: the columns that make a group, such as ["word", "seed"].
    Returns a Series. Raises ValueError where a group has fewer than two values of ``x``.
    """
    with needed_for("tables of measurements"):
        import pandas

    fitted = {}
    for group, rows in table.groupby(list(by)):
        away = rows[x] - rows[x].mean()
        if not (away != 0).any():
            raise ValueError(f"a line needs two values of {x} or more; {group} has {rows[x].nunique()}")
        fitted[group if len(by) > 1 else group[0]] = (away * rows[y]).sum() / (away**2).sum()
    return pandas.Series(fitted).rename_axis(list(by))


def _rows(measured: Any) -> list[dict[str, Any]]:
    if isinstance(measured, dict):
        return [measured]
    if isinstance(measured, Iterable):
        return list(measured)
    return [{"value": measured}]
