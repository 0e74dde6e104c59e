"""Samplers on a Gaussian of 16 independent values, whose denoiser and probability flow are known in closed form."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from artart.diffusion.samplers import DDIM, Denoise, DPMpp2M, Heun, Sampler, UniPC
from artart.diffusion.schedule import Flow, Schedule

SCALES = torch.logspace(math.log10(0.05), math.log10(2), 16, dtype=torch.float64).view(1, 1, 4, 4)
NUM_STEPS = (64, 128, 256, 512)


def gaussian_denoiser(schedule: Schedule) -> Denoise:
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma, *_ = schedule.for_images(t, x_t)
        return alpha * SCALES**2 / (alpha**2 * SCALES**2 + sigma**2) * x_t

    return denoise


def spread(schedule: Schedule, t: Tensor) -> Tensor:
    """The standard deviation of x_t; the probability flow from noise eps is at spread * eps."""
    alpha, sigma, *_ = schedule.at(t)
    return (alpha**2 * SCALES**2 + sigma**2).sqrt()


def no_noise(i: int) -> Tensor:
    raise AssertionError("a deterministic sampler asks for no noise")


def rms_error(sampler: Sampler, schedule: Schedule, times: Tensor) -> Tensor:
    """At the last of the times; for eps = 1, as the error is in proportion to eps."""
    *_, last = sampler(gaussian_denoiser(schedule), schedule, spread(schedule, times[0]), times, no_noise)
    return (last.x_t - spread(schedule, times[-1])).square().mean().sqrt()


def even_in_lambda(schedule: Schedule, num_steps: int) -> Tensor:
    """Times from r = 0.99 to 0.01 between which lambda = ln(alpha / sigma) = ln((1 - r) / r) rises evenly."""
    lambdas = torch.linspace(-math.log(99), math.log(99), num_steps + 1, dtype=torch.float64)
    return schedule.time_at(torch.sigmoid(-lambdas))


def mean_order(errors: list[Tensor]) -> float:
    """How many times the error halves when the steps are doubled."""
    return float((errors[0] / errors[-1]).log2()) / (len(errors) - 1)


def test_ddim_is_of_first_order(schedule):
    order = mean_order([rms_error(DDIM(), schedule, schedule.times(num)) for num in NUM_STEPS])
    assert 0.95 <= order <= 1.05


def test_heun_is_of_second_order(schedule):
    assert mean_order([rms_error(Heun(), schedule, schedule.times(num)) for num in NUM_STEPS]) >= 1.9


def test_dpmpp_2m_is_of_second_order(schedule):
    # DDPM's noise ends at r = 0.9935 and 0.9937, above the grid's.
    assert mean_order([rms_error(DPMpp2M(), schedule, even_in_lambda(schedule, num)) for num in NUM_STEPS]) >= 1.9


def test_unipc_is_of_third_order(schedule):
    assert mean_order([rms_error(UniPC(), schedule, even_in_lambda(schedule, num)) for num in NUM_STEPS]) >= 2.8


def test_dpmpp_2m_beats_ddim_fivefold_at_32_steps(schedule):
    times = schedule.times(32)
    assert 5 * rms_error(DPMpp2M(), schedule, times) < rms_error(DDIM(), schedule, times)


def standard_deviation(eta: float, schedule: Schedule, times: Tensor) -> Tensor:
    """Of what DDIM makes of random noise, with no chance in it: all is linear here, so image i shows what becomes of
    the noise of step i alone, and the squares of those add up.
    """

    def noise(i: int) -> Tensor:
        return torch.eye(len(times), dtype=torch.float64)[i].view(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    x = spread(schedule, times[0]) * noise(0)
    *_, last = DDIM(eta=eta)(gaussian_denoiser(schedule), schedule, x, times, noise)
    return last.x_t.square().sum(dim=0, keepdim=True).sqrt()


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_with_fresh_noise_the_spread_of_the_samples_approaches_that_of_the_data(schedule, eta):
    spreads = [standard_deviation(eta, schedule, schedule.times(num, "karras")) for num in NUM_STEPS]
    assert_close(spreads[-1], SCALES, rtol=0.02, atol=0)
    assert 0.9 <= mean_order([(one / SCALES - 1).abs().max() for one in spreads]) <= 1.1


def test_the_closed_form_solves_the_probability_flow():
    """The oracle itself: in r, the slope of x_t / (alpha + sigma) is eps_hat - x0_hat."""
    schedule = Flow()
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64).view(3, 1, 1, 1)
    h = 1e-6
    slope = (spread(schedule, t + h) - spread(schedule, t - h)) / (2 * h)
    x = spread(schedule, t)
    x0_hat = gaussian_denoiser(schedule)(x, t.flatten())
    assert_close(slope, (x - (1 - t) * x0_hat) / t - x0_hat, rtol=1e-6, atol=1e-8)
