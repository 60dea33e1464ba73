"""Scores: what is counted, label smoothing, spikes of the loss."""

import pytest
import torch
from torch.nn import functional

from resnorm.training.scores import Scores, cross_entropy, spike_share

CPU = torch.device("cpu")


def test_scores_of_sequences_leave_out_what_is_not_scored():
    targets = torch.tensor([[-100, 1, 2], [-100, 3, -100], [0, 0, -100]])
    guesses = torch.tensor([[4, 1, 2], [4, 3, 4], [0, 1, 4]])  # two rows wholly right, 4 of 5 tokens
    logits = 3.0 * functional.one_hot(guesses, 5)
    scores = Scores(CPU)
    for part in (slice(0, 1), slice(1, 3)):
        scores.add(cross_entropy(logits[part], targets[part]), logits[part], targets[part])
    values = scores.metrics("sequences")
    assert values["accuracy"] == pytest.approx(4 / 5) and values["exact"] == pytest.approx(2 / 3)
    assert values["loss"] == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-6)


def test_label_smoothing():
    logits, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, -100, 1])
    smooth = functional.one_hot(targets.clamp(min=0), 4) * 0.9 + 0.1 / 4
    expected = -(smooth * logits.log_softmax(-1)).sum(-1)[targets >= 0].mean()
    torch.testing.assert_close(cross_entropy(logits, targets, 0.1), expected)


def test_a_spike_stands_out_from_the_hundred_steps_before_it():
    calm = torch.ones(300) + 0.01 * torch.arange(300).remainder(2)
    assert spike_share(calm) == 0
    norms = calm.clone()
    norms[[150, 250]] = 2.0
    assert spike_share(norms) == pytest.approx(2 / 200)
    norms[50] = 100.0  # not judged, and it hides what follows within a hundred steps: 150 is the last of them
    assert spike_share(norms) == pytest.approx(1 / 200)
    norms[50], norms[200] = 1.0, torch.inf  # a spike itself, and it hides nothing
    assert spike_share(norms) == pytest.approx(3 / 200)
    assert spike_share(norms[:100]) == 0
