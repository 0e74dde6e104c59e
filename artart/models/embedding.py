"""The condition of a network: time, labels or a prompt, and how the image was augmented."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from artart.io.late import constant, kept
from artart.models.text import FrozenPrompts, Prompt, Text, TextEncoder

AugmentDim = Annotated[int, Field(ge=0)] | None  # numbers that describe an augmentation; None: 0
NumClasses = Annotated[int, Field(ge=0)] | Sequence[int] | None  # by column of labels, or of the only one

T = TypeVar("T", bound=nn.Module)


class Condition(NamedTuple):
    """What a network is conditioned on."""

    vector: Tensor  # (B, emb_channels); of a prompt it has the mean
    prompt: Prompt | None  # its tokens have as many channels


class ConditionEmbedding(nn.Module):
    """Time, labels or prompt, and augmentation as one vector; and the tokens of the prompt."""

    def __init__(
        self, num_classes: NumClasses, emb_channels: int, augment_dim: AugmentDim = None, text: Text = None
    ) -> None:
        """
        Args:
            num_classes: number of classes of each column of labels, or of the only one; may be 0. In column k the
                label `num_classes[k]` means none. None: 0.
            emb_channels: of the vector.
            augment_dim: numbers that describe how an image was augmented; 0 or None: it takes none.
            text: see `text.Text`: prompts, which then replace labels in y. None: no prompts.

        Raises ValueError if it has both labels and prompts.
        """
        super().__init__()
        if text and num_classes:
            raise ValueError(f"model.num_classes={num_classes}: prompts replace labels; set it to null")
        self.num_classes, self.text = columns_of(num_classes), None
        self.time = nn.Sequential(nn.Linear(64, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels))
        self.label = LabelEmbedding(self.num_classes, emb_channels, std=0.02) if any(self.num_classes) else None
        # Zeros mean no augmentation, so there is no bias.
        self.augmentation = zero_module(nn.Linear(augment_dim, emb_channels, bias=False)) if augment_dim else None
        if text:
            size, num_tokens, *frozen = text
            encoder = FrozenPrompts(num_tokens, frozen[0], emb_channels) if frozen else None
            self.text = encoder or TextEncoder(size, num_tokens, emb_channels)
            self.num_classes = (0,) if frozen else (size,) * num_tokens

    def forward(self, x: Tensor, t: Tensor | None, y: Tensor | None, augment_labels: Tensor | None = None) -> Condition:
        """The condition for images x (B, ...); the rest as for `base.Network`."""
        vector: Tensor = self.time(timestep_embedding(x.new_zeros(len(x)) if t is None else t, 64))
        prompt = None
        if self.label is not None:
            vector = vector + self.label(y, x.shape[0])
        if self.text is not None:
            none = constant(self.num_classes, x.device)
            prompt = self.text(none.expand(len(x), -1) if y is None else y)
            vector = vector + prompt.mean()
        if self.augmentation is not None:
            none = x.new_zeros(len(x), self.augmentation.in_features)
            vector = vector + self.augmentation(none if augment_labels is None else augment_labels)
        return Condition(vector, prompt)


class LabelEmbedding(nn.Embedding):
    """The sum of a vector for each label; the columns' tables lie one below the other."""

    def __init__(self, num_classes: Sequence[int], channels: int, std: float) -> None:
        """`std`: of the vectors at first."""
        *first_rows, num_rows = accumulate((0, *(num + 1 for num in num_classes)))
        super().__init__(num_rows, channels)
        nn.init.normal_(self.weight, std=std)
        self.num_classes, self.first_rows = tuple(num_classes), tuple(first_rows)

    def forward(self, y: Tensor | None, num: int) -> Tensor:  # type: ignore[override]
        """(num, channels) for the labels y of so many images, as for `base.Network`; an export knows no len()."""
        none, first_rows = (constant(values, self.weight.device) for values in (self.num_classes, self.first_rows))
        labels = none.expand(num, -1) if y is None else y.reshape(-1, len(none))
        return super().forward(labels + first_rows).sum(dim=1)


def columns_of(num_classes: NumClasses) -> tuple[int, ...]:
    """The number of classes of each column of labels; 0 for None."""
    return tuple(num_classes) if isinstance(num_classes, Sequence) else (num_classes or 0,)


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """(B,) in [0, 1] to sines and cosines (B, dim) with wavelengths from 2 pi / 1000 to 20 pi.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5, for 1000 t.
    """
    angles = t.float()[:, None] * _frequencies(dim // 2, t.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@kept
def _frequencies(num: int, device: torch.device) -> Tensor:
    return torch.logspace(math.log10(1000), -1, num, device=device)


class AdaGroupNorm(nn.Module):
    """Group normalisation with scale and shift from the condition, both of which start at zero."""

    def __init__(self, channels: int, emb_channels: int, num_groups: int = 8) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels)
        self.scale_shift = zero_module(nn.Linear(emb_channels, 2 * channels))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.scale_shift(F.silu(condition))[:, :, None, None].chunk(2, dim=1)
        return self.norm(x) * (1 + scale) + shift


def zero_module(layer: T) -> T:
    """Set weights and bias of a layer to zero, so that a residual branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
