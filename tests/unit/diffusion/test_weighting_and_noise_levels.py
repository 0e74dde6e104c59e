import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from artart.diffusion.noise_levels import LogitNormal
from artart.diffusion.parameterization import PARAMETERIZATIONS
from artart.diffusion.schedule import Cosine, Flow
from artart.diffusion.weighting import WEIGHTINGS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(name: str, t: list[float]) -> Tensor:
    return WEIGHTINGS[name](Flow().at(torch.tensor(t, dtype=torch.float64)))


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Weightings


def test_velocity_is_one_over_the_noise_squared_but_at_most_400():
    assert_close(weights("velocity", [0, 0.01, 0.04, 0.05, 0.1, 0.5, 1]), numbers(400, 400, 400, 400, 100, 4, 1))


@pytest.mark.parametrize("schedule", [Flow(), Cosine()])
def test_velocity_turns_the_x0_error_into_that_of_v(schedule):
    level = schedule.at(torch.linspace(0.06, 1, 50, dtype=torch.float64))
    x0, eps, error = torch.randn(3, 50, dtype=torch.float64, generator=generator())
    output = level.v_x0 * x0 + level.v_eps * eps + error
    x0_error = PARAMETERIZATIONS["v"].x0_error(output, x0, eps, level)
    assert_close(WEIGHTINGS["velocity"](level) * x0_error**2, error**2)


def test_min_snr_is_the_signal_to_noise_ratio_but_at_most_5():
    assert_close(weights("min_snr", [0, 0.1, 0.3, 1 / 3, 0.5, 0.8, 1]), numbers(5, 5, 5, 4, 1, 1 / 16, 0))


def test_uniform_is_1_everywhere():
    assert_close(weights("uniform", [0, 0.3, 1]), torch.ones(3, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_there_is_one_weight_for_each_image(name, schedule):
    level = schedule.for_images(torch.rand(4, generator=generator()), torch.zeros(4, 3, 8, 8))
    assert WEIGHTINGS[name](level).shape == (4, 1, 1, 1)
    assert WEIGHTINGS[name](level).dtype == torch.float32


# Draws of noise levels

NUM = 40_000
FIVE_SIGMA = 5 / math.sqrt(NUM)  # of the mean of so many normal numbers; the std of their std is smaller


@pytest.mark.parametrize(("image_size", "mean"), [(32, -0.240), (64, 0.107), (256, 0.8)])
def test_larger_images_are_drawn_noisier(image_size, mean):
    logits = torch.logit(LogitNormal(image_size)(NUM, generator()).double())
    assert abs(logits.mean() - mean) < FIVE_SIGMA * 1.3
    assert abs(logits.std() - 1.3) < FIVE_SIGMA * 1.3


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (-1.0, 1.5)])
def test_a_given_mean_and_std_are_kept_at_any_size(mean, std):
    logits = torch.logit(LogitNormal(64, mean, std)(NUM, generator()).double())
    assert abs(logits.mean() - mean) < FIVE_SIGMA * std
    assert abs(logits.std() - std) < FIVE_SIGMA * std


def test_draws_keep_off_both_ends():
    r = LogitNormal(64, mean=0.0, std=100.0)(NUM, generator())
    assert_close(torch.stack([r.min(), r.max()]), torch.tensor([0.001, 0.999]), rtol=0, atol=0)


def test_half_of_the_noise_levels_lie_below_the_sigmoid_of_the_mean():
    r = LogitNormal(64, mean=0.8)(NUM, generator())
    assert abs((r < 0.68997).double().mean() - 0.5) < FIVE_SIGMA / 2  # 1 / (1 + exp(-0.8))


def test_draws_come_from_the_generator_alone():
    draw = LogitNormal(64)
    torch.manual_seed(1)
    first = draw(8, generator(5))
    torch.manual_seed(2)
    assert_close(draw(8, generator(5)), first, rtol=0, atol=0)
    assert not torch.equal(draw(8, generator(6)), first)
    assert len(first.unique()) == 8
