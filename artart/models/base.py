"""The Network protocol: the attributes of an nn.Module that objectives, samplers and exports use."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

NUM_GROUPS = 8  # of norms


@runtime_checkable
class Network(Protocol):
    image_size: int  # side S of the images in pixels
    channels: int  # of the images
    num_classes: Sequence[int]  # by column of labels; empty if it takes none

    def forward(
        self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """Images (B, channels, S, S) to images of that shape.

        Args:
            x: the images, with noise if the objective adds it.
            t: times (B,) in [0, 1]; None: 0.
            y: labels (B, K), or (B,) if there is one column; None: none.
            augment_labels: (B, augment_dim), how the images were augmented; None: not.
        """


def level_widths(model_channels: int, channel_mult: Sequence[int]) -> list[int]:
    """The channels of each level; ValueError if a level has none, or the groups of norms do not divide them."""
    if not channel_mult or min(channel_mult) < 1:
        raise ValueError(f"model.channel_mult={list(channel_mult)}: needs a whole number above 0 for each level")
    check_divisible("model.model_channels", model_channels, NUM_GROUPS, "which the norms' groups need")
    return [model_channels * multiplier for multiplier in channel_mult]


def check_divisible(setting: str, value: int, divisor: int, reason: str) -> None:
    """Raise ValueError unless a setting is divisible; the error has the nearest values that are, and the `reason`."""
    if value < divisor or value % divisor:
        lower = max(divisor, value // divisor * divisor)
        raise ValueError(f"{setting}={value}: not divisible by {divisor}, {reason}; try {lower} or {lower + divisor}")
