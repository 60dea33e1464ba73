"""The errors of a batch's statistics, where they are known."""

import math

import pytest
import torch

from resnorm import probes


def noise():
    return 5 + 3 * torch.randn(4000, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_an_image_of_white_noise_counts_as_all_its_pixels_and_a_flat_one_as_one():
    assert probes.variance_of_image_means(noise()) == pytest.approx(1 / 16, rel=0.05)
    assert probes.variance_of_image_means(noise()[..., :1, :1].expand(-1, -1, 4, 4)) == pytest.approx(1.0)


def test_the_errors_of_white_noise_follow_its_laws():
    torch.manual_seed(0)
    mean, deviation = probes.batch_errors(noise(), 4)
    values = 4 * 16
    assert mean["of the"] == "mean" and mean["error"] == pytest.approx(1 / math.sqrt(values), rel=0.05)
    assert deviation["of the"] == "deviation" and deviation["error"] == pytest.approx(1 / math.sqrt(2 * values), rel=0.08)
    with pytest.raises(ValueError, match="size=0"):
        probes.batch_errors(noise(), 0)
