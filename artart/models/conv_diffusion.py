"""The article's network, as printed and as a denoiser."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artart.io.ranges import Count, ImageSize
from artart.models.attention import SelfAttention
from artart.models.base import check_divisible
from artart.models.embedding import AdaGroupNorm, AugmentDim, ConditionEmbedding, NumClasses, zero_module
from artart.models.text import Text

EMB_CHANNELS = 256  # of the condition


class ConvDiffusionModel(nn.Module):
    """Three blocks down, three blocks up, additive skips between them.

    As printed (742,659 parameters): a convolutional autoencoder, (B, 3, S, S) in [-1, 1] to the same. One thing is
    fixed: input and output have the same range; the article's sigmoid is kept and scaled to it.

    `conditioned` on time and labels it is the denoiser that the article describes: group normalisation with scale and
    shift replaces batch normalisation, and the last block gets x_t again at full size. The printed block leaves a
    checkerboard and cannot reproduce x_t where there is hardly any noise.
    """

    def __init__(
        self,
        image_size: ImageSize = 128,
        channels: Count = 3,
        num_classes: NumClasses = None,
        conditioned: bool | None = None,
        attention: bool = False,
        augment_dim: AugmentDim = None,
        text: Text = None,
    ) -> None:
        """
        Args:
            image_size: side S of the images in pixels, divisible by 8.
            channels: of the images.
            conditioned: whether it takes time and labels; None: no. artart.train asks the objective.
            attention: self-attention at the lowest resolution; from 64 px on no convolution sees the whole image.
            num_classes, augment_dim, text: as for ConditionEmbedding; artart.train takes those of data and objective.

        Raises ValueError if image_size is not divisible by 8, or if attention or augmentation lacks `conditioned`.
        """
        super().__init__()
        check_divisible("image_size", image_size, 8, "which three halvings need")
        if (attention or augment_dim) and not conditioned:
            setting = "model.attention=true" if attention else f"model.augment_dim={augment_dim}"
            raise ValueError(f"{setting}: the article's network has none; add model.conditioned=true")
        self.image_size, self.channels = image_size, channels
        norm = partial(AdaGroupNorm, emb_channels=EMB_CHANNELS) if conditioned else nn.BatchNorm2d
        self.enc1 = _down(channels, 64, norm)
        self.enc2 = _down(64, 128, norm)
        self.enc3 = _down(128, 256, norm)
        self.dec1 = _up(256, 128, nn.ReLU(), norm(128))
        self.dec2 = _up(128, 64, nn.ReLU(), norm(64))
        self.dec3 = Head(64, channels) if conditioned else _up(64, channels, nn.Sigmoid())
        self.condition = ConditionEmbedding(num_classes, EMB_CHANNELS, augment_dim, text) if conditioned else None
        self.num_classes = () if self.condition is None else self.condition.num_classes
        self.attention = SelfAttention(256) if attention else None

    def forward(
        self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """As for `base.Network`; without condition only x is used."""
        condition = None if self.condition is None else self.condition(x, t, y, augment_labels).vector
        skip1 = _run(self.enc1, x, condition)
        skip2 = _run(self.enc2, skip1, condition)
        deepest = _run(self.enc3, skip2, condition)
        if self.attention is not None:
            deepest = self.attention(deepest)
        up1 = _run(self.dec1, deepest, condition)
        up2 = _run(self.dec2, up1 + skip2, condition)
        if isinstance(self.dec3, Head):
            return self.dec3(up2 + skip1, x)
        upsample, sigmoid = self.dec3
        return 2 * sigmoid(upsample(up2 + skip1).float()) - 1  # in bf16 the last bit near white is a grey level


class Head(nn.Module):
    """Features at half size and x_t to images: nearest x2, convolution, SiLU, concatenation with x_t, convolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1)
        self.out = zero_module(nn.Conv2d(in_channels + channels, channels, kernel_size=3, padding=1))

    def forward(self, features: Tensor, x_t: Tensor) -> Tensor:
        features = self.smooth(F.interpolate(features, scale_factor=2.0, mode="nearest"))
        with torch.autocast(x_t.device.type, enabled=False):  # bf16 would round the images to grey levels
            return self.out(torch.cat([F.silu(features.to(x_t.dtype)), x_t], dim=1))


def _down(in_channels: int, out_channels: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), norm(out_channels), nn.MaxPool2d(2))


def _up(in_channels: int, out_channels: int, *rest: nn.Module) -> nn.Sequential:
    upsample = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(upsample, *rest)


def _run(block: nn.Sequential, x: Tensor, condition: Tensor | None) -> Tensor:
    for layer in block:
        x = layer(x, condition) if isinstance(layer, AdaGroupNorm) else layer(x)
    return x
