"""Samplers with the ideal denoiser of a finite set of images: E[x0 | x_t], a softmax over the set."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from artart.config.build import option
from artart.diffusion.samplers import DDIM, Denoise, DPMpp2M, Heun, Sampler, Step, UniPC
from artart.diffusion.schedule import Flow, Schedule

B, SHAPE = 64, (3, 4, 4)
SAMPLERS = {
    "ddim": DDIM(),
    "ddim, half of the noise anew": DDIM(eta=0.5),
    "ddpm": DDIM(eta=1.0),
    "heun": Heun(),
    "dpmpp_2m": DPMpp2M(),
    "unipc": UniPC(),
}
samplers = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
deterministic = pytest.mark.parametrize("sampler", [DDIM(), Heun(), DPMpp2M(), UniPC()], ids=type)
spacings = pytest.mark.parametrize("spacing", ["r", "t", "lambda", "karras"])


def normal(seed: int, num: int = B) -> Tensor:
    return torch.randn(num, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noise(i: int) -> Tensor:
    return normal(seed=100 + i)


def no_noise(i: int) -> Tensor:
    raise AssertionError("a deterministic sampler asks for no noise")


DATA = normal(seed=1, num=5).clamp(-1, 1)


def ideal_denoiser(data: Tensor, schedule: Schedule) -> Denoise:
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        assert t.shape == x_t.shape[:1]
        level = schedule.for_images(t, x_t)
        distances = torch.cdist(x_t.flatten(1), (level.alpha[:1, 0, 0] * data.flatten(1))) ** 2
        chances = torch.softmax(-distances / (2 * level.sigma.flatten(1) ** 2), dim=1)
        return (chances @ data.flatten(1)).view_as(x_t)

    return denoise


class Recorded:
    """A denoiser that remembers what it was asked and what it said."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise
        self.asked: list[tuple[Tensor, Tensor]] = []
        self.said: list[Tensor] = []

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append((x_t, t))
        self.said.append(self.denoise(x_t, t))
        return self.said[-1]


def sampled(sampler: Sampler, denoise: Denoise, schedule: Schedule, times: Tensor, noise=noise) -> list[Step]:
    return list(sampler(denoise, schedule, schedule.at(times[0]).sigma * normal(seed=2), times, noise))


# Where they arrive


@samplers
@spacings
def test_every_sampler_lands_on_the_data_and_reaches_all_of_it(sampler, spacing, schedule):
    times = schedule.times(30, spacing)
    x = sampled(sampler, ideal_denoiser(DATA, schedule), schedule, times)[-1].x_t
    distances, nearest = torch.cdist(x.flatten(1), DATA.flatten(1)).min(dim=1)
    assert distances.max() < 1e-6
    assert set(nearest.tolist()) == set(range(len(DATA)))


@deterministic
@spacings
def test_with_one_image_the_noise_stays_the_same_along_the_path(sampler, spacing, schedule):
    point, eps = DATA[:1], normal(seed=3)
    times = schedule.times(12, spacing)
    levels = schedule.at(times)
    x = levels.alpha[0] * point + levels.sigma[0] * eps
    steps = list(sampler(ideal_denoiser(point, schedule), schedule, x, times, no_noise))
    for step, alpha, sigma in zip(steps, levels.alpha[1:], levels.sigma[1:], strict=True):
        assert_close(step.x_t, alpha * point + sigma * eps)
        assert_close(step.x0_hat, point.expand_as(x))


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_a_share_of_the_noise_is_drawn_anew(schedule, eta):
    """Song et al. 2021, Eq. 12 and 16, with their alpha, which is ours squared where alpha^2 + sigma^2 = 1."""
    point, eps = DATA[:1], normal(seed=3)
    times = schedule.times(12)
    alphas, sigmas = schedule.at(times)[:2]
    squares = 1 / (1 + (sigmas / alphas) ** 2)
    x = alphas[0] * point + sigmas[0] * eps
    steps = DDIM(eta=eta)(ideal_denoiser(point, schedule), schedule, x, times, noise)
    for i, step in enumerate(steps, start=1):
        now, after = squares[i - 1], squares[i]
        anew = eta * ((1 - after) / (1 - now)).sqrt() * (1 - now / after).sqrt()
        eps = ((1 - after - anew**2).sqrt() * eps + anew * noise(i)) / (1 - after).sqrt() if after < 1 else eps
        assert_close(step.x_t, alphas[i] * point + sigmas[i] * eps)


@samplers
def test_schedules_differ_in_nothing_but_the_scale_of_the_path(sampler, schedule):
    """x_t / (alpha + sigma) as a function of r is the same for all, and so are the noise and what is known of x0."""
    r = schedule.at(schedule.times(10)).r
    paths = []
    for one in (schedule, Flow()):
        levels = one.at(one.time_at(r))
        x = levels.sigma[0] * normal(seed=2) + levels.alpha[0] * DATA[0]
        steps = sampler(ideal_denoiser(DATA, one), one, x, one.time_at(r), noise)
        scales = (levels.alpha + levels.sigma)[1:]
        paths.append([(x_t / scale, x0_hat) for (x_t, x0_hat), scale in zip(steps, scales, strict=True)])
    assert_close(*paths)


# What they ask and what they tell


@samplers
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_a_step_is_reported_for_each_of_the_times(sampler, num_steps):
    schedule = Flow()
    denoise = Recorded(ideal_denoiser(DATA, schedule))
    steps = sampled(sampler, denoise, schedule, schedule.times(num_steps))
    assert len(steps) == num_steps
    assert len(denoise.asked) == (2 * num_steps - 1 if isinstance(sampler, Heun) else num_steps)
    assert_close(steps[-1].x_t, steps[-1].x0_hat)


@samplers
def test_a_step_tells_what_the_network_said_last(sampler, schedule):
    denoise = Recorded(ideal_denoiser(DATA, schedule))
    steps = sampled(sampler, denoise, schedule, schedule.times(5))
    said = [*denoise.said[1::2], denoise.said[-1]] if isinstance(sampler, Heun) else denoise.said
    for step, x0_hat in zip(steps, said, strict=True):
        assert_close(step.x0_hat, x0_hat, rtol=0, atol=0)


@samplers
def test_the_network_is_asked_at_the_times_of_what_it_is_shown(sampler, schedule):
    denoise = Recorded(ideal_denoiser(DATA, schedule))
    times = schedule.times(4)
    steps = sampled(sampler, denoise, schedule, times)
    twice = [0, 1, 1, 2, 2, 3, 3] if isinstance(sampler, Heun) else [0, 1, 2, 3]
    assert_close(torch.stack([t for _, t in denoise.asked]), times[twice, None].expand(-1, B), rtol=0, atol=0)
    shown = [x_t for x_t, _ in denoise.asked]
    for x_t, step in zip(shown[2::2] if isinstance(sampler, Heun) else shown[1:], steps[:-1], strict=True):
        assert_close(x_t, step.x_t, rtol=0, atol=0)


@samplers
def test_noise_is_drawn_once_a_step_and_never_in_the_last(sampler, schedule):
    drawn = []

    def noise(i: int) -> Tensor:
        drawn.append(i)
        return normal(seed=i)

    sampled(sampler, ideal_denoiser(DATA, schedule), schedule, schedule.times(4), noise)
    assert drawn == ([1, 2, 3] if getattr(sampler, "eta", 0) > 0 else [])


@samplers
def test_images_keep_their_type(sampler, schedule):
    data, times = DATA.float(), schedule.times(4)
    denoise = Recorded(ideal_denoiser(data, schedule))
    steps = sampler(denoise, schedule, normal(seed=2).float(), times, lambda i: normal(seed=i).float())
    assert all(x_t.dtype == x0_hat.dtype == torch.float32 for x_t, x0_hat in steps)
    assert all(x_t.dtype == t.dtype == torch.float32 for x_t, t in denoise.asked)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun", "unipc"])
def test_defaults_are_those_of_conf(name):
    settings = option("sampler", name)
    sampler = type(SAMPLERS[name])
    assert settings.pop("_target_") == f"{sampler.__module__}.{sampler.__name__}"
    assert vars(sampler()) == settings
