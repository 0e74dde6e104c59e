"""A U-Net: residual blocks at falling and rising resolution, skips between them, attention at low resolutions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from artart.io.ranges import Count, ImageSize
from artart.models.attention import CrossAttention, SelfAttention
from artart.models.base import check_divisible, level_widths
from artart.models.embedding import AdaGroupNorm, AugmentDim, Condition, ConditionEmbedding, NumClasses, zero_module
from artart.models.text import Text

HEAD = 64  # channels of an attention head, at least


class UNet(nn.Module):
    """A U-Net conditioned on time, labels or a prompt, and augmentation by scale and shift of its norms.

    After Ho et al. 2020 (arXiv 2006.11239), Dhariwal and Nichol 2021 (arXiv 2105.05233) and Karras et al. 2022 (arXiv
    2206.00364). There are as many blocks up as down; each block up also gets the output of its counterpart down.
    Where maps have attention, they also attend to the prompt's tokens (Rombach et al. 2022, arXiv 2112.10752).
    """

    def __init__(
        self,
        image_size: ImageSize = 64,
        channels: Count = 3,
        num_classes: NumClasses = None,
        model_channels: Annotated[int, Field(ge=8)] = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: Annotated[int, Field(ge=1, le=100)] = 2,
        attn_resolutions: Sequence[Count] = (16, 12, 8, 6, 4, 3, 2, 1),
        dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0,
        patch_size: Count = 1,
        augment_dim: AugmentDim = None,
        text: Text = None,
    ) -> None:
        """
        Args:
            image_size: side S of the images in pixels.
            channels: of the images.
            model_channels: channels of the first level.
            channel_mult: channels of each level, in units of model_channels; each level halves the side.
            num_res_blocks: residual blocks of a level, each way.
            attn_resolutions: sides of the maps that have attention (after the patches; ADM, EDM).
            dropout: share of features that are dropped in training.
            patch_size: side in pixels of the squares that become one place of the first level: 2 costs a quarter.
            num_classes, augment_dim, text: as for ConditionEmbedding; artart.train takes those of data and objective.

        Raises ValueError if image_size is not divisible as the levels need, or model_channels not by 8.
        """
        super().__init__()
        widths = level_widths(model_channels, channel_mult)
        reason = f"which model.patch_size={patch_size} and {len(widths)} levels need"
        check_divisible("image_size", image_size, patch_size * 2 ** (len(widths) - 1), reason)
        self.image_size, self.channels, self.patch_size = image_size, channels, patch_size
        self.condition = ConditionEmbedding(num_classes, 4 * model_channels, augment_dim, text)
        self.num_classes = self.condition.num_classes
        attention = [image_size // patch_size >> level in attn_resolutions for level in range(len(widths))]
        block = partial(Block, emb_channels=4 * model_channels, dropout=dropout, has_prompts=text is not None)
        self.stem = nn.Conv2d(channels * patch_size**2, model_channels, kernel_size=3, padding=1)
        self.down, self.up, self.middle = _levels(model_channels, widths, attention, num_res_blocks, block)
        self.norm = nn.GroupNorm(8, widths[0])
        self.out = zero_module(nn.Conv2d(widths[0], channels * patch_size**2, kernel_size=3, padding=1))

    def forward(
        self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """As for `base.Network`."""
        condition = self.condition(x, t, y, augment_labels)
        features = self.stem(F.pixel_unshuffle(x, self.patch_size))
        skips = []
        for part in self.down:
            if isinstance(part, Block):
                features = part(features, condition)
                skips.append(features)
            else:
                features = part(features)
        for part in self.middle:
            features = part(features, condition)
        for part in self.up:
            if isinstance(part, Block):
                features = part(torch.cat([features, skips.pop()], dim=1), condition)
            else:
                features = part(features)
        with torch.autocast(x.device.type, enabled=False):  # bf16 would round the images to grey levels
            return F.pixel_shuffle(self.out(F.silu(self.norm(features.to(x.dtype)))), self.patch_size)


def _levels(
    now: int, widths: Sequence[int], attention: Sequence[bool], num_res_blocks: int, block: Callable[..., "Block"]
) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """The blocks down, up and in the middle, for `now` channels at the start; the side halves and doubles by level."""
    down, up, levels = nn.ModuleList(), nn.ModuleList(), list(enumerate(zip(widths, attention, strict=True)))
    for level, (wide, attends) in levels:
        down.append(nn.AvgPool2d(2) if level else nn.Identity())
        for _ in range(num_res_blocks):
            down.append(block(now, wide, attention=attends))
            now = wide
    middle = nn.ModuleList(block(now, now, attention=attention[-1]) for _ in range(2))
    for level, (wide, attends) in reversed(levels):
        for _ in range(num_res_blocks):
            up.append(block(now + wide, wide, attention=attends))
            now = wide
        up.append(nn.Upsample(scale_factor=2.0, mode="nearest") if level else nn.Identity())
    return down, up, middle


class Block(nn.Module):
    """Two convolutions beside a shortcut, the second after the condition's scale and shift; then attention."""

    def __init__(
        self, inputs: int, outputs: int, emb_channels: int, dropout: float, attention: bool, has_prompts: bool = False
    ) -> None:
        """`emb_channels`: of the condition; `has_prompts`: whether it has prompts, to which attention then goes too."""
        super().__init__()
        self.norm1 = nn.GroupNorm(8, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        self.norm2 = AdaGroupNorm(outputs, emb_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_module(nn.Conv2d(outputs, outputs, kernel_size=3, padding=1))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, kernel_size=1)
        num_heads = next(num for num in range(max(1, outputs // HEAD), 0, -1) if outputs % num == 0)
        self.attention = SelfAttention(outputs, num_heads) if attention else None
        self.cross = CrossAttention(outputs, emb_channels, num_heads) if attention and has_prompts else None

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        features = self.conv1(F.silu(self.norm1(x)))
        features = self.conv2(self.dropout(F.silu(self.norm2(features, condition.vector))))
        x = self.shortcut(x) + features
        if self.attention is not None:
            x = self.attention(x)
        return x if self.cross is None or condition.prompt is None else self.cross(x, condition.prompt)
