"""Right answers with running statistics and with those of a batch, and how far the means of batches scatter."""

import math

import pytest
import torch
from torch import nn

from resnorm import probes
from resnorm.norms import norm


def shifted():
    """A batch norm in front of a sign: with its running statistics, of mean 0, it calls every shifted example positive."""

    class Sign(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm("batch", 1)

        def forward(self, x):
            return torch.cat([-self.norm(x), self.norm(x)], 1)

    x = torch.tensor([[4.0], [6.0], [14.0], [16.0]])
    return Sign(), x, torch.tensor([0, 1, 0, 1])


def test_accuracy_takes_the_statistics_that_it_is_told_and_keeps_none():
    model, x, targets = shifted()
    model.train()
    assert probes.accuracy(model, x, targets) == 0.5
    assert probes.accuracy(model, x, targets, batch=2) == 1.0
    # With all four at once the mean is 10: the second and the third are on the wrong side of it.
    assert probes.accuracy(model, x, targets, batch=4) == 0.5
    assert model.training and model.norm.running_mean.item() == 0 and model.norm.num_batches_tracked.item() == 0


@pytest.mark.parametrize("size", [2, 8])
def test_the_means_of_batches_scatter_with_one_over_the_root_of_their_size(size):
    model = nn.Sequential(norm("batch", 3), nn.Flatten(), nn.Linear(3, 2))
    x = 2 * torch.randn(4000, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    model[0].running_var.fill_(4.0)
    (row,) = probes.batch_noise(model, x, size, batches=800)
    assert row["layer"] == 1 and row["name"] == "0"
    assert row["error"] == pytest.approx(1 / math.sqrt(size), rel=0.06)
    assert model[0].num_batches_tracked.item() == 0
    with pytest.raises(ValueError, match="Linear has no batch norm"):
        probes.batch_noise(nn.Linear(2, 2), x, size)


def test_the_norms_below_use_the_statistics_of_the_batch():
    # behind a norm with the batch's own statistics no batch has a mean, so nothing scatters in front of the second one
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    first, second = probes.batch_noise(model, torch.randn(256, 4), 8)
    assert first["error"] > 0.2 and second["error"] < 1e-6
