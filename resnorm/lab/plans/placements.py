"""The plans of the placement zoo: one language model, one recipe, one budget, and a word for every variant."""

import math
from typing import Any

from resnorm.catalog import variant
from resnorm.lab.experiment import Experiment
from resnorm.lab.plans.registry import SEEDS, check_seeds, positive, register
from resnorm.lab.plans.tuning import lowest_rates
from resnorm.lab.record import Record

# Name in the plan -> model settings. A variant with another norm, or another option, is another placement.
PLACEMENTS: dict[str, dict[str, Any]] = {
    "residual": dict(variant="residual"),
    "pre": dict(variant="pre"),
    "post": dict(variant="post"),
    "res_post": dict(variant="res_post"),
    "sandwich": dict(variant="sandwich"),
    "keel": dict(variant="keel"),
    "deepnorm": dict(variant="deepnorm"),
    "rskip_norm": dict(variant="rskip_norm"),
    "encoder_b2t": dict(variant="encoder_b2t"),
    "sub_ln": dict(variant="sub_ln"),
    "normformer": dict(variant="normformer"),
    "mix_ln": dict(variant="mix_ln"),
    "layernorm_scaling": dict(variant="layernorm_scaling"),
    "depth_scaled": dict(variant="depth_scaled"),
    "qk_norm": dict(variant="qk_norm"),
    "olmo2": dict(variant="olmo2"),
    "rezero": dict(variant="rezero"),
    "ngpt": dict(variant="ngpt"),
    "dyt": dict(variant="pre", norm="dyt"),
    "derf": dict(variant="pre", norm="derf"),
    "dual": dict(variant="dual"),
    "denseformer": dict(variant="denseformer"),
    "attention_residuals": dict(variant="attention_residuals"),
    "hyper_connections": dict(variant="hyper_connections"),
    "dynamic_hyper_connections": dict(variant="hyper_connections", dynamic=True),
    "manifold_hyper_connections": dict(variant="manifold_hyper_connections"),
}
# Those that joined when the others were recorded. At the size `cpu` they run in 32 bits, and so does Pre-Norm, once
# more, beside them.
NEWCOMERS: dict[str, dict[str, Any]] = {
    "pre": PLACEMENTS["pre"],
    "admin": dict(variant="admin"),
    "hybridnorm": dict(variant="hybridnorm"),
    "value_residual": dict(variant="value_residual"),
    "ngpt_weights": dict(variant="ngpt_weights"),
    "skip_after_norm": dict(variant="skip_after_norm"),
    "parallel": dict(variant="parallel"),
    "parallel_two_norms": dict(variant="parallel_two_norms"),
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
# What `best_rates` found in the recorded runs of `placement_rates` at the size `cpu`; the chapter checks that it still does.
TUNED: dict[str, float] = (
    dict.fromkeys(PLACEMENTS, 1e-2)
    | dict.fromkeys(("res_post", "rskip_norm", "encoder_b2t", "sub_ln", "mix_ln"), 3e-3)
    | {"residual": 3e-4, "post": 1e-3, "layernorm_scaling": 3e-2, "denseformer": 3e-2}
)
# What it found in those of `newcomer_rates`.
TUNED_NEWCOMERS: dict[str, float] = dict.fromkeys(NEWCOMERS, 1e-2) | {"admin": 3e-3, "hybridnorm": 1e-3, "skip_after_norm": 1e-3}
ADAMW = dict(optimizer="adamw", beta2=0.95, weight_decay=0.1, decay_norms=False, schedule="cosine", warmup=0.1, clip=1)
_SIZES: dict[str, tuple[dict, dict, dict]] = {
    "smoke": (
        dict(name="characters", context=32),
        dict(depth=4, width=32, heads=2),
        dict(epochs=2, batch_size=32, evaluate_every=2, precision="fp32", probe_every=25),
    ),
    # bf16 by name, as for images: "auto" is fp32 on a CPU.
    "cpu": (
        dict(name="tiny_shakespeare", context=64, subset=6400),
        dict(depth=12, width=64, heads=4),
        dict(epochs=1, batch_size=16, precision="bf16", probe_every=100),
    ),
    "colab": (
        dict(name="tiny_shakespeare", context=64, subset=6400),
        dict(depth=12, width=64, heads=4),
        dict(epochs=1, batch_size=16, probe_every=100),
    ),
    "paper": (
        dict(name="tiny_shakespeare", context=256),
        dict(depth=24, width=384, heads=6),
        dict(epochs=20, batch_size=64, evaluate_every=2, probe_every=200),
    ),
}


def placement_of(experiment: Experiment) -> str:
    """The name in `PLACEMENTS` or `NEWCOMERS` of an experiment of these plans; raises ValueError for another one."""
    keys = ("variant", "norm", "dynamic")
    wanted, every = [experiment.model.get(key) for key in keys], PLACEMENTS | NEWCOMERS
    for name, settings in every.items():
        if [settings.get(key) for key in keys] == wanted:
            return name
    raise ValueError(f"no placement has the model {experiment.model}; allowed: {', '.join(every)}")


def best_rates(records: list[Record]) -> dict[str, float]:
    """The learning rate of each placement whose run has the lowest validation loss, in nats; none where all diverged."""
    return lowest_rates(
        records, lambda record: placement_of(record.experiment), lambda record: record.metrics.get("validation_loss", math.inf)
    )


def _experiment(preset: str, settings: dict[str, Any], rate: float, seed: int, **recipe: Any) -> Experiment:
    task, model, sized = _SIZES[preset]
    # A layer can be deleted where the blocks carry their own skip.
    one = variant(settings["variant"])
    last = ("layers",) if one.stream is None else ("mixing",) if "hyper" in one.name else ()
    return Experiment(
        task, dict(name="transformer_lm", **model, **settings), ADAMW | sized | recipe | dict(lr=rate), seed, ("activations", *last)
    )


def _chosen(placements: Any, known: dict[str, dict[str, Any]]) -> list[str]:
    if placements is None:
        return list(known)
    placements = [placements] if isinstance(placements, str) else list(placements)
    for name in placements:
        if name not in known:
            raise ValueError(f"there is no placement {name!r}; allowed: {', '.join(known)}")
    return placements


def _sweep(preset: str, known: dict, chosen: Any, rates: dict[str, Any], seeds: Any, **recipe: Any) -> list[Experiment]:
    """Every chosen placement at each of its rates with each seed."""
    return [
        _experiment(preset, known[placement], rate, seed, **recipe)
        for placement in _chosen(chosen, known)
        for rate in rates[placement]
        for seed in check_seeds(seeds)
    ]


def _grid(preset: str, known: dict, lrs: Any) -> dict[str, Any]:
    return dict.fromkeys(known, positive("lrs", (RATES if preset != "smoke" else (3e-3, 3e-2)) if lrs is None else lrs))


def _single(rates: dict[str, float]) -> dict[str, Any]:
    return {placement: (rate,) for placement, rate in rates.items()}


@register
def placement_rates(preset: str, seeds: Any = (0,), placements: Any = None, lrs: Any = None) -> list[Experiment]:
    """The tuning of the zoo: every placement at every learning rate, the same ones for all.  [xiong2020layer]"""
    return _sweep(preset, PLACEMENTS, placements, _grid(preset, PLACEMENTS, lrs), seeds)


@register
def placements(preset: str, seeds: Any = SEEDS, placements: Any = None) -> list[Experiment]:
    """The zoo: every placement at its own tuned learning rate.  [xiong2020layer; kim2025peri; xie2025mhc]

    The rates are those tuned at the size `cpu`; for another size, run `placement_rates` there first.
    """
    return _sweep(preset, PLACEMENTS, placements, _single(TUNED), seeds)


def _newcomer_recipe(preset: str) -> dict[str, Any]:
    return dict(precision="fp32") if preset == "cpu" else {}


@register
def newcomer_rates(preset: str, seeds: Any = (0,), placements: Any = None, lrs: Any = None) -> list[Experiment]:
    """The tuning of the placements that joined the zoo later, as `placement_rates`.  [liu2020understanding]"""
    return _sweep(preset, NEWCOMERS, placements, _grid(preset, NEWCOMERS, lrs), seeds, **_newcomer_recipe(preset))


@register
def newcomers(preset: str, seeds: Any = SEEDS, placements: Any = None) -> list[Experiment]:
    """Those that joined the zoo later, with Pre-Norm beside them, in 32 bits on a CPU.  [zhuo2025hybridnorm; zhou2025value]"""
    return _sweep(preset, NEWCOMERS, placements, _single(TUNED_NEWCOMERS), seeds, **_newcomer_recipe(preset))
