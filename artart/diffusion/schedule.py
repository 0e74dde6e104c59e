"""Noise schedules: x_t = alpha(t) * x0 + sigma(t) * eps with t in [0, 1]; 0 is clean, 1 pure noise.

The noise level r = sigma / (alpha + sigma) means the same in all schedules, so settings by noise level are in r.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Spacing = Literal["r", "t", "lambda", "karras"]

# sigma / alpha between which the spacings that need finite ends run (Karras et al. 2022, arXiv 2206.00364, Table 1).
MAX_SIGMA_TO_ALPHA, MIN_SIGMA_TO_ALPHA = 80.0, 0.002


class Level(NamedTuple):
    """A schedule at some times; all of one shape."""

    alpha: Tensor  # factor of x0
    sigma: Tensor  # factor of eps
    v_x0: Tensor  # v = v_x0 * x0 + v_eps * eps
    v_eps: Tensor

    @property
    def r(self) -> Tensor:
        return self.sigma / (self.alpha + self.sigma)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1), so that one number per image scales that image. Raises ValueError for other shapes."""
    if values.shape != images.shape[:1]:
        raise ValueError(f"need one value per image: got {tuple(values.shape)} for a batch of {len(images)}")
    return values.view(-1, *[1] * (images.ndim - 1))


class Noised(NamedTuple):
    """Images with noise."""

    x_t: Tensor  # (B, C, S, S) alpha x0 + sigma eps
    eps: Tensor  # (B, C, S, S) standard normal noise
    t: Tensor  # (B,) times
    level: Level  # the schedule at t, each (B, 1, 1, 1)


class Schedule(ABC):
    """alpha falls from 1 and sigma rises from 0 while t goes from 0 to 1."""

    @abstractmethod
    def at(self, t: Tensor) -> Level:
        """The level at times in [0, 1], of any shape."""

    @abstractmethod
    def time_at(self, r: Tensor) -> Tensor:
        """The time at which a noise level r in [0, 1] is reached; the last where it is not."""

    def for_images(self, t: Tensor, images: Tensor) -> Level:
        """The level at times (B,), shaped (B, 1, 1, 1) to scale images (B, C, H, W)."""
        return Level(*(per_image(values, images) for values in self.at(t)))

    def add_noise(self, x0: Tensor, eps: Tensor, r: Tensor) -> Noised:
        """Images (B, C, S, S) with noise of their shape at the noise levels r (B,)."""
        t = self.time_at(r.to(x0))
        level, eps = self.for_images(t, x0), eps.to(x0)
        return Noised(level.alpha * x0 + level.sigma * eps, eps, t, level)

    def times(self, num_steps: int, spacing: Spacing = "r", start: float = 1.0) -> Tensor:
        """Times for a sampler: (num_steps + 1,) float64, falling from the noise level r = start to 0.

        Args:
            num_steps: of the sampler.
            spacing: what is divided evenly: r; t; lambda = ln(alpha / sigma); or, with `karras`, (sigma / alpha)^(1/7)
                (Karras et al. 2022, Eq. 5). The last two have finite ends; the first and the last step connect them
                to start and 0.
            start: first noise level, in (0, 1], or (0.002, 1] for the last two; ValueError outside.
        """
        if not (0 if spacing in ("r", "t") else MIN_SIGMA_TO_ALPHA) < start <= 1:
            raise ValueError(f"start={start}: sampling by {spacing} starts at a noise level above 0.002, at most 1")
        one = torch.ones((), dtype=torch.float64)
        highest = min(one * start, self.at(one).r)
        if spacing == "r":
            return self.time_at(torch.linspace(highest, 0, num_steps + 1, dtype=torch.float64))
        if spacing == "t":
            return torch.linspace(self.time_at(highest), 0, num_steps + 1, dtype=torch.float64)
        finite = MAX_SIGMA_TO_ALPHA / (1 + MAX_SIGMA_TO_ALPHA)
        above = [highest] if highest > finite else []
        ratio = (highest / (1 - highest)).clamp(max=MAX_SIGMA_TO_ALPHA)
        num = num_steps - len(above)
        if spacing == "lambda":
            between = torch.linspace(ratio.log(), math.log(MIN_SIGMA_TO_ALPHA), num, dtype=torch.float64).exp()
        else:
            between = torch.linspace(ratio ** (1 / 7), MIN_SIGMA_TO_ALPHA ** (1 / 7), num, dtype=torch.float64) ** 7
        return self.time_at(torch.stack([*above, *(between / (1 + between)), 0 * one]))


class Flow(Schedule):
    """A straight line from image to noise (Lipman et al. 2023, arXiv 2210.02747); r is t, and v = eps - x0."""

    def at(self, t: Tensor) -> Level:
        return Level(1 - t, t, -torch.ones_like(t), torch.ones_like(t))

    def time_at(self, r: Tensor) -> Tensor:
        return r


class VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1; v = alpha eps - sigma x0 (Salimans and Ho 2022, arXiv 2202.00512)."""

    @abstractmethod
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]: ...

    def at(self, t: Tensor) -> Level:
        alpha, sigma = self.alpha_sigma(t)
        return Level(alpha, sigma, -sigma, alpha)


class Cosine(VariancePreserving):
    """A quarter of a circle (Nichol and Dhariwal 2021, arXiv 2102.09672, without its offset)."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # cos(pi/2) is not 0 in floating point, so alpha is written as the sine of the other angle.
        return torch.sin(math.pi / 2 * (1 - t)), torch.sin(math.pi / 2 * t)

    def time_at(self, r: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan2(r, 1 - r)


class Linear(VariancePreserving):
    """DDPM's betas, linear from 0.1 to 20 in continuous time (Song et al. 2021, arXiv 2011.13456, Eq. 33)."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        exponent = 0.1 * t + 9.95 * t**2
        return torch.exp(-exponent / 2), torch.sqrt(-torch.expm1(-exponent))

    def time_at(self, r: Tensor) -> Tensor:
        exponent = torch.log1p((r / (1 - r)) ** 2)  # 1 / alpha^2 = 1 + (sigma / alpha)^2
        solution = 2 * exponent / (0.1 + torch.sqrt(0.01 + 4 * 9.95 * exponent))  # no difference of near numbers
        return torch.where(exponent.isinf(), 1.0, solution).clamp(max=1)


class Table(VariancePreserving):
    """A list of alpha^2, as other libraries store it; between its entries the angle is interpolated.

    Entry k of n belongs to t = (k + 1) / n.
    """

    def __init__(self, alphas_cumprod: Sequence[float]) -> None:
        """Raises ValueError unless the values lie in [0, 1] and fall."""
        squares = torch.tensor([1.0, *alphas_cumprod], dtype=torch.float64)
        if len(squares) < 2 or not (squares.diff() < 0).all() or squares[-1] < 0:
            raise ValueError("schedule.alphas_cumprod: must be falling numbers, the first below 1, the last at least 0")
        self.angles = torch.atan2((1 - squares).sqrt(), squares.sqrt())
        self.knots = torch.linspace(0, 1, len(squares), dtype=torch.float64)
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        knots, angles = self._like(t)
        angle = _interpolated(t, knots, angles)
        return torch.cos(angle), torch.sin(angle)

    def time_at(self, r: Tensor) -> Tensor:
        knots, angles = self._like(r)
        return _interpolated(torch.atan2(r, 1 - r), angles, knots)

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Knots and angles with the device and type of x, copied once."""
        if (key := (x.device, x.dtype)) not in self._copies:
            self._copies[key] = self.knots.to(x), self.angles.to(x)
        return self._copies[key]


def _interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """The piecewise linear function through (knots, values), constant beyond the last."""
    right = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    share = ((x - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], share)
