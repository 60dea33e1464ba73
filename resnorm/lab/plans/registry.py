"""The registry of plans, and the checks of what a page or a command line hands them."""

import inspect
import json
from collections.abc import Callable
from typing import Any

from resnorm.lab.experiment import Experiment

PRESETS = ("smoke", "cpu", "colab", "paper")
PLANS: dict[str, Callable[..., list[Experiment]]] = {}
SEEDS = (0, 1, 2)


def plan(name: str, preset: str = "smoke", **narrow: Any) -> list[Experiment]:
    """Return the experiments of the plan ``name`` at the size ``preset``, all seeds of one variant after another's.

    ``narrow``: the plan's own parameters, such as ``seeds``, ``depths`` or ``orders``.
    Raises ValueError for an unknown plan, preset or parameter.
    """
    if name not in PLANS:
        raise ValueError(f"there is no plan {name!r}; allowed: {', '.join(PLANS)}")
    allowed = list(inspect.signature(PLANS[name]).parameters)[1:]
    unknown = [key for key in narrow if key not in allowed]
    if unknown:
        raise ValueError(f"the plan {name!r} has no parameter {unknown[0]!r}; allowed: {', '.join(allowed)}")
    return PLANS[name](check_preset(preset), **narrow)


def register(function: Callable[..., list[Experiment]]) -> Callable[..., list[Experiment]]:
    """Add a plan under the name of its function."""
    PLANS[function.__name__] = function
    return function


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
