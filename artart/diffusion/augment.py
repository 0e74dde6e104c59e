"""Augmentation conditioning: training images are moved, rotated and stretched; the network gets the parameters.

Sampling asks for no augmentation, so samples do not show it. Source: Karras et al. 2022, arXiv
2206.00364, Appendix F.2.
"""

import math
from typing import Final

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from artart.io.ranges import Fraction

AUGMENT_DIM: Final = 9  # numbers that describe an augmentation (EDM's name)
LOG_SCALE: Final = 0.2  # standard deviation of the binary logarithm of scales and stretches
SHIFT: Final = 0.125  # standard deviation of moves, in sides of the image


class Augment:
    """Flips, scale, rotation, stretch and move, each drawn independently for each image."""

    def __init__(self, probability: Fraction, flips: bool = False) -> None:
        """
        Args:
            probability: of each operation, 0 to 1.
            flips: flip left to right and upside down; not for handwriting.
        """
        self.probability = probability
        self.flips = flips

    def draw(self, num: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Matrices (num, 2, 3) from places in the result to places in the image, and labels (num, AUGMENT_DIM)."""
        device = generator.device

        def happens() -> Tensor:
            return (torch.rand(num, generator=generator, device=device) < self.probability).float()

        def normal() -> Tensor:
            return torch.randn(num, generator=generator, device=device)

        def uniform() -> Tensor:
            return (2 * torch.rand(num, generator=generator, device=device) - 1) * math.pi

        flip_x, flip_y = (happens() * self.flips for _ in range(2))
        scale = happens() * LOG_SCALE * normal()
        turn = happens() * uniform()
        stretch_by, stretch_to = happens() * LOG_SCALE * normal(), uniform()
        moved = happens()
        move_x, move_y = moved * SHIFT * normal(), moved * SHIFT * normal()
        with torch.autocast(device.type, enabled=False):  # bf16 would round places to half pixels
            matrix = _diagonal(1 - 2 * flip_x, 1 - 2 * flip_y)
            matrix = _diagonal(2**-scale, 2**-scale) @ matrix
            matrix = _rotation(turn) @ matrix
            matrix = _rotation(stretch_to) @ _diagonal(2**-stretch_by, 2**stretch_by) @ _rotation(-stretch_to) @ matrix
        moves = -2 * torch.stack([move_x, move_y], dim=1)[:, :, None]  # grid_sample's sides are 2
        augment_labels = [flip_x, flip_y, scale, turn.cos() - 1, turn.sin()]
        twice = 2 * stretch_to  # which a stretch and its inverse across it share
        augment_labels += [stretch_by * twice.cos(), stretch_by * twice.sin(), move_x, move_y]
        return torch.cat([matrix, moves], dim=2), torch.stack(augment_labels, dim=1)

    def apply(self, x0: Tensor, matrices: Tensor, augment_labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augment images (B, C, S, S), with reflection at the edges; their labels (B, AUGMENT_DIM) come along.

        Images without augmentation, whose labels are zeros, keep every bit.
        """
        matrices, augment_labels = matrices.to(x0), augment_labels.to(x0)
        with torch.autocast(x0.device.type, enabled=False):
            places = F.affine_grid(matrices, list(x0.shape), align_corners=False)
            changed = F.grid_sample(x0, places, mode="bilinear", padding_mode="reflection", align_corners=False)
        is_changed = (augment_labels != 0).any(dim=1)[:, None, None, None]
        return torch.where(is_changed, changed, x0), augment_labels


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    """(B,) and (B,) to (B, 2, 2)."""
    return torch.diag_embed(torch.stack([x, y], dim=1))


def _rotation(angle: Tensor) -> Tensor:
    """(B,) to (B, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
