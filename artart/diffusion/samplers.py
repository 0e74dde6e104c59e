"""Samplers: from noise to images in steps.

A sampler is called as `sampler(denoise, schedule, x, times, noise)` and yields a Step after each step:

- denoise: (x_t, t) to x0_hat; parameterization and guidance are inside it.
- x: (B, C, H, W), noise scaled to times[0].
- times: (num_steps + 1,), falling to 0; see Schedule.times.
- noise: noise(i) draws standard normal noise of x's shape for step i = 1, 2, ...
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from artart.diffusion.schedule import Level, Schedule, Spacing
from artart.io.ranges import Count, Fraction

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]


class Step(NamedTuple):
    """The state of a sampler after a step."""

    x_t: Tensor  # (B, C, H, W): noisy until the last step
    x0_hat: Tensor  # (B, C, H, W): the predicted clean images


class Sampler(Protocol):
    num_steps: int
    spacing: Spacing

    def __call__(
        self, denoise: Denoise, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise
    ) -> Iterator[Step]: ...


@dataclass
class DDIM:
    """Song et al. 2021, arXiv 2010.02502, Eq. 12; with eta = 1 it is DDPM (Ho et al. 2020, arXiv 2006.11239)."""

    num_steps: Count = 50
    spacing: Spacing = "r"
    eta: Fraction = 0.0  # share of the noise that each step draws anew, 0 to 1

    def __call__(self, denoise: Denoise, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Step]:
        for i, ((t, now), (_, after)) in enumerate(pairwise(_levels(schedule, times)), start=1):
            x0_hat = denoise(x, t.to(x).expand(len(x)))
            eps_hat = (x - now.alpha * x0_hat) / now.sigma
            fresh = (now.sigma**2 - (now.alpha / after.alpha) ** 2 * after.sigma**2).clamp(min=0)
            q = self.eta * fresh.sqrt() * after.sigma / now.sigma
            x = after.alpha * x0_hat + (after.sigma**2 - q**2).clamp(min=0).sqrt() * eps_hat
            if q > 0:
                x = x + q * noise(i)
            yield Step(x, x0_hat)


@dataclass
class Heun:
    """Second order: Heun's method for x_t / (alpha + sigma) as a function of r, whose slope is eps_hat - x0_hat.

    Two evaluations of the network a step, one in the last, which is Euler's (cf. Karras et al. 2022, arXiv 2206.00364).
    """

    num_steps: Count = 30
    spacing: Spacing = "r"

    def __call__(self, denoise: Denoise, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Step]:
        for (t, now), (t_after, after) in pairwise(_levels(schedule, times)):
            x0_hat = denoise(x, t.to(x).expand(len(x)))
            slope = (x - now.alpha * x0_hat) / now.sigma - x0_hat
            start, length = x / (now.alpha + now.sigma), after.r - now.r
            x = (after.alpha + after.sigma) * (start + length * slope)
            if after.sigma > 0:
                x0_hat = denoise(x, t_after.to(x).expand(len(x)))
                slope = (slope + (x - after.alpha * x0_hat) / after.sigma - x0_hat) / 2
                x = (after.alpha + after.sigma) * (start + length * slope)
            yield Step(x, x0_hat)


@dataclass
class DPMpp2M:
    """DPM-Solver++(2M), a multistep method of second order in lambda = ln(alpha / sigma); one evaluation a step.

    Source: Lu et al. 2022, arXiv 2211.01095, Algorithm 2. The first and the last step are of first order.
    """

    num_steps: Count = 30
    spacing: Spacing = "r"

    def __call__(self, denoise: Denoise, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Step]:
        before: tuple[Tensor, Tensor] | None = None  # x0_hat and the length in lambda of the step before
        for (t, now), (_, after) in pairwise(_levels(schedule, times)):
            x0_hat = denoise(x, t.to(x).expand(len(x)))
            length = (after.alpha / after.sigma).log() - (now.alpha / now.sigma).log()
            direction = x0_hat
            if before is not None and after.sigma > 0:
                direction = x0_hat + length / (2 * before[1]) * (x0_hat - before[0])
            x = after.sigma / now.sigma * x - after.alpha * torch.expm1(-length) * direction
            before = x0_hat, length
            yield Step(x, x0_hat)


@dataclass
class MultistepConsistency:
    """x0_hat at each time, with new noise (Song et al. 2023, arXiv 2303.01469, Algorithm 1)."""

    num_steps: Count = 2
    spacing: Spacing = "r"

    def __call__(self, denoise: Denoise, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Step]:
        for i, ((t, _), (_, after)) in enumerate(pairwise(_levels(schedule, times)), start=1):
            x = x0_hat = denoise(x, t.to(x).expand(len(x)))
            if after.sigma > 0:
                x = after.alpha * x0_hat + after.sigma * noise(i)
            yield Step(x, x0_hat)


def _levels(schedule: Schedule, times: Tensor) -> Iterator[tuple[Tensor, Level]]:
    """Each time with its level: 0-dimensional tensors, which do not change the dtype of the images they scale."""
    return ((t, Level(*values)) for t, *values in zip(times, *schedule.at(times), strict=True))
