"""How a model is trained, as data: every choice that changes the result stands here."""

from dataclasses import asdict, dataclass
from math import isfinite

CHOICES = dict(
    optimizer=("sgd", "adamw", "muon"),
    schedule=("constant", "cosine", "step", "inverse_sqrt", "one_cycle", "wsd"),
    augment=("none", "crop_flip"),
    precision=("auto", "fp32", "bf16", "fp16"),
)


@dataclass(frozen=True)
class Recipe:
    """A training recipe, checked and JSON-able: ``Recipe(**recipe.to_dict()) == recipe``.

    epochs: passes over the training split; examples that do not fill a last batch wait for the next epoch's order.
    batch_tokens: pairs only, in place of batch_size: batches of examples of like length, of at most that many tokens,
        source and target with their padding counted. Every example then belongs to a batch of every epoch.
    accumulate: in how many parts, one after the other, a step's batch is worked off: the gradient is that of the whole
        batch, in less memory. A batch norm takes the statistics of each part, as of a smaller batch.
    optimizer: see `resnorm.training.optimizers.build_optimizer`.
    lr: the largest learning rate of the schedule.
    momentum: of SGD and Muon (Nesterov's where ``nesterov``), or beta 1 of AdamW, also of Muon's; ``beta2`` is AdamW's
        alone.
    weight_decay: as each optimiser defines it; ``decay_norms=False`` spares gains and biases (all tensors of
        fewer than two dimensions).
    schedule: see `resnorm.training.learning_rates`; ``warmup`` in steps (int), or as a fraction of the run (float
        below 1); ``milestones`` as fractions of the run and ``decay``, the factor at each, belong to "step", and
        ``decay_share``, the fraction of the run that the fall to 0 takes, to "wsd".
    clip: largest norm of the whole gradient, or None.
    label_smoothing: in [0, 1); the reported training loss includes it, those of other splits do not.
    augment: "crop_flip" shifts by up to an eighth of the image's size and mirrors (images only).
    precision: "auto" is bf16 on GPUs that have it in hardware, fp16 with a gradient scaler on older ones, fp32 on CPU.
        A model in float64 or float16 is trained in that type: "auto" is then fp32, which changes no type.
    channels_last: "auto" means: where the model has convolutions.
    probe_every: steps between probes, 0 for never; evaluate_every: epochs between evaluations on the validation split.

    Raises ValueError or TypeError naming the field, its value and what is allowed.
    """

    epochs: int = 10
    batch_size: int = 128
    batch_tokens: int | None = None
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    beta2: float = 0.999
    weight_decay: float = 0.0
    decay_norms: bool = True
    schedule: str = "cosine"
    warmup: int | float = 0
    milestones: tuple[float, ...] = (0.5, 0.75)
    decay: float = 0.1
    decay_share: float = 0.2
    clip: float | None = None
    label_smoothing: float = 0.0
    augment: str = "none"
    precision: str = "auto"
    compile: bool = False
    channels_last: bool | str = "auto"
    probe_every: int = 0
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            self._require(name, getattr(self, name) in allowed, f"one of {', '.join(allowed)}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("evaluate_every", 1), ("probe_every", 0)):
            value = getattr(self, name)
            self._require(name, type(value) is int and value >= least, f"a whole number of at least {least}")
        self._require(
            "batch_tokens",
            self.batch_tokens is None or (type(self.batch_tokens) is int and self.batch_tokens > 0),
            "None or a whole number above 0",
        )
        self._require(
            "accumulate",
            self.batch_tokens is not None or self.accumulate <= self.batch_size,
            f"at most batch_size={self.batch_size}: a part of a batch has at least one example",
        )
        for name in ("nesterov", "decay_norms", "compile"):
            self._require(name, type(getattr(self, name)) is bool, "true or false")
        self._require("channels_last", self.channels_last in (True, False, "auto"), "true, false or 'auto'")
        self._require("lr", _number(self.lr) and self.lr > 0, "a number above 0")
        self._require("weight_decay", _number(self.weight_decay) and self.weight_decay >= 0, "a number of at least 0")
        for name in ("decay", "decay_share"):
            value = getattr(self, name)
            self._require(name, _number(value) and 0 < value <= 1, "a number above 0 and at most 1")
        for name in ("momentum", "beta2", "label_smoothing"):
            value = getattr(self, name)
            self._require(name, _number(value) and 0 <= value < 1, "a number of at least 0 and below 1")
        self._require("clip", self.clip is None or (_number(self.clip) and self.clip > 0), "None or a number above 0")
        steps_or_fraction = type(self.warmup) is int or (_number(self.warmup) and self.warmup < 1)
        self._require(
            "warmup", steps_or_fraction and self.warmup >= 0, "steps (a whole number) or a fraction of the run (a number below 1)"
        )
        # JSON knows no tuples: a list is taken and kept as the tuple it was.
        if isinstance(self.milestones, list):
            object.__setattr__(self, "milestones", tuple(self.milestones))
        increasing = isinstance(self.milestones, tuple) and all(_number(m) and 0 < m < 1 for m in self.milestones)
        self._require(
            "milestones",
            increasing and list(self.milestones) == sorted(set(self.milestones)),
            "increasing fractions of the run, each between 0 and 1",
        )

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"recipe: {name}={getattr(self, name)!r}, but it must be {allowed}")

    def to_dict(self) -> dict:
        """The recipe as plain JSON values."""
        return asdict(self) | dict(milestones=list(self.milestones))


def _number(value) -> bool:
    return type(value) in (int, float) and isfinite(value)
