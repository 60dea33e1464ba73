"""The items of a test set as a second source of chance, beside the seeds."""

from collections.abc import Callable

from resnorm.extras import needed_for
from resnorm.lab.statistics.comparison import Comparison


def paired_bootstrap(
    first,
    second,
    score: Callable | None = None,
    *,
    unit: str = "",
    margin: float | None = None,
    level: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
) -> Comparison:
    r"""Compare two arms on the same test items, with items and seeds both drawn anew.

    `first`, `second`: what each run did on each item, of shape (seeds, items), such as 1 for correct and 0 for wrong, or
    (seeds, items, statistics) with a `score` that maps statistics summed over items, (..., statistics), to a number
    (`corpus_bleu`). Without `score` it is the mean. Rows are paired by seed, columns by item; one row is one seed.

    Items are drawn with replacement, the same for both arms and all seeds (the paired bootstrap, koehn2004statistical),
    which gives $v$, the variance of the mean difference over the $n$ seeds, and $w$, the mean variance of one seed's
    difference. With $s^2$ the variance of the differences between seeds
    $$\mathrm{SE}^2 = \frac{s^2}{n} + v - \frac{w - v}{n - 1},$$
    where the last term, at least 0, takes away the interaction of seed and item that both others hold. Degrees of freedom
    by Satterthwaite. With one seed the interval says what other test items would do to these two networks, no more.
    Raises ValueError where the shapes differ, or a score is missing for several statistics.
    """
    with needed_for("comparisons by test item"):
        import numpy

    first, second = (numpy.asarray(side, dtype=float) for side in (first, second))
    first, second = (side[None] if side.ndim == 1 else side for side in (first, second))
    if first.shape != second.shape or first.ndim not in (2, 3):
        raise ValueError(
            f"the shapes are {first.shape} and {second.shape}: give both arms the same seeds and test items, "
            "(seeds, items) or (seeds, items, statistics)"
        )
    if score is None:
        if first.ndim == 3:
            raise ValueError(f"there are {first.shape[2]} statistics an item: give the score that maps their sums to a number")
        first, second, score = first[..., None], second[..., None], lambda sums: sums[..., 0] / first.shape[1]
    seeds, items, _ = first.shape
    if items < 2:
        raise ValueError(f"there are {items} test items: give two or more")
    differences = score(first.sum(axis=1)) - score(second.sum(axis=1))
    draw = numpy.random.default_rng(seed)
    weights = draw.multinomial(items, numpy.full(items, 1 / items), size=replicates).astype(float)
    drawn = score(_sums(weights, first)) - score(_sums(weights, second))
    of_the_mean, of_one = float(drawn.mean(axis=1).var(ddof=1)), float(drawn.var(axis=0, ddof=1).mean())
    parts = [(of_the_mean, items - 1)]
    if seeds > 1:
        interaction = max(0.0, (of_one - of_the_mean) / (seeds - 1))
        parts = [(max(0.0, of_the_mean - interaction), items - 1), (float(differences.var(ddof=1)) / seeds, seeds - 1)]
    squared = sum(part for part, _ in parts)
    df = squared**2 / sum(part**2 / df for part, df in parts) if squared > 0 else 0.0
    return Comparison(float(differences.mean()), squared**0.5, df, seeds, unit, margin, level, items=items)


def corpus_bleu(sums):
    r"""Return BLEU in points from summed statistics: $100 \min(1, e^{1 - r/c}) \prod_{k=1}^4 (m_k / t_k)^{1/4}$.

    `sums`: (..., 10), in the order of sacrebleu: length $c$ of the translations, length $r$ of the references, matches
    $m_1$ to $m_4$ and n-grams $t_1$ to $t_4$. 0 where an order has no match (no smoothing).
    """
    with needed_for("comparisons by test item"):
        import numpy

    sums = numpy.asarray(sums, dtype=float)
    length, reference, matches, grams = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:10]
    with numpy.errstate(divide="ignore", invalid="ignore"):
        precision = numpy.exp(numpy.log(matches / grams).mean(axis=-1))
        brevity = numpy.exp(numpy.minimum(0.0, 1 - reference / length))
    return numpy.nan_to_num(100 * brevity * precision)


def _sums(weights, statistics):
    """The statistics summed over each draw of items: (replicates, seeds, statistics)."""
    seeds, items, size = statistics.shape
    flat = statistics.transpose(1, 0, 2).reshape(items, seeds * size)
    return (weights @ flat).reshape(len(weights), seeds, size)
