"""Generator and discriminator of a GAN (R3GAN, Huang et al. 2024, arXiv 2501.05441, section 4)."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, TypeVar

import torch
from annotated_types import Len
from pydantic import Field
from torch import Tensor, nn

from artart.io.ranges import Count, ImageSize
from artart.models.base import check_divisible
from artart.models.embedding import LabelEmbedding, NumClasses, columns_of, zero_module

SLOPE = 0.2  # of leaky ReLUs below 0
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through them (He et al. 2015, arXiv 1502.01852)

# The limits keep a discriminator small that a checkpoint names.
ModelChannels = Annotated[int, Field(ge=1, le=256)]
ChannelMult = Annotated[Sequence[Annotated[int, Field(ge=1, le=16)]], Len(1, 8)]
NumBlocks = Annotated[int, Field(ge=1, le=4)]
GroupSize = Annotated[int, Field(ge=1, le=64)]

T = TypeVar("T", nn.Conv2d, nn.Linear)


class Generator(nn.Module):
    """Noise to images in one evaluation: a learned basis times a function of z and labels, then residual blocks.

    The noise has the shape of the images, as for other networks, so that seeds, sampling and exports are theirs; z are
    the first `latent_dim` numbers of each.
    """

    def __init__(
        self,
        image_size: ImageSize = 32,
        channels: Count = 3,
        num_classes: NumClasses = None,
        latent_dim: Count = 64,
        model_channels: ModelChannels = 32,
        channel_mult: ChannelMult = (1, 2, 4, 8),
        num_res_blocks: NumBlocks = 2,
        group_size: GroupSize = 16,
    ) -> None:
        """
        Args:
            image_size: side S of the images in pixels.
            channels: of the images.
            num_classes: as for ConditionEmbedding.
            latent_dim: numbers of z.
            model_channels: channels of the maps of side S.
            channel_mult: channels of each level, in units of model_channels; each has half the side of the one before.
            num_res_blocks: residual blocks of a level.
            group_size: channels in a group of the 3x3 convolutions.

        Raises ValueError if image_size is not divisible as often as there are levels, if twice the channels of a level
        are not divisible by group_size, or if z has more numbers than an image.
        """
        super().__init__()
        if latent_dim > (most := channels * image_size**2):
            raise ValueError(f"model.latent_dim={latent_dim}: an image has {most} values; set at most that")
        self.image_size, self.channels, self.latent_dim = image_size, channels, latent_dim
        self.num_classes = columns_of(num_classes)
        side, widths = levels(image_size, model_channels, channel_mult)
        self.basis = nn.Parameter(torch.randn(widths[-1], side, side))
        self.modulate = _initialized(nn.Linear(latent_dim, widths[-1]))
        self.label = LabelEmbedding(self.num_classes, widths[-1], std=0.5) if any(self.num_classes) else None
        blocks = partial(_blocks, num_res_blocks, len(widths), group_size)
        layers: list[nn.Module] = [*blocks(widths[-1])]
        for before, width in pairwise(reversed(widths)):
            layers += [*_between(before, width), nn.Upsample(scale_factor=2.0, mode="bilinear"), *blocks(width)]
        self.layers = nn.Sequential(*layers, _initialized(nn.Conv2d(widths[0], channels, kernel_size=1)))

    def forward(
        self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """Standard normal noise x (B, channels, S, S) to images of that shape; it has no `t` and `augment_labels`."""
        scale = self.modulate(x.flatten(1)[:, : self.latent_dim])
        if self.label is not None:
            scale = scale + self.label(y, x.shape[0])
        features = self.layers[:-1](self.basis * scale[:, :, None, None])
        with torch.autocast(x.device.type, enabled=False):  # bf16 would round the images to grey levels
            images: Tensor = self.layers[-1](features.float())
        return images


class Discriminator(nn.Module):
    """Images to a score: high for art. The generator mirrored; labels project features on their embedding.

    Source of the projection: Miyato and Koyama 2018, arXiv 1802.05637, Eq. 3.
    """

    def __init__(
        self,
        image_size: ImageSize,
        model_channels: ModelChannels,
        channel_mult: ChannelMult,
        num_res_blocks: NumBlocks = 2,
        group_size: GroupSize = 16,
        channels: Annotated[int, Field(ge=1, le=4)] = 3,
        num_classes: Annotated[int, Field(ge=0, le=10_000)] | Sequence[Annotated[int, Field(le=10_000)]] | None = None,
    ) -> None:
        """As for Generator; the weights are the same each time."""
        super().__init__()
        self.num_classes = columns_of(num_classes)
        side, widths = levels(image_size, model_channels, channel_mult)
        with torch.random.fork_rng(devices=[]):  # to load a checkpoint changes no random state
            torch.default_generator.manual_seed(0)
            blocks = partial(_blocks, num_res_blocks, len(widths), group_size)
            layers: list[nn.Module] = [_initialized(nn.Conv2d(channels, widths[0], kernel_size=1)), *blocks(widths[0])]
            for before, width in pairwise(widths):
                layers += [nn.AvgPool2d(2), *_between(before, width), *blocks(width)]
            last = widths[-1]
            layers += [_initialized(nn.Conv2d(last, last, side, groups=last, bias=False)), nn.Flatten()]
            self.layers = nn.Sequential(*layers)
            self.score = _initialized(nn.Linear(last, 1, bias=False))
            self.label = LabelEmbedding(self.num_classes, last, std=0.0) if any(self.num_classes) else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The score (B,) of images x (B, channels, S, S) with labels y (B, K)."""
        features = self.layers(x)
        score: Tensor = self.score(features).squeeze(1)
        if self.label is not None:
            score = score + (self.label(y, x.shape[0]) * features).sum(dim=1)
        return score


class Block(nn.Module):
    """A residual block: 1x1, grouped 3x3 and 1x1 convolution without normalisation; begins as the identity.

    Initialized as in Fixup (Zhang et al. 2019, arXiv 1901.09321): the first two are scaled by the number of blocks.
    """

    def __init__(self, channels: int, num_blocks: int, group_size: int) -> None:
        """`num_blocks`: of the whole network."""
        super().__init__()
        inner = 2 * channels
        if inner % group_size:
            raise ValueError(f"model.group_size={group_size}: does not divide {inner}, the channels in a block; set 16")
        gain = GAIN * num_blocks**-0.25
        self.layers = nn.Sequential(
            _initialized(nn.Conv2d(channels, inner, kernel_size=1), gain),
            nn.LeakyReLU(SLOPE),
            _initialized(nn.Conv2d(inner, inner, kernel_size=3, padding=1, groups=inner // group_size), gain),
            nn.LeakyReLU(SLOPE),
            zero_module(nn.Conv2d(inner, channels, kernel_size=1, bias=False)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def levels(image_size: int, model_channels: int, channel_mult: Sequence[int]) -> tuple[int, list[int]]:
    """The side of the smallest maps, and the channels of each level, the largest maps first."""
    factor = 2 ** (len(channel_mult) - 1)
    check_divisible("image_size", image_size, factor, f"which {len(channel_mult)} levels of channel_mult need")
    return image_size // factor, [model_channels * multiplier for multiplier in channel_mult]


def _blocks(num: int, num_levels: int, group_size: int, channels: int) -> Iterator[Block]:
    return (Block(channels, num * num_levels, group_size) for _ in range(num))


def _between(channels: int, after: int) -> list[nn.Module]:
    """A change of the number of channels, if there is one."""
    return [] if channels == after else [_initialized(nn.Conv2d(channels, after, kernel_size=1, bias=False))]


def _initialized(layer: T, gain: float = 1.0) -> T:
    """Set the weights so that outputs have `gain` times the scale of inputs, and the bias to zero."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
