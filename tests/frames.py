"""Tidy frames that the tests of the figures draw, and the contrast of two colours."""

import numpy
import pandas
from matplotlib.colors import to_rgb


def runs(labels=("Plain", "Residual"), seeds=(0, 1, 2), steps=40, **columns):
    return pandas.DataFrame(
        [
            dict(label=label, seed=seed, step=step, metric="loss", value=index + seed / 10 + 1 / (1 + step), **columns)
            for index, label in enumerate(labels)
            for seed in seeds
            for step in range(steps)
        ]
    )


def gradients(labels=("Plain", "Residual"), steps=(0, 10, 40), blocks=6, seeds=(0, 1)):
    return pandas.DataFrame(
        [
            dict(label=label, seed=seed, step=step, block=block, gradient=10 ** (kind * block + seed + step / 40))
            for kind, label in enumerate(labels)
            for seed in seeds
            for step in steps
            for block in range(blocks)
        ]
    )


def values_by_block(panels=("before", "after"), blocks=5, count=400):
    generator = numpy.random.default_rng(0)
    return pandas.DataFrame(
        [
            dict(label=label, block=block, value_of=value * (1 + index * block))
            for index, label in enumerate(panels)
            for block in range(blocks)
            for value in generator.standard_normal(count)
        ]
    )


def luminance(colour):
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return numpy.dot([0.2126, 0.7152, 0.0722], parts)


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
