"""Noise that belongs to a picture: the same in any batch, on any device."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from artart.images import to_pixels


def from_seeds(seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> Callable[[int], Tensor]:
    """noise(i): standard normal (B, *shape), row k drawn from seeds[k] and i alone."""

    def noise(i: int) -> Tensor:
        words = (int(np.random.SeedSequence((seed, i)).generate_state(1)[0]) for seed in seeds)
        return torch.stack([torch.randn(*shape, generator=Generator().manual_seed(word)) for word in words]).to(device)

    return noise


def own_generators(x0: Tensor) -> list[Generator]:
    """A generator on the CPU for each picture (B, C, H, W) in [-1, 1], seeded by its pixels."""
    return [Generator().manual_seed(zlib.crc32(pixels.numpy().tobytes())) for pixels in to_pixels(x0).cpu()]
