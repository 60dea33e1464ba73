"""From a tidy frame to what a figure draws and says: the observations, their seeds, numbers as text."""

import pandas

VALUE = "_value"


def observations(frame, x: str, y: str, hue: str | None, panels: str | None):
    """The rows of a frame that have ``y``, a column or a metric, as the column `VALUE`; raises ValueError where there are none.

    ``frame``: a frame, or its rows as dictionaries.
    """
    frame = frame if isinstance(frame, pandas.DataFrame) else pandas.DataFrame(list(frame))
    for column in filter(None, (x, hue, panels)):
        if column not in frame:
            raise ValueError(f"the frame has no column {column!r}; allowed: {', '.join(map(str, frame.columns))}")
    if y in frame:
        data = frame.assign(**{VALUE: frame[y]})
    elif "metric" in frame and y in set(frame["metric"]):
        data = frame[frame["metric"] == y]
        data = data.assign(**{VALUE: data["value"]})
    else:
        allowed = [*frame.columns, *(dict.fromkeys(frame["metric"]) if "metric" in frame else [])]
        raise ValueError(f"the frame has no column and no metric {y!r}; allowed: {', '.join(map(str, allowed))}")
    if data[VALUE].isna().all():
        raise ValueError(f"every value of {y!r} is missing; did all runs diverge?")
    return data


def select(data, wanted: dict):
    """The rows with these values in these columns; a column None is no condition."""
    for column, value in wanted.items():
        if column is not None:
            data = data[data[column] == value]
    return data


def seed_count(data) -> int:
    return data["seed"].nunique() if "seed" in data else 0


def over_seeds(data, spread: str = "mean and standard deviation") -> str:
    """What the values are of how many seeds, as the end of a phrase."""
    count = seed_count(data)
    # A prediction has no seeds.
    return {0: "", 1: ", one seed"}.get(count, f", {spread} over {count} seeds")


def number(value: float) -> str:
    """A value as text, with three significant digits."""
    if value != value:
        return "not a number"
    exact = f"{value:.3g}"
    return exact if "e" not in exact else f"{value:.2g}" if abs(value) < 1 or abs(value) >= 1e5 else f"{value:.0f}"
