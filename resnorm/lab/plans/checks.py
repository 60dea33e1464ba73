"""What a page or a command line hands a study, checked: presets, seeds and lists of numbers."""

import json
from typing import Any

PRESETS = ("smoke", "cpu", "colab", "paper")
SEEDS = (0, 1, 2)


def check_preset(preset: Any) -> str:
    """Return the preset; raises ValueError in one line if there is no such preset."""
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; allowed: {', '.join(PRESETS)}")
    return preset


def check_seeds(seeds: Any) -> list[int]:
    """Return seeds as a list, from a list or its text ("[0, 1, 2]"); raises ValueError for anything below 0."""
    return integers("seeds", seeds, least=0)


def check_orders(orders: Any) -> list[int]:
    """Return rSkip's orders as a list, from a list or its text ("[1, 2]"); raises ValueError for anything below 1."""
    return integers("orders", orders, least=1)


def check_lambdas(lambdas: Any) -> list[float]:
    """Return xSkip's factors as a list, from a list or its text ("[0.5, 2]"); raises ValueError for 0 or less."""
    return positive("lambdas", lambdas)


def positive(name: str, values: Any) -> list[float]:
    """Return numbers above 0 as a list, from a list or its text; raises ValueError naming the one that is not."""
    allowed = "numbers above 0, such as [0.5, 1, 2]"
    values = _list(name, values, allowed)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ValueError(f"{name} has {value!r}; allowed: {allowed}")
    return values


def integers(name: str, values: Any, least: int) -> list[int]:
    """Return integers as a list, from a list or its text; raises ValueError naming one that is too small or none."""
    allowed = f"integers of {least} or more, such as [{least}, {least + 1}]"
    values = _list(name, values, allowed)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} has {value!r}; allowed: {allowed}")
    return values


def _list(name: str, values: Any, allowed: str) -> list:
    if isinstance(values, str):  # papermill's -p passes a list as text
        try:
            values = json.loads(values)
        except ValueError:
            raise ValueError(f"{name} is {values!r}; give a list of {allowed}") from None
    values = list(values) if isinstance(values, (list, tuple, range)) else [values]
    if not values or len(set(map(repr, values))) < len(values):
        raise ValueError(f"{name} is {values!r}; give a list, without repeats, of {allowed}")
    return values
