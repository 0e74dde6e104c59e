"""Differentiable augmentation of what a discriminator sees, real and generated alike.

Source: Zhao et al. 2020, arXiv 2006.10738: colour, translation and cutout. Karras et al. 2020, arXiv 2006.06676, apply
each operation with a probability, so that generated images do not show it.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from artart.diffusion.schedule import per_image

SHIFT = 1 / 8  # greatest translation, in sides of the image
HOLE = 1 / 2  # side of a cutout, in sides of the image


class Operations(NamedTuple):
    """What happens to each of n images; `happens` (n,) bool and `drawn` (n,) in [0, 1) by operation."""

    happens: Tensor  # (5, n): brightness, saturation, contrast, translation, cutout
    drawn: Tensor  # (7, n): brightness, saturation, contrast, translation x and y, cutout x and y

    def chunk(self, num: int, index: int) -> "Operations":
        """The index-th of `num` equal parts of the images."""
        return Operations(*(one.chunk(num, dim=1)[index] for one in self))


def draw(num: int, probability: float, generator: Generator) -> Operations:
    """Operations of `num` images, each of which happens with a probability, independently."""
    happens, drawn = (torch.rand(rows, num, generator=generator, device=generator.device) for rows in (5, 7))
    return Operations(happens < probability, drawn)


def augment(x: Tensor, operations: Operations) -> Tensor:
    """Augment images (B, C, S, S) in [-1, 1]; images to which nothing happens keep every bit."""
    brightness, saturation, contrast, translation, cutout = (per_image(one, x) for one in operations.happens)
    a, b, c, right, down, hole_x, hole_y = (per_image(one, x) for one in operations.drawn.to(x))
    x = torch.where(brightness, x + a - 0.5, x)
    grey, mean = x.mean(dim=1, keepdim=True), x.mean(dim=(1, 2, 3), keepdim=True)
    x = torch.where(saturation, grey + 2 * b * (x - grey), x)
    x = torch.where(contrast, mean + (0.5 + c) * (x - mean), x)
    x = torch.where(translation, _moved(x, right, down), x)
    return torch.where(cutout & _holes(x, hole_x, hole_y), torch.zeros_like(x), x)


def _moved(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Move images by whole pixels; zeros, a mid grey, come in. The shares are (B, 1, 1, 1) in [0, 1)."""
    side, places = x.shape[-1], torch.arange(x.shape[-1], device=x.device)
    most = round(SHIFT * side)
    for share, dim in ((right, 3), (down, 2)):
        shift = (share * (2 * most + 1)).long() - most
        source = places.view(-1, *[1] * (3 - dim)) - shift
        moved = x.gather(dim, source.clamp(0, side - 1).expand_as(x))
        x = torch.where((source >= 0) & (source < side), moved, torch.zeros_like(x))
    return x


def _holes(x: Tensor, hole_x: Tensor, hole_y: Tensor) -> Tensor:
    """(B, 1, S, S) bool: a square of each image, which may reach over its edge."""
    side = x.shape[-1]
    places = torch.arange(side, device=x.device)
    centres = ((hole_x * side).long(), (hole_y * side).long())
    near_x, near_y = (
        (places.view(view) - one + 0.5).abs() < HOLE * side / 2
        for view, one in zip(((1, -1), (-1, 1)), centres, strict=True)
    )
    return near_x & near_y
