"""Distributions of the noise levels r in [0, 1] that a network is trained at."""

import math

import torch
from torch import Generator, Tensor

from artart.io.ranges import ImageSize


class LogitNormal:
    """r whose logit is normal (Esser et al. 2024, arXiv 2403.03206, Eq. 19), kept within 0.001 and 0.999."""

    def __init__(self, image_size: ImageSize, mean: float | None = None, std: float = 1.3) -> None:
        """
        Args:
            image_size: side of the images in pixels.
            mean: of the logit; None: 0.8 + ln(image_size / 256) / 2. Larger images need more noise, since their
                neighbouring pixels are alike; 0.8 at 256 px is that of Li and He 2025, arXiv 2511.13720. The argument
                of Hoogeboom et al. 2023, arXiv 2301.11093, gives the whole logarithm; with that and a std of 1 small
                images are hardly trained at high levels, which fix the composition (docs/results/diffusion.md).
            std: of the logit.
        """
        self.mean = 0.8 + math.log(image_size / 256) / 2 if mean is None else mean
        self.std = std

    def __call__(self, num: int, generator: Generator) -> Tensor:
        """(num,) on the generator's device."""
        normal = torch.randn(num, generator=generator, device=generator.device)
        return torch.sigmoid(self.mean + self.std * normal).clamp(0.001, 0.999)


class Uniform:
    """All noise levels alike, in (0, 1]."""

    def __call__(self, num: int, generator: Generator) -> Tensor:
        """(num,) on the generator's device."""
        return 1 - torch.rand(num, generator=generator, device=generator.device)
