"""What counting alone predicts: the tables that a model of characters has to beat."""

import torch

from resnorm.data.dataset import DataSet


def table_losses(data: DataSet) -> tuple[float, float]:
    """Return the validation loss of the unigram and of the bigram table, in nats a token.

    The unigram table knows how frequent each token of the training split is, the bigram table also the token before; one is
    added to every count. Raises ValueError for a data set that is not of sequences in which every target is scored.
    """
    (before, targets), (validation, wanted) = data.train, data.validation
    if data.kind != "sequences" or min(targets.min(), wanted.min()) < 0:
        raise ValueError(f"the data set {data.name!r} of {data.kind} has no tables: use characters or tiny_shakespeare")
    count = data.spec["vocabulary"]
    pairs = torch.bincount((before * count + targets).flatten(), minlength=count**2).double().view(count, count) + 1
    unigram, bigram = pairs.sum(0) / pairs.sum(), pairs / pairs.sum(1, keepdim=True)
    return -unigram.log()[wanted].mean().item(), -bigram.log()[validation, wanted].mean().item()
