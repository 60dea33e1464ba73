"""Losses and the counts that metrics are made of."""

import torch
from torch import Tensor
from torch.nn import functional

from resnorm.data.dataset import NOT_SCORED

# What a spike stands out from: so many steps before it, by so many of their standard deviations.
SPIKE_WINDOW, SPIKE_DEVIATIONS = 100, 7.0


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, scored: Tensor | None = None) -> Tensor:
    """Mean cross-entropy in nats over the scored targets; -100 is not scored, and where none is, the loss is 0.

    With ``scored`` the sum over the scored targets is divided by that instead: parts of a batch, each with the number of
    the whole batch, add up to the batch's mean. A loss of no target has a gradient of 0 everywhere.
    Shapes: logits (batch, classes) with targets (batch,), or (batch, context, vocabulary) with (batch, context) -> ().
    """
    # In float32 where the model computes in less: a sum of exponentials does not survive 8 bits.
    logits = logits if logits.dtype == torch.float64 else logits.float()
    loss = functional.cross_entropy(
        logits.flatten(0, -2),
        targets.flatten(),
        ignore_index=NOT_SCORED,
        label_smoothing=label_smoothing,
        reduction="mean" if scored is None else "sum",
    )
    # A mean of nothing is 0 / 0, and would end the run as a divergence.
    return loss.masked_fill(scored_in(targets) == 0, 0) if scored is None else loss / scored.clamp_min(1)


def scored_in(targets: Tensor) -> Tensor:
    """How many targets are scored: targets of any shape -> ()."""
    return (targets != NOT_SCORED).sum()


def spike_share(norms: Tensor) -> float:
    r"""The share of steps whose gradient spikes: $\lVert g_t \rVert > m_t + 7 s_t$.

    m and s are the mean and the standard deviation over the 100 steps before t; the first 100 steps are not judged, and
    a norm that is not finite is a spike. OLMo 2 counts so, with 1,000 steps before. 0 for a run that is too short.
    Shapes: norms (steps,). Citation: olmo2025two.
    """
    if len(norms) <= SPIKE_WINDOW:
        return 0.0
    norms = norms.double().cpu()
    before, judged = norms.unfold(0, SPIKE_WINDOW, 1)[:-1], norms[SPIKE_WINDOW:]
    # A step that overflowed would hide every spike in the hundred steps after it.
    seen = before.isfinite()
    count = seen.sum(1).clamp_min(1)
    mean = before.where(seen, 0).sum(1) / count
    deviation = ((before - mean[:, None]).square().where(seen, 0).sum(1) / (count - 1).clamp_min(1)).sqrt()
    spikes = (judged > mean + SPIKE_DEVIATIONS * deviation) | ~judged.isfinite()
    return spikes.double().mean().item()


class Scores:
    """Sums over examples that stay on the device until `metrics` is called, which waits for it once."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(5, dtype=torch.float64, device=device)
        # Views, so that adding in place fills the sums: loss x scored, right, scored; rows wholly right, rows with a target.
        self.loss, self.right, self.scored, self.whole, self.rows = self.sums.unbind()

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor, of: Tensor | None = None) -> None:
        """Count one batch: its mean loss and its logits, both without a gradient.

        For a part of a batch, ``of`` is the number of scored targets that its loss was divided by.
        """
        right = logits.argmax(-1) == targets  # never where nothing is scored: no class has the number -100
        self.right.add_(right.sum())
        is_scored = targets != NOT_SCORED
        scored = is_scored.sum()
        self.scored.add_(scored)
        self.loss.add_(loss.double() * (scored if of is None else of))
        if targets.dim() > 1:
            rows = is_scored.any(1)
            self.rows.add_(rows.sum())
            self.whole.add_(((right | ~is_scored).all(1) & rows).sum())

    def take(self, other: "Scores") -> None:
        """Add what ``other`` has gathered, and empty it."""
        self.sums += other.sums
        other.clear()

    def clear(self) -> None:
        self.sums.zero_()

    def metrics(self, kind: str) -> dict[str, float]:
        """loss in nats and accuracy per scored target; for tokens also exact, the share of rows right throughout.

        A row without a scored target belongs to none of them; where no target at all was scored there is nothing to say.
        """
        loss, right, scored, whole, rows = self.sums.tolist()
        if not scored:
            return {}
        values = dict(loss=loss / scored, accuracy=right / scored)
        return values | ({} if kind in ("images", "features") else dict(exact=whole / rows))
