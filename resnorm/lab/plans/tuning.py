"""Which learning rate a tuning chose."""

import math
from collections.abc import Callable

from resnorm.lab.record import Record


def lowest_rates(records: list[Record], name: Callable[[Record], str], score: Callable[[Record], float]) -> dict[str, float]:
    """The learning rate of each name's run with the lowest score; none where every score is infinite."""
    found: dict[str, tuple[float, float]] = {}
    for record in records:
        one, reached = name(record), score(record)
        if reached < found.get(one, (math.inf, 0))[0]:
            found[one] = (reached, record.experiment.recipe["lr"])
    return {one: rate for one, (_, rate) in found.items()}
