"""Learning rates by step: the shapes of the schedules, with a warm-up in front."""

import pytest
import torch
from torch import nn

from resnorm.training import Recipe, learning_rates

SCHEDULES = ("constant", "cosine", "step", "inverse_sqrt", "one_cycle", "wsd")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [10, 0.1])
def test_warm_up_combines_with_every_schedule(schedule, warmup):
    rates = learning_rates(Recipe(lr=2.0, schedule=schedule, warmup=warmup), 100)
    assert rates[:10] == pytest.approx([2.0 * (t + 1) / 10 for t in range(10)])
    assert max(rates) == pytest.approx(2.0, rel=0.05) and min(rates) > 0
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_schedules_have_their_shapes():
    def rates(schedule, **options):
        return learning_rates(Recipe(lr=1.0, schedule=schedule, **options), 100)

    assert rates("constant") == [1.0] * 100
    assert rates("step") == pytest.approx([1.0] * 50 + [0.1] * 25 + [0.01] * 25)
    assert rates("step", warmup=20)[50] == pytest.approx(0.1)  # milestones count from the start of the run
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    for rate in rates("cosine"):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        reference.step()
    vaswani = [min((t + 1) ** -0.5, (t + 1) * 25**-1.5) * 5 for t in range(100)]
    assert rates("inverse_sqrt", warmup=25) == pytest.approx(vaswani)
    falling = [0.04 * (100 - t) for t in range(75, 100)]
    assert rates("wsd", decay_share=0.25) == pytest.approx([1.0] * 75 + falling)
    halved = [1.0] * 25 + [0.02 * (100 - t) for t in range(50, 100)]
    assert rates("wsd", warmup=25, decay_share=0.5)[25:] == pytest.approx(halved)  # a share of the run, as in "step"
    triangle = rates("one_cycle")
    assert triangle[29] == 1.0 and triangle[0] == pytest.approx(1 / 30) and triangle[-1] == pytest.approx(1 / 70)


def test_warm_up_must_fit():
    with pytest.raises(ValueError, match="warmup=100 does not fit in a run of 100 steps.*fraction"):
        learning_rates(Recipe(warmup=100), 100)
    learning_rates(Recipe(warmup=80, schedule="wsd"), 100)
    with pytest.raises(ValueError, match="warmup=0.9 and decay_share=0.2 overlap in a run of 100 steps: take a shorter"):
        learning_rates(Recipe(warmup=0.9, schedule="wsd"), 100)
