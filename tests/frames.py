"""Tidy frames that the tests of the figures draw."""

import numpy
import pandas


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
