"""Recipes: what they say as JSON, and what they refuse."""

import json
import math

import pytest

from resnorm.training import Recipe


def test_recipe_survives_json():
    recipe = Recipe(schedule="step", milestones=(0.3, 0.6), warmup=0.1, clip=1.0, channels_last=False)
    assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert Recipe(**json.loads(json.dumps(Recipe().to_dict()))) == Recipe()


@pytest.mark.parametrize(
    "field, value, allowed",
    [
        ("epochs", 0, "at least 1"),
        ("epochs", 1.5, "whole number"),
        ("batch_size", True, "whole number"),
        ("optimizer", "adam", "one of sgd, adamw, muon"),
        ("schedule", "linear", "one of constant, cosine, step, inverse_sqrt, one_cycle, wsd"),
        ("batch_tokens", 0, "None or a whole number above 0"),
        ("batch_tokens", 1e3, "None or a whole number above 0"),
        ("accumulate", 0, "at least 1"),
        ("accumulate", 129, "at most batch_size=128"),
        ("decay_share", 0, "above 0"),
        ("decay_share", 1.5, "at most 1"),
        ("augment", "flip", "one of none, crop_flip"),
        ("precision", "fp64", "one of auto, fp32, bf16, fp16"),
        ("lr", 0, "above 0"),
        ("lr", math.nan, "above 0"),
        ("lr", "0.1", "above 0"),
        ("momentum", 1.0, "below 1"),
        ("weight_decay", -1e-4, "at least 0"),
        ("label_smoothing", 1, "below 1"),
        ("warmup", 1.5, "a fraction of the run"),
        ("warmup", -1, "steps"),
        ("milestones", (0.6, 0.3), "increasing fractions"),
        ("milestones", (32_000,), "each between 0 and 1"),
        ("decay", 0, "above 0"),
        ("clip", 0.0, "None or a number above 0"),
        ("compile", 1, "true or false"),
        ("channels_last", "yes", "'auto'"),
        ("probe_every", -1, "at least 0"),
        ("evaluate_every", 0, "at least 1"),
    ],
)
def test_recipe_names_what_is_wrong(field, value, allowed):
    with pytest.raises(ValueError, match=f"recipe: {field}=.*must be .*{allowed}"):
        Recipe(**{field: value})
