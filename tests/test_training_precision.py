"""Number formats: which one a device takes, and how close low precision stays to 32 bits."""

from dataclasses import replace

import pytest
import small_runs as usual
import torch

from resnorm.training import fit
from resnorm.training.precision import autocast, choose_precision, gradient_scaler

CPU = torch.device("cpu")


def test_precision_is_chosen_by_device(monkeypatch):
    cuda = torch.device("cuda")
    assert choose_precision("auto", CPU) == "fp32" and choose_precision("bf16", CPU) == "bf16"
    for capability, expected in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        assert choose_precision("auto", cuda) == expected
    assert gradient_scaler("fp16", CPU).is_enabled() and not gradient_scaler("bf16", CPU).is_enabled()
    with autocast("bf16", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast("fp32", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_close_to_fp32(precision):
    found = {}
    for name in ("fp32", precision):
        run = fit(usual.mlp(dropout=0.0), usual.images(), replace(usual.RECIPE, precision=name, clip=5.0), progress=False)
        assert run.status == "finished" and run.precision == name
        found[name] = run.metrics["train_loss"]
    assert found[precision] == pytest.approx(found["fp32"], rel=0.05) and found[precision] != found["fp32"]
