"""Noise from seeds: the same in any batch, on any device."""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from artart.io.images import to_pixels


class Between(NamedTuple):
    """An interpolation from one seed's noise to another's."""

    first: int
    second: int  # another seed
    share: float  # 0: the first's noise, to the bit; 1: the second's


def from_seeds(
    seeds: Sequence[int | Between], shape: Sequence[int], device: torch.device, skip: int = 0
) -> Callable[[int], Tensor]:
    """noise(i): standard normal (B, *shape), row k drawn from seeds[k] and skip + i alone."""

    def noise(i: int) -> Tensor:
        return torch.stack([_drawn(seed, skip + i, shape) for seed in seeds]).to(device)

    return noise


def _drawn(seed: int | Between, i: int, shape: Sequence[int]) -> Tensor:
    if isinstance(seed, Between):
        return slerp(_drawn(seed.first, i, shape), _drawn(seed.second, i, shape), seed.share)
    word = int(np.random.SeedSequence((seed, i)).generate_state(1)[0])
    return torch.randn(*shape, generator=Generator().manual_seed(word))


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation from a (share 0, to the bit) to b (share 1), which keeps the variance of the noise.

    a and b have one shape and differ in direction. Source: Shoemake 1985, "Animating rotation with quaternion curves";
    Song et al. 2021, arXiv 2010.02502, Eq. 67.
    """
    angle = math.acos(float(torch.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)))
    return math.sin((1 - share) * angle) / math.sin(angle) * a + math.sin(share * angle) / math.sin(angle) * b


def own_generators(x0: Tensor) -> list[Generator]:
    """A generator on the CPU for each image (B, C, H, W) in [-1, 1], seeded by its pixels."""
    return [Generator().manual_seed(zlib.crc32(pixels.numpy().tobytes())) for pixels in to_pixels(x0).cpu()]


def own_noise(x0: Tensor) -> Tensor:
    """Noise of the shape of images (B, C, H, W) in [-1, 1], each a function of its pixels, on their device."""
    return torch.stack([torch.randn(x0.shape[1:], generator=one) for one in own_generators(x0)]).to(x0)
