"""What a network is told besides the picture: the time, the labels, and how the picture was augmented."""

import math
from collections.abc import Sequence
from typing import Annotated, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from artart.diffusion.augment import NUM_TOLD

NumClasses = Annotated[int, Field(ge=0)] | Sequence[int] | None  # by column of labels, or of the only one

T = TypeVar("T", bound=nn.Module)


class Condition(nn.Module):
    """Time, labels and augmentation as one vector."""

    def __init__(self, num_classes: NumClasses, width: int, augmented: bool | None = None) -> None:
        """
        Args:
            num_classes: how many values each column of labels has, or that of the only one; may be 0. In column k the
                label `num_classes[k]` stands for "none". None: 0.
            width: of the vector.
            augmented: whether it is told how pictures were augmented.
        """
        super().__init__()
        self.num_classes = tuple(num_classes) if isinstance(num_classes, Sequence) else (num_classes or 0,)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        num_rows = sum(self.num_classes) + len(self.num_classes)  # the columns' tables, one below the other
        self.label = nn.Embedding(num_rows, width) if any(self.num_classes) else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)
        # Zeros stand for a picture as it is, so there is no bias.
        self.augmentation = zeroed(nn.Linear(NUM_TOLD, width, bias=False)) if augmented else None

    def forward(self, x: Tensor, t: Tensor | None, y: Tensor | None, told: Tensor | None = None) -> Tensor:
        """(B, width) for pictures x (B, ...).

        Args:
            x: the pictures.
            t: times (B,) in [0, 1]; None: 0.
            y: labels (B, K), or (B,) if there is one column; None: none.
            told: how they were augmented (B, NUM_TOLD); None: not.
        """
        t = x.new_zeros(len(x)) if t is None else t
        vector = self.time(fourier(t, 64))
        if self.label is not None:
            none = torch.tensor(self.num_classes, device=x.device)
            y = none.expand(len(x), -1) if y is None else y.reshape(-1, len(none))
            vector = vector + self.label(y + F.pad((none + 1).cumsum(0), (1, -1))).sum(dim=1)
        if self.augmentation is not None:
            vector = vector + self.augmentation(x.new_zeros(len(x), NUM_TOLD) if told is None else told)
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
