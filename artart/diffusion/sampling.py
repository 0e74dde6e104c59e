"""From noise to images: a trained network, its schedule and parameterization, and a sampler."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from artart.diffusion.first_stage import FirstStage
from artart.diffusion.guidance import NO_GUIDANCE, Guidance, denoiser, null_labels
from artart.diffusion.noise import Between, from_seeds
from artart.diffusion.parameterization import Parameterization
from artart.diffusion.samplers import Denoise, Sampler, Step
from artart.diffusion.schedule import Schedule, per_image


class NoiseProcess(Protocol):
    """The noise that a network was trained with, such as objectives.diffusion.Diffusion."""

    schedule: Schedule
    parameterization: Parameterization
    first_stage: FirstStage


class Given(NamedTuple):
    """Images to start sampling from."""

    x0: Tensor  # (B, C, S, S) in [-1, 1]; for `sample_steps` latents, if there is a first stage
    strengths: tuple[float, ...] = (1.0,)  # successive noise levels r in (0, 1] to refine the images from
    repaint: Tensor | None = None  # (1, S, S) bool: pixels to paint anew; None: all


class Towards(NamedTuple):
    """The second of two conditions between which images lie: their x0_hat are mixed at each step."""

    y: Tensor  # (B, K)
    share: Tensor  # (B,) in [0, 1], of the second


@torch.no_grad()
def sample_steps(
    net: nn.Module,
    process: NoiseProcess,
    sampler: Sampler,
    y: Tensor,
    seeds: Sequence[int | Between],
    guidance: Guidance = NO_GUIDANCE,
    given: Given | None = None,
    towards: Towards | None = None,
) -> Iterator[Step]:
    """Sample images with the labels y (B, K), image k from seeds[k] alone; yield after each step.

    With a first stage these are latents.

    The `given` images are noised and refined once for each of their strengths, each time in all steps of the sampler.
    Source: Meng et al. 2022 (SDEdit), arXiv 2108.01073; for several strengths Lugmayr et al. 2022 (RePaint), arXiv
    2201.09865.
    """
    shape = cast(int, net.channels), cast(int, net.image_size), cast(int, net.image_size)
    schedule, parameterization, x0 = process.schedule, process.parameterization, None
    none = torch.tensor(guidance.negative, device=y.device) if guidance.negative else null_labels(net, y.device)
    max_value = process.first_stage.max_value
    denoise_for = partial(denoiser, net, schedule, parameterization, none=none, guidance=guidance, max_value=max_value)
    denoise = denoise_for(y)
    if towards is not None:
        denoise = _between(denoise, denoise_for(towards.y), towards.share)
    if given is not None:
        x0, denoise = given.x0, _keeping(denoise, given)
    for number, strength in enumerate(given.strengths if given is not None else (1.0,)):
        noise = from_seeds(seeds, shape, y.device, skip=number * (sampler.num_steps + 1))
        times = schedule.times(sampler.num_steps, sampler.spacing, min(strength, parameterization.start))
        level = schedule.at(times[:1])
        x = level.sigma.to(y.device, torch.float32) * noise(0)
        if x0 is not None:
            x = x + level.alpha.to(x) * x0
        x = x.contiguous(memory_format=torch.channels_last)
        for step in sampler(denoise, schedule, x, times, noise):
            x0 = step.x_t
            yield step


def sample_images(
    net: nn.Module,
    process: NoiseProcess,
    sampler: Sampler,
    y: Tensor,
    seeds: Sequence[int | Between],
    guidance: Guidance = NO_GUIDANCE,
    batch_size: int = 64,
    given: Given | None = None,
    on_step: Callable[[Step], object] = lambda _: None,
    towards: Towards | None = None,
) -> Iterator[Tensor]:
    """Yield finished images in batches. Each of M given images becomes len(y) / M consecutive ones.

    With a first stage `on_step` sees latents. Given pixels outside of `repaint` are kept exactly.
    """
    first_stage, own = process.first_stage, None
    if given is not None:
        repaint = None if given.repaint is None else first_stage.repaint(given.repaint).to(y.device)
        encoded = first_stage.encode(given.x0.to(y.device))
    for start in range(0, len(y), batch_size):
        part = slice(start, start + batch_size)
        if given is not None:
            rows = torch.arange(start, min(start + batch_size, len(y))) * len(given.x0) // len(y)
            own = Given(encoded[rows], given.strengths, repaint)
        toward = towards and Towards(towards.y[part], towards.share[part])
        for step in sample_steps(net, process, sampler, y[part], seeds[part], guidance, own, toward):
            on_step(step)
            x_t = step.x_t
        images = first_stage.decode(x_t)
        if given is not None and given.repaint is not None:  # also undoes the samplers' rounding
            images = torch.where(given.repaint.to(y.device), images, given.x0[rows].to(y.device))
        yield images


def _between(first: Denoise, second: Denoise, share: Tensor) -> Denoise:
    """A denoiser whose x0_hat lies between those of two others."""
    return lambda x_t, t: torch.lerp(first(x_t, t), second(x_t, t), per_image(share, x_t))


def _keeping(denoise: Denoise, given: Given) -> Denoise:
    """A denoiser whose x0_hat is the given image outside of `repaint`."""
    if (repaint := given.repaint) is None:
        return denoise
    return lambda x_t, t: torch.where(repaint, denoise(x_t, t), given.x0)
