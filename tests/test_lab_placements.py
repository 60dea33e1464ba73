"""The placement zoo: the learning rate of every arm is the one that the recorded tuning found."""

import math

import torch

from resnorm import lab, load


def test_every_arm_has_the_rate_that_the_recorded_tuning_found():
    rates, zoo = lab.study("placement_rates"), lab.study("placements")
    assert not rates.missing() and rates.arms == zoo.arms
    found = rates.values("validation_loss").dropna(subset="value").sort_values("value").drop_duplicates("arm").set_index("arm").lr
    assert {arm: settings["lr"] for arm, settings in zoo.settings.items()} == found.to_dict()
    # the first seed is a run of the tuning, and is not run twice
    assert {item.name for item in lab.plan("placements", "cpu", seeds=[0])} <= {item.name for item in rates.planned}


def test_later_arms_differ_from_pre_norm_in_32_bits_by_their_placement_only():
    zoo = lab.study("placements", seeds=[0])
    later, first = (zoo.experiments[arm][0] for arm in ("Pre-Norm, 32 bits", "Pre-Norm"))
    assert later.recipe["precision"] == "fp32" and later.replace("recipe.precision", "bf16") == first
    assert "Pre-Norm, 32 bits" not in lab.study("placements", "paper").arms
    mixed = [arm for arm, experiments in zoo.experiments.items() if "mixing" in experiments[0].measure]
    assert mixed == ["Hyper-Connections", "Hyper-Connections, dynamic", "mHC"]


def test_the_entropy_of_single_characters_is_the_number_of_the_chapter():
    try:
        data = load("tiny_shakespeare", context=64, download=False)
    except OSError:
        import pytest

        pytest.skip("tiny_shakespeare is not here")
    counts = torch.bincount(data.train[1].flatten()).double() + 1
    entropy = -(counts / counts.sum()).log()[data.validation[1].flatten()].mean().item()
    assert math.isclose(entropy, 3.3074, abs_tol=1e-3)
