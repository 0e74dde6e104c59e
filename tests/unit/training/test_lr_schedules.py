import math

import pytest
import torch
from torch.testing import assert_close

from artart.training import lr_schedules


def learning_rates(schedule: dict, num_moves: int) -> list[float]:
    scheduler = schedule["scheduler"]
    rates = []
    for _ in range(num_moves):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


@pytest.fixture
def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def test_step_is_the_articles_a_tenth_every_30_epochs(sgd):
    schedule = lr_schedules.step(sgd, total_steps=1000)
    assert schedule["interval"] == "epoch"
    rates = learning_rates(schedule, 91)
    assert_close([rates[i] for i in (0, 29, 30, 59, 60, 90)], [0.5, 0.5, 0.05, 0.05, 0.005, 0.0005])


def test_constant_stays(sgd):
    assert set(learning_rates(lr_schedules.constant(sgd, total_steps=1000), 50)) == {0.5}


def test_burn_in_lowers_the_rate_and_raises_beta2_along_a_cosine():
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.4, betas=(0.0, 0.9))
    schedule = lr_schedules.burn_in(adam, total_steps=20, burn_in=0.5, final_lr_fraction=0.25, final_beta2=0.99)
    assert schedule["interval"] == "step"
    betas, rates = [], []
    for _ in range(4):
        betas.append(adam.param_groups[0]["betas"])
        rates += learning_rates(schedule, 5)[:1]
    assert_close(rates, [0.4, 0.25, 0.1, 0.1])
    assert_close(betas, [(0.0, 0.9), (0.0, 0.945), (0.0, 0.99), (0.0, 0.99)])


@pytest.mark.parametrize("schedule", [lr_schedules.burn_in, lr_schedules.cosine])
def test_a_resumed_run_with_more_steps_is_on_the_schedule_of_the_longer_run(schedule):
    def of(total_steps):
        adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.4, betas=(0.0, 0.9))
        return schedule(adam, total_steps=total_steps)

    def betas(of):
        return of["scheduler"].optimizer.param_groups[0]["betas"]

    short, resumed, whole = of(20), of(60), of(60)
    learning_rates(short, 8)
    resumed["scheduler"].optimizer.load_state_dict(short["scheduler"].optimizer.state_dict())
    resumed["scheduler"].load_state_dict(short["scheduler"].state_dict())
    assert betas(resumed) == betas(short)
    assert_close(learning_rates(resumed, 10)[1:], learning_rates(whole, 18)[9:])
    assert_close(betas(resumed), betas(whole))


def test_cosine_warms_up_and_follows_half_a_cosine(sgd):
    schedule = lr_schedules.cosine(sgd, total_steps=1100, warmup_steps=100, final_lr_fraction=0.1)
    assert schedule["interval"] == "step"
    rates = learning_rates(schedule, 1101)
    assert rates[0] == pytest.approx(0.5 / 101)
    assert rates[49] == pytest.approx(0.5 * 50 / 101)
    assert rates[100] == pytest.approx(0.5)
    assert rates[350] == pytest.approx(0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert rates[600] == pytest.approx(0.5 * 0.55)
    assert rates[1100] == pytest.approx(0.05)


def test_the_warm_up_of_a_short_run_is_at_most_a_tenth_of_it(sgd):
    assert learning_rates(lr_schedules.cosine(sgd, total_steps=50, warmup_steps=100), 6)[5] == pytest.approx(0.5)
