"""Translation: the recursive skip in an encoder and a decoder, beside a model of three times the size."""

from typing import Any

from resnorm.lab.experiment import Experiment, sweep
from resnorm.lab.plans.checks import check_lambdas, check_orders, check_seeds

PLAIN = {"Pre-Norm": "pre", "Post-Norm": "post", "Residual": "residual"}
LARGER = "Post-Norm, three times the size"
# The optimiser of the first Transformer [vaswani2017attention], with a limit on the gradient's norm; the peak of its
# schedule and the warm-up are fixed for each size. One peak serves all arms, with the exceptions that a study names.
ADAM = dict(optimizer="adamw", momentum=0.9, beta2=0.98, weight_decay=0, schedule="inverse_sqrt", label_smoothing=0.1, clip=1)
NUMBERS = dict(limit=400, validation=0.05, test=0.25)
# Model, what makes another of about three times the parameters, and recipe. Only the published size has dropout: a few
# passes over the data do not overfit.
SIZES: dict[str, tuple[dict, dict, dict]] = {
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


def models(preset: str, orders: Any, lambdas: Any, peaks: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Pre-Norm and Post-Norm, the plain skip, xSkip without and with a norm, rSkip with a norm, and the larger Post-Norm.

    `peaks`: of the learning rate, by arm; those that it leaves out have the recipe's.
    """
    lambdas = check_lambdas(lambdas)
    arms: dict[str, dict[str, Any]] = {title: dict(variant=name) for title, name in PLAIN.items()}
    arms |= {f"xSkip (λ = {skip:g})": dict(variant="xskip", skip=skip) for skip in lambdas}
    arms |= {f"xSkip + norm (λ = {skip:g})": dict(variant="xskip_norm", skip=skip) for skip in lambdas}
    arms |= {f"rSkip + norm (order {order})": dict(variant="rskip_norm", order=order) for order in check_orders(orders)}
    arms[LARGER] = dict(variant="post", **SIZES[preset][1])
    return {title: arm | (dict(lr=peaks[title]) if title in peaks else {}) for title, arm in arms.items()}


def translation(task: dict, preset: str, arm: dict[str, Any], seeds: Any, recipe: dict) -> list[Experiment]:
    """One model with every seed; an arm's `lr` is the peak of its learning rate."""
    model, _, size = SIZES[preset]
    own = {key: value for key, value in arm.items() if key != "lr"}
    base = Experiment(
        task,
        # Sinusoids say something of the positions that only the test's longer sentences have.
        dict(name="seq2seq", positions="sinusoidal", **model) | own,
        ADAM | size | recipe | ({"lr": arm["lr"]} if "lr" in arm else {}),
        measure=("samples", "translation"),
    )
    return sweep(base, {"seed": check_seeds(seeds)})
