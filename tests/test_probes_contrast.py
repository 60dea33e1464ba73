"""Changed contrast, brightness and colour: what each change does, and which statistics the scores are taken with."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnorm import probes
from resnorm.norms import norm
from resnorm.probes.contrast import CASES, CHANGES


def images(channels=3, count=12):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, 6, 6, generator=generator), torch.randint(4, (count,), generator=generator)


def network(middle, channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), norm(middle, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def standard(channels=3):
    return torch.full((channels,), 0.5), torch.full((channels,), 0.25)


def test_the_changes_are_what_they_say():
    pixels, _ = images()
    flat = CHANGES["contrast"](pixels, 0.5)
    torch.testing.assert_close(flat.mean((1, 2, 3)), pixels.mean((1, 2, 3)))
    torch.testing.assert_close(flat.std((1, 2, 3)), 0.5 * pixels.std((1, 2, 3)))
    torch.testing.assert_close(CHANGES["brightness"](pixels, 0.3) - pixels, torch.full_like(pixels, 0.3))
    torch.testing.assert_close(CHANGES["colour"](pixels, 0.4)[:, 0], 1.4 * pixels[:, 0])
    grey = CHANGES["grey"](pixels, 1.0)
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    torch.testing.assert_close(grey[:, 0], 0.299 * pixels[:, 0] + 0.587 * pixels[:, 1] + 0.114 * pixels[:, 2])


def test_every_change_has_a_row_and_the_first_is_the_network_as_it_is():
    model, (pixels, targets), (mean, deviation) = network("layer2d"), images(), standard()
    rows = probes.contrast(model, pixels, targets, mean, deviation, batch=5)
    assert [(row["shift"], row["strength"]) for row in rows] == list(CASES)
    assert {row["statistics"] for row in rows} == {"running"}
    with torch.no_grad():
        loss = F.cross_entropy(model((pixels - 0.5) / 0.25), targets).item()
    assert rows[0]["loss"] == pytest.approx(loss, rel=1e-5) and len({row["loss"] for row in rows}) == len(rows)


def test_batch_norm_is_scored_with_both_statistics_and_left_as_it_was():
    model, (pixels, targets), (mean, deviation) = network("batch"), images(), standard()
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rows = probes.contrast(model, pixels, targets, mean, deviation, batch=6)
    assert len(rows) == 2 * len(CASES) and model.training and model[1].training and model[1].track_running_stats
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    by = {(row["shift"], row["strength"], row["statistics"]): row["loss"] for row in rows}
    with torch.no_grad():
        x = (pixels - 0.5) / 0.25
        halves = [F.cross_entropy(model(half), labels).item() for half, labels in zip(x.split(6), targets.split(6), strict=True)]
    assert by["none", 0, "batch"] == pytest.approx(sum(halves) / 2, rel=1e-5)
    assert by["none", 0, "running"] != pytest.approx(by["none", 0, "batch"], rel=1e-3)


def test_an_instance_norm_behind_a_change_of_contrast_sees_nothing():
    """Without a bias before it the features only scale; a shift of brightness only shifts them."""
    model = network("instance(eps=1e-12)")
    (pixels, targets), (mean, deviation) = images(), standard()
    losses = {(r["shift"], r["strength"]): r["loss"] for r in probes.contrast(model, pixels, targets, mean, deviation)}
    for case in (("contrast", 0.5), ("contrast", 2.0), ("brightness", 0.3)):
        assert losses[case] == pytest.approx(losses["none", 0], rel=1e-4), case
    assert losses["grey", 1.0] != pytest.approx(losses["none", 0], rel=1e-4)


def test_images_without_colour_have_no_colour_to_change_and_sizes_are_checked():
    model, (pixels, targets), (mean, deviation) = network("group", 1), images(1), standard(1)
    assert {row["shift"] for row in probes.contrast(model, pixels, targets, mean, deviation)} == {"none", "contrast", "brightness"}
    with pytest.raises(ValueError, match=r"mean \(3,\) and deviation \(1,\); give one for each of 1 channels"):
        probes.contrast(model, pixels, targets, standard()[0], deviation)
