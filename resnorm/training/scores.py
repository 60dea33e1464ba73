"""Losses and the counts that metrics are made of."""

import torch
from torch import Tensor
from torch.nn import functional

NOT_SCORED = -100


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats over the scored targets; -100 is not scored.

    Shapes: logits (batch, classes) with targets (batch,), or (batch, context, vocabulary) with (batch, context) -> ().
    """
    # In float32 whatever the model computed in: a sum of exponentials does not survive 8 bits.
    return functional.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=NOT_SCORED, label_smoothing=label_smoothing
    )


class Scores:
    """Sums over examples that stay on the device until `metrics` is called, which waits for it once."""

    def __init__(self, device: torch.device) -> None:
        # loss x scored, right, scored, wholly right, examples
        self.sums = torch.zeros(5, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        scored = targets != NOT_SCORED
        right = (logits.argmax(-1) == targets) & scored
        whole = (right | ~scored).flatten(1).all(1) if targets.dim() > 1 else right
        count = scored.sum()
        self.sums += torch.stack([loss * count, right.sum(), count, whole.sum(), count.new_tensor(len(targets))])

    def metrics(self, kind: str) -> dict[str, float]:
        """loss in nats and accuracy per scored target; for sequences also exact, the share that is right throughout."""
        loss, right, scored, whole, examples = self.sums.tolist()
        values = dict(loss=loss / max(scored, 1), accuracy=right / max(scored, 1))
        return values | (dict(exact=whole / max(examples, 1)) if kind == "sequences" else {})
