"""Samplers: from noise to images in steps.

A sampler is called as `sampler(denoise, schedule, x, times, noise)` and yields a Step after each step:

- denoise: (x_t, t) to x0_hat; parameterization and guidance are inside it.
- x: (B, C, H, W), noise scaled to times[0].
- times: (num_steps + 1,), falling to 0; see Schedule.times.
- noise: noise(i) draws standard normal noise of x's shape for step i = 1, 2, ...
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

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


@dataclass
class Sampler(ABC):
    """What samplers have in common."""

    num_steps: Count = 15
    spacing: Spacing = "r"

    @abstractmethod
    def __call__(self, denoise: Denoise, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Step]:
        """See above."""


@dataclass
class DDIM(Sampler):
    """Song et al. 2021, arXiv 2010.02502, Eq. 12; with eta = 1 it is DDPM (Ho et al. 2020, arXiv 2006.11239)."""

    num_steps: Count = 20
    eta: Fraction = 0.0  # share of the noise that each step draws anew, 0 to 1

    def __call__(self, denoise: Denoise, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Step]:
        for i, ((t, now), (_, after)) in enumerate(pairwise(_levels(schedule, times)), start=1):
            x0_hat = denoise(x, t.to(x.dtype).expand(len(x)))
            eps_hat = (x - now.alpha * x0_hat) / now.sigma
            fresh = (now.sigma**2 - (now.alpha / after.alpha) ** 2 * after.sigma**2).clamp(min=0)
            q = self.eta * fresh.sqrt() * after.sigma / now.sigma
            x = after.alpha * x0_hat + (after.sigma**2 - q**2).clamp(min=0).sqrt() * eps_hat
            if q > 0:
                x = x + q * noise(i)
            yield Step(x, x0_hat)


@dataclass
class Heun(Sampler):
    """Second order: Heun's method for x_t / (alpha + sigma) as a function of r, whose slope is eps_hat - x0_hat.

    Two evaluations of the network a step, one in the last, which is Euler's (cf. Karras et al. 2022, arXiv 2206.00364).
    """

    num_steps: Count = 10

    def __call__(self, denoise: Denoise, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Step]:
        for (t, now), (t_after, after) in pairwise(_levels(schedule, times)):
            x0_hat = denoise(x, t.to(x.dtype).expand(len(x)))
            slope = (x - now.alpha * x0_hat) / now.sigma - x0_hat
            start, length = x / (now.alpha + now.sigma), after.r - now.r
            x = (after.alpha + after.sigma) * (start + length * slope)
            if after.sigma > 0:
                x0_hat = denoise(x, t_after.to(x.dtype).expand(len(x)))
                slope = (slope + (x - after.alpha * x0_hat) / after.sigma - x0_hat) / 2
                x = (after.alpha + after.sigma) * (start + length * slope)
            yield Step(x, x0_hat)


class DPMpp2M(Sampler):
    """DPM-Solver++(2M), a multistep method of second order in lambda = ln(alpha / sigma); one evaluation a step.

    Source: Lu et al. 2022, arXiv 2211.01095, Algorithm 2. The first and the last step are of first order; from pure
    noise, where lambda is infinite, the second too.
    """

    def __call__(self, denoise: Denoise, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Step]:
        before: tuple[Tensor, Tensor] | None = None  # x0_hat and the length in lambda of the step before
        for (t, now), (_, after) in pairwise(_levels(schedule, times)):
            x0_hat = denoise(x, t.to(x.dtype).expand(len(x)))
            length = (after.alpha / after.sigma).log() - (now.alpha / now.sigma).log()
            direction = x0_hat
            if before is not None and after.sigma > 0:
                direction = x0_hat + length / (2 * before[1]) * (x0_hat - before[0])
            x = after.sigma / now.sigma * x - after.alpha * torch.expm1(-length) * direction
            before = x0_hat, length
            yield Step(x, x0_hat)


class UniPC(Sampler):
    """A multistep predictor of second and a corrector of third order in lambda = ln(alpha / sigma).

    One evaluation a step: x0_hat at a predicted x_t corrects that x_t, then predicts the next. The x_t of a Step are
    predictions. The first and the last step are of first order; from pure noise, where lambda is infinite, the
    predictor of the second too. Source: Zhao et al. 2023, arXiv 2302.04867, UniPC-2 with B_2(h) = exp(-h) - 1.
    """

    def __call__(self, denoise: Denoise, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Step]:
        last: _Prediction | None = None
        for (t, now), (_, after) in pairwise(_levels(schedule, times)):
            x0_hat = denoise(x, t.to(x.dtype).expand(len(x)))
            if last is not None:
                x = last.corrected(x0_hat)
            h = (after.alpha / after.sigma).log() - (now.alpha / now.sigma).log()
            share = -torch.expm1(-h)
            first_order = after.sigma / now.sigma * x + after.alpha * share * x0_hat
            this = _Prediction(first_order, x0_hat, h, after.alpha * share)
            if last is not None and after.sigma > 0:
                this = this._replace(slope=(x0_hat - last.x0_hat) * h / last.h, ratio=last.h / h)
            last, x = this, this.first_order + this.weight / 2 * this.slope
            yield Step(x, x0_hat)


class _Prediction(NamedTuple):
    """A step of UniPC of length h in lambda; `slope` is the change of x0_hat over it, judged by the step before."""

    first_order: Tensor  # (B, C, H, W): x_t if x0_hat did not change
    x0_hat: Tensor  # (B, C, H, W), at its start
    h: Tensor
    weight: Tensor  # alpha (1 - exp(-h)), at its end
    slope: Tensor | float = 0.0  # (B, C, H, W)
    ratio: Tensor | None = None  # of the length of the step before to h; None: of first order

    def corrected(self, x0_hat: Tensor) -> Tensor:
        """x_t at its end, where the network predicts x0_hat. The weights solve the paper's Eq. 9 (R rho = b)."""
        change = x0_hat - self.x0_hat
        if self.ratio is None:
            return self.first_order + self.weight / 2 * change
        inverse = 1 / -torch.expm1(-self.h)
        b = inverse - 1 / self.h
        rho = (b - inverse + 2 * b / self.h) / (1 + self.ratio)
        return self.first_order + self.weight * (rho * self.slope + (b - rho) * change)


def _levels(schedule: Schedule, times: Tensor) -> Iterator[tuple[Tensor, Level]]:
    """Each time with its level: 0-dimensional tensors, which do not change the dtype of the images they scale."""
    return ((t, Level(*values)) for t, *values in zip(times, *schedule.at(times), strict=True))
