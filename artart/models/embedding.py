"""What a network is told besides the picture: the time and the class."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

T = TypeVar("T", bound=nn.Module)


class Condition(nn.Module):
    """Time and class as one vector."""

    def __init__(self, num_classes: int, width: int) -> None:
        """`num_classes` may be 0; label `num_classes` stands for "no class"."""
        super().__init__()
        self.num_classes = num_classes
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    def forward(self, x: Tensor, t: Tensor | None, y: Tensor | None) -> Tensor:
        """(B, width) for pictures x (B, ...), times t (B,) in [0, 1] (None: 0) and labels y (B,) (None: no class)."""
        t = x.new_zeros(len(x)) if t is None else t
        vector = self.time(fourier(t, 64))
        if self.label is not None:
            y = torch.full((len(x),), self.num_classes, device=x.device) if y is None else y
            vector = vector + self.label(y)
        return vector


def fourier(t: Tensor, width: int) -> Tensor:
    """(B,) in [0, 1] to sines and cosines (B, width) with wavelengths from 2 pi / 1000 to 20 pi.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5, for 1000 t.
    """
    frequencies = torch.logspace(math.log10(1000), -1, width // 2, device=t.device)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ScaleShiftNorm(nn.Module):
    """Group normalisation whose scale and shift come from the condition, which starts without influence."""

    def __init__(self, channels: int, width: int, num_groups: int = 8) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels)
        self.scale_shift = zeroed(nn.Linear(width, 2 * channels))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.scale_shift(F.silu(condition))[:, :, None, None].chunk(2, dim=1)
        return self.norm(x) * (1 + scale) + shift


def zeroed(layer: T) -> T:
    """The layer with weights and bias zero: what it adds begins as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
