import json
import math

import pytest
import torch

from mainstem.config import Training
from mainstem.training.schedules import Schedule

EACH, EPOCHS = 7, 6
TOTAL = EACH * EPOCHS


def ours(**settings):
    schedule = Schedule(Training(**settings), EACH, TOTAL)
    return [schedule.factor(step, step // EACH) for step in range(TOTAL)]


def theirs(make, every=1):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimiser), []
    for step in range(TOTAL):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if (step + 1) % every == 0 and step + 1 < TOTAL:
            scheduler.step()
    return rates


def test_constant_is_one():
    assert ours() == [1.0] * TOTAL


def test_step_is_that_of_torch():
    expected = theirs(lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.3), every=EACH)
    assert ours(schedule="step", step_size=2, gamma=0.3) == pytest.approx(expected)


def test_cosine_is_that_of_torch():
    assert ours(schedule="cosine") == pytest.approx(theirs(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL)))


def test_one_cycle_is_that_of_torch():
    expected = theirs(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=TOTAL, cycle_momentum=False))
    assert ours(schedule="one-cycle") == pytest.approx(expected)
    assert max(expected) == pytest.approx(1.0, abs=0.01)


def test_warmup_is_that_of_torch():
    expected = theirs(lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1 / 10, total_iters=9))
    assert ours(schedule="warmup", warmup=10) == pytest.approx(expected)


def test_warmup_without_a_length_is_a_tenth_of_all_steps():
    rates = ours(schedule="warmup")
    assert rates[: 5 + 1] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1])


@pytest.mark.parametrize("warmup", [10, 10 / TOTAL])
def test_warmup_comes_before_any_schedule(warmup):
    rates = ours(schedule="cosine", warmup=warmup)
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    rest = TOTAL - 10
    assert rates[10:] == pytest.approx([(1 + math.cos(math.pi * i / rest)) / 2 for i in range(rest)])


def test_factor_is_a_pure_function_of_the_step():
    for name in ("step", "cosine", "one-cycle", "warmup"):
        fresh = Schedule(Training(schedule=name, warmup=3), EACH, TOTAL)
        assert fresh.factor(20, 2) == ours(schedule=name, warmup=3)[20]
        assert fresh.factor(20) == fresh.factor(20, 2)
        assert fresh.factor(TOTAL + 5, EPOCHS) >= 0


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "warmup", "plateau", "one-cycle"])
@pytest.mark.parametrize("total", [1, 2, 3, 4])
def test_short_runs_have_finite_factors(name, total):
    schedule = Schedule(Training(schedule=name, warmup=0.5), 1, total)
    assert all(0 <= schedule.factor(step) <= 1 for step in range(total))


FIGURES = [5.0, 4.0, 4.0, 4.5, math.nan, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 2.9, 2.8]


def test_plateau_is_that_of_torch():
    schedule = Schedule(Training(schedule="plateau", plateau=2, gamma=0.5), EACH, TOTAL)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=1, threshold=0.0)
    for figure in FIGURES:
        schedule.epoch_end(figure)
        reference.step(figure)
        assert schedule.factor(0, 0) == optimiser.param_groups[0]["lr"]
    assert schedule.factor(0, 0) < 0.3


@pytest.mark.parametrize("cut", range(len(FIGURES)))
def test_plateau_resumes(cut):
    settings = Training(schedule="plateau", plateau=2, gamma=0.5)
    whole, first, second = (Schedule(settings, EACH, TOTAL) for _ in range(3))
    for figure in FIGURES:
        whole.epoch_end(figure)
    for figure in FIGURES[:cut]:
        first.epoch_end(figure)
    second.load(json.loads(json.dumps(first.state(), allow_nan=False)))
    for figure in FIGURES[cut:]:
        second.epoch_end(figure)
    assert second.state() == whole.state()
