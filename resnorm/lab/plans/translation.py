"""The plans on translation: the recursive skip in an encoder and a decoder, beside a model of three times the size."""

import json
import math
from typing import Any

from resnorm.lab.experiment import Experiment, sweep
from resnorm.lab.plans.registry import SEEDS, check_lambdas, check_orders, check_seeds, positive, register
from resnorm.lab.plans.tuning import lowest_rates
from resnorm.lab.record import Record

# The optimiser of the first Transformer [vaswani2017attention], with a limit on the gradient's norm; the peak of its
# schedule and the warm-up are fixed for each size. One peak serves all variants, with the exceptions that `peaks` names.
_ADAM = dict(optimizer="adamw", momentum=0.9, beta2=0.98, weight_decay=0, schedule="inverse_sqrt", label_smoothing=0.1, clip=1)
_NUMBERS = dict(limit=400, validation=0.05, test=0.25)
# Model, what makes another of about three times the parameters, and recipe. Only the published size has dropout: a few
# passes over the data do not overfit.
_SIZES: dict[str, tuple[dict, dict, dict]] = {
    "smoke": (
        dict(depth=2, width=32, heads=2, dropout=0),
        dict(width=56),
        dict(epochs=12, batch_tokens=512, lr=3e-3, warmup=50, evaluate_every=12, precision="fp32"),
    ),
    # In 32 bits: a stream that doubles with every branch loses what small branches add in 16, and many CPUs are far slower
    # with them.
    "cpu": (
        dict(depth=2, width=96, heads=4, dropout=0),
        dict(width=176),
        dict(epochs=2, batch_tokens=1024, lr=2e-3, warmup=400, probe_every=400, precision="fp32"),
    ),
    # Twelve passes are enough to overfit: hence dropout, and a test near what such models reach at all.
    "colab": (
        dict(depth=3, width=128, heads=4, dropout=0.1),
        dict(width=232),
        dict(epochs=12, batch_tokens=8192, lr=2e-3, warmup=400, probe_every=400, evaluate_every=2, precision="fp32"),
    ),
    # Width 1,024 with more dropout is the published big model.
    "paper": (
        dict(depth=6, width=512, heads=8, dropout=0.1),
        dict(width=1024, heads=16, dropout=0.3),
        dict(lr=7e-4, warmup=4000, probe_every=4000),
    ),
}


def _translation(
    tasks: dict[str, dict], preset: str, seeds: Any, orders: Any, lambdas: Any, recipe: dict, peaks: dict[str, float]
) -> list[Experiment]:
    """Pre-Norm and Post-Norm, the plain skip, xSkip without and with a norm, rSkip with a norm, and the larger Post-Norm.

    `peaks`: of the learning rate, by variant, "larger" for the larger model; those that it leaves out have the recipe's.
    """
    lambdas = check_lambdas(lambdas)
    model, larger, size = _SIZES[preset]
    models: list[dict[str, Any]] = [dict(variant=variant) for variant in ("pre", "post", "residual")]
    models += [dict(variant=variant, skip=skip) for variant in ("xskip", "xskip_norm") for skip in lambdas]
    models += [dict(variant="rskip_norm", order=order) for order in check_orders(orders)]
    models += [dict(variant="post", **larger)]
    base = Experiment(
        tasks[preset],
        # Sinusoids say something of the positions that only the test's longer sentences have.
        dict(name="seq2seq", positions="sinusoidal", **model),
        _ADAM | size | recipe,
        measure=("samples", "translation"),
    )

    def peak(one: Experiment) -> float:
        kind = "larger" if one.model["width"] == larger["width"] else one.model["variant"]
        return peaks.get(kind, one.recipe["lr"])

    every = sweep(base, {"seed": check_seeds(seeds), "model": models})
    return [one.replace("recipe.lr", peak(one)) for one in every]


@register
def translation_en_de(preset: str, seeds: Any = SEEDS, orders: Any = (2, 3), lambdas: Any = (2,)) -> list[Experiment]:
    """Skip, xSkip, xSkip+LN, rSkip+LN and a model of three times the size, English to German.  [liu2020rethinking]"""
    tasks = {
        "smoke": dict(name="number_pairs", pair="en-de", **_NUMBERS),
        # Two thirds of the captions, and 2,000 tokens: a larger softmax would be most of the work.
        "cpu": dict(name="multi30k", vocabulary=2000, subset=20000),
        "colab": dict(name="multi30k", vocabulary=4000),
        "paper": dict(name="wmt14_en_de"),
    }
    # Some 25,000 tokens of each language a batch, for about the 100,000 steps of the published base model.
    recipe = {"colab": dict(lr=3e-3), "paper": dict(epochs=18, batch_tokens=50000, evaluate_every=3)}.get(preset, {})
    # What `best_peaks` found in the recorded runs of `translation_peaks`: without a norm the lower of the two was better.
    peaks = dict(residual=1e-3, xskip=1e-3) if preset == "colab" else {}
    return _translation(tasks, preset, seeds, orders, lambdas, recipe, peaks)


@register
def translation_en_vi(preset: str, seeds: Any = SEEDS, orders: Any = (2, 3), lambdas: Any = (2,)) -> list[Experiment]:
    """Skip, xSkip, xSkip+LN, rSkip+LN and a model of three times the size, English to Vietnamese.  [liu2020rethinking]"""
    tasks = {
        "smoke": dict(name="number_pairs", pair="en-vi", **_NUMBERS),
        # The shorter pairs: news are long, and their alignment is learned late. Validation and test are whole.
        "cpu": dict(name="en_vi", vocabulary=3000, longest=40, subset=26000),
        "colab": dict(name="en_vi", vocabulary=4000, longest=60, subset=20000),
        "paper": dict(name="iwslt15_en_vi"),
    }
    recipe = {
        "cpu": dict(epochs=3, lr=3e-3, evaluate_every=3),
        "colab": dict(epochs=8),
        "paper": dict(epochs=40, batch_tokens=8192, evaluate_every=4),
    }.get(preset, {})
    # At the peak of the others the larger Post-Norm learned nothing (seed 0); of 0.001 and 0.002 this had the better BLEU on
    # the validation pairs.
    peaks = dict(larger=1e-3) if preset == "cpu" else {}
    return _translation(tasks, preset, seeds, orders, lambdas, recipe, peaks)


@register
def translation_peaks(preset: str, seeds: Any = (0,), lrs: Any = (1e-3, 3e-3)) -> list[Experiment]:
    """The tuning of `translation_en_de`: every model at every peak of the learning rate, the same ones for all."""
    lrs = positive("lrs", lrs)
    return [one.replace("recipe.lr", lr) for one in translation_en_de(preset, seeds) for lr in lrs]


def best_peaks(records: list[Record]) -> dict[str, float]:
    """The peak of each model whose translations of the validation pairs, by greedy search, have the highest BLEU.

    By the model as JSON; a run that diverged cannot win.
    """

    def loss(record: Record) -> float:
        rows = record.measurements.get("translation", ())
        return next((-row["bleu"] for row in rows if row["split"] == "validation"), math.inf)

    return lowest_rates(records, lambda record: json.dumps(record.experiment.model, sort_keys=True), loss)
