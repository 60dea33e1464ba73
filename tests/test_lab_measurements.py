"""What is measured on a trained model is measured on validation images, as the training loop sees them."""

import pytest
import torch
import torch.nn.functional as F

from resnorm import data, lab, models
from resnorm.lab.measurements import MEASUREMENTS


@pytest.fixture(scope="module")
def trained():
    digits = data.load("digits")
    torch.manual_seed(0)
    model = models.build("cifar_resnet", digits.spec, depth=8, width=4, variant="residual")
    images = (digits.validation[0] / 255 - digits.mean[0]) / digits.std[0]
    model(images)  # running statistics other than those of the start
    return model.eval(), digits, images


@pytest.mark.parametrize("name", ["lesions", "landscape"])
def test_the_undamaged_network_has_the_validation_loss(trained, name):
    model, digits, images = trained
    rows = MEASUREMENTS[name](model, digits, None)
    whole = [row for row in rows if row.get("kind") == "whole" or row.get("alpha") == 0]
    with torch.no_grad():
        loss = F.cross_entropy(model(images), digits.validation[1]).item()
    assert whole and [row["loss"] for row in whole] == pytest.approx([loss] * len(whole), rel=1e-4)


def test_the_plan_names_them_and_images_are_needed(trained):
    for preset in lab.PRESETS:
        assert {experiment.measure for experiment in lab.plan("lesions", preset)} == {("landscape", "lesions")}
    model, _, _ = trained
    with pytest.raises(ValueError, match="holds sequences; this measurement takes images"):
        MEASUREMENTS["lesions"](model, data.load("number_words", limit=50), None)


def test_what_is_scored_together_is_no_more_than_a_step_holds(trained):
    model, digits, _ = trained
    rows = []
    hook = model.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    recipe = dict(epochs=1, batch_size=48, accumulate=2, lr=0.01)
    experiment = lab.Experiment(dict(name="digits"), dict(name="cifar_resnet", depth=8), recipe)
    MEASUREMENTS["lesions"](model, digits, experiment)
    hook.remove()
    assert max(rows) == 24
