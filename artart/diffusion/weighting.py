"""Weights of the squared x0 error by noise level: a Level to weights of its shape."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from artart.diffusion.schedule import Level

Name = Literal["velocity", "min_snr", "uniform"]

MIN_SIGMA = 0.05  # a floor of the loss alone: below it the error of v is mostly rounding


def velocity(level: Level) -> Tensor:
    """The error of v: 1 / sigma^2, with a floor under sigma (Li and He 2025, arXiv 2511.13720)."""
    return level.sigma.clamp(min=MIN_SIGMA) ** -2


def min_snr(level: Level) -> Tensor:
    """The signal-to-noise ratio, at most 5 (Hang et al. 2023, arXiv 2303.09556)."""
    return (level.alpha / level.sigma).square().clamp(max=5)


def uniform(level: Level) -> Tensor:
    return torch.ones_like(level.sigma)


WEIGHTINGS: dict[Name, Callable[[Level], Tensor]] = {"velocity": velocity, "min_snr": min_snr, "uniform": uniform}
