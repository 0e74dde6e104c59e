"""A convolutional autoencoder: the first stage of latent diffusion."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from artart.io.ranges import Count, ImageSize
from artart.models.base import NUM_GROUPS, check_divisible, level_widths
from artart.models.embedding import zero_module


class Autoencoder(nn.Module):
    """Images (B, channels, S, S) to latents (B, latent_channels, S / factor, S / factor), and back.

    The article's encoder and decoder without its skips, so that everything passes the bottleneck; residual blocks and
    group normalisation replace its blocks (Rombach et al. 2022, arXiv 2112.10752). The first and the last halving only
    move pixels into channels, which makes full resolution cheap.
    """

    num_classes: Sequence[int] = ()

    def __init__(
        self,
        image_size: ImageSize = 128,
        channels: Count = 3,
        latent_channels: Count = 4,
        model_channels: Annotated[int, Field(ge=8)] = 32,
        channel_mult: Sequence[int] = (1, 2),
        num_res_blocks: Annotated[int, Field(ge=1, le=100)] = 1,
    ) -> None:
        """
        Args:
            image_size: side S of the images in pixels.
            channels: of the images.
            latent_channels: of the latents.
            model_channels: channels of the first level, whose maps have the side S / 2.
            channel_mult: channels of each level, in units of model_channels; each level halves the side, so the factor
                is 2 to the number of levels.
            num_res_blocks: residual blocks of a level, in the encoder and in the decoder; the last level has one more.

        Raises ValueError if image_size is not divisible by the factor, or model_channels not by 8.
        """
        super().__init__()
        widths = level_widths(model_channels, channel_mult)
        self.factor = 2 ** len(widths)
        check_divisible("image_size", image_size, self.factor, f"which {len(channel_mult)} halvings need")
        self.image_size, self.channels, self.latent_channels = image_size, channels, latent_channels
        down: list[nn.Module] = [nn.PixelUnshuffle(2), _conv(4 * channels, widths[0])]
        up: list[nn.Module] = [nn.PixelShuffle(2), Output(widths[0], 4 * channels)]  # from the last to the first
        for level, wide in enumerate(widths):
            if level:
                down.append(_conv(widths[level - 1], wide, stride=2))
                up += [_conv(wide, widths[level - 1]), nn.Upsample(scale_factor=2.0, mode="nearest")]
            num = num_res_blocks + (level == len(widths) - 1)
            down += [ResBlock(wide) for _ in range(num)]
            up += [ResBlock(wide) for _ in range(num)]
        self.encoder = nn.Sequential(*down, Output(widths[-1], 2 * latent_channels))
        self.decoder = nn.Sequential(_conv(latent_channels, widths[-1]), *reversed(up))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents of images, in full precision; only a KL term trains the variance."""
        return self.encoder(x).chunk(2, dim=1)

    def encode(self, x: Tensor) -> Tensor:
        """The latents of images: the mean of `posterior`."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """The images of latents, about [-1, 1]."""
        return self.decoder(z)

    def forward(
        self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """As for `base.Network`; only x is used."""
        return self.decode(self.encode(x))


class ResBlock(nn.Module):
    """Two convolutions, each after group normalisation and SiLU, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.GroupNorm(NUM_GROUPS, channels), nn.SiLU(), _conv(channels, channels)),
            *(nn.GroupNorm(NUM_GROUPS, channels), nn.SiLU(), zero_module(_conv(channels, channels))),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Output(nn.Module):
    """Features to values: group normalisation, SiLU and a convolution in full precision."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NUM_GROUPS, in_channels)
        self.conv = _conv(in_channels, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):  # bf16 would round the images to grey levels
            return self.conv(nn.functional.silu(self.norm(features.float())))


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)
