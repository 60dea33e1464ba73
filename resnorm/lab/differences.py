"""The book's one rule for when seeds can tell two variants apart."""

import math
import statistics
from dataclasses import dataclass

from resnorm.lab.record import Record

SEEDS_NEEDED = 3


@dataclass(frozen=True)
class Difference:
    r"""Hold the differences of two variants, seed by seed, in points (hundredths): $d_s = 100\,(a_s - b_s)$.

    It is decided where there are three seeds or more, all differences have one sign, and $|\bar d|$ is at least twice the
    standard error $\operatorname{sd}(d) / \sqrt{n}$. With three seeds the last condition contains the one before it, and
    the test is weak: normal differences around 0 pass it with probability $1 - 2/\sqrt6 = 0.18$.
    """

    values: tuple[float, ...]
    unit: str = "points of test accuracy"

    @property
    def mean(self) -> float:
        """The mean difference."""
        return statistics.fmean(self.values)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; NaN for one seed."""
        return statistics.stdev(self.values) / math.sqrt(len(self.values)) if len(self.values) > 1 else math.nan

    @property
    def larger(self) -> bool | None:
        """True where the first is larger, False where the second is, None where the seeds cannot tell: for `claim`."""
        agree = min(self.values) > 0 or max(self.values) < 0
        if len(self.values) < SEEDS_NEEDED or not agree or abs(self.mean) < 2 * self.standard_error:
            return None
        return self.mean > 0

    def __str__(self) -> str:
        seeds = "one seed" if len(self.values) == 1 else f"{len(self.values)} seeds"
        error = "" if len(self.values) == 1 else f" ± {self.standard_error:.2f}"
        return f"{self.mean:+.2f}{error} {self.unit} (mean ± standard error, {seeds})"


def difference(first: list[Record], second: list[Record], metric: str = "test_accuracy", unit: str = "") -> Difference:
    """Compare the records of two variants, paired by their seeds.

    `metric`: a share between 0 and 1; a run that diverged counts as 0, which is what a network that answers nothing
    gets right. `unit`: how the difference reads, by default points of the metric.
    Raises ValueError where a variant has two records of one seed, or the two share none.
    """
    sides = []
    for records in (first, second):
        values = {record.experiment.seed: 100 * record.metrics.get(metric, 0.0) for record in records}
        if len(values) < len(records):
            raise ValueError("a variant has several records of one seed: give the records of one variant at a time")
        sides.append(values)
    seeds = sorted(set(sides[0]) & set(sides[1]))
    if not seeds:
        raise ValueError(f"the variants share no seed: {sorted(sides[0])} and {sorted(sides[1])}")
    return Difference(tuple(sides[0][seed] - sides[1][seed] for seed in seeds), unit or f"points of {metric.replace('_', ' ')}")
