"""A vision transformer on patches."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from artart.io.late import kept
from artart.io.ranges import Count, ImageSize
from artart.models.base import check_divisible
from artart.models.embedding import AugmentDim, ConditionEmbedding, NumClasses, zero_module
from artart.models.text import Text

BASE = 100.0  # of the wavelengths of rotary embeddings, in patches
EPS = 1e-6  # of norms, the same in every precision


class ViT(nn.Module):
    """A transformer conditioned on time, labels or a prompt, and augmentation by scale, shift and gate in every block.

    Plain blocks on large patches, for x0-prediction (Li and He 2025, arXiv 2511.13720), with adaptive norms (Peebles
    and Xie 2023, arXiv 2212.09748), rotary positions along both axes (Su et al. 2021, arXiv 2104.09864) and RMS norms,
    also of queries and keys. The tokens of a prompt are further tokens, without a position.
    """

    def __init__(
        self,
        image_size: ImageSize = 64,
        channels: Count = 3,
        num_classes: NumClasses = None,
        patch_size: Count = 4,
        hidden_size: Annotated[int, Field(ge=8)] = 384,
        depth: Annotated[int, Field(ge=1, le=1000)] = 12,
        num_heads: Count = 6,
        dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0,
        augment_dim: AugmentDim = None,
        text: Text = None,
    ) -> None:
        """
        Args:
            image_size: side S of the images in pixels.
            channels: of the images.
            patch_size: side of a patch in pixels.
            hidden_size: features of a token.
            depth: number of blocks.
            num_heads: of attention; hidden_size / num_heads is a multiple of 4.
            dropout: share of a block's outputs that are dropped in training.
            num_classes, augment_dim, text: as for ConditionEmbedding; artart.train takes those of data and objective.

        Raises ValueError if image_size is not divisible by patch_size, or hidden_size not by 4 num_heads.
        """
        super().__init__()
        check_divisible("image_size", image_size, patch_size, "which is model.patch_size")
        reason = f"which positions along two axes need with model.num_heads={num_heads}"
        check_divisible("model.hidden_size", hidden_size, 4 * num_heads, reason)
        self.image_size, self.channels, self.patch_size = image_size, channels, patch_size
        self.head = hidden_size // num_heads
        self.condition = ConditionEmbedding(num_classes, hidden_size, augment_dim, text)
        self.num_classes = self.condition.num_classes
        self.embed = nn.Linear(channels * patch_size**2, hidden_size)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, dropout) for _ in range(depth))
        self.norm = nn.RMSNorm(hidden_size, EPS, elementwise_affine=False)
        self.modulation = zero_module(nn.Linear(hidden_size, 2 * hidden_size))
        self.out = zero_module(nn.Linear(hidden_size, channels * patch_size**2))

    def forward(
        self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """As for `base.Network`."""
        vector, prompt = self.condition(x, t, y, augment_labels)
        condition, mask = F.silu(vector), None
        patches = F.pixel_unshuffle(x, self.patch_size)
        side = patches.shape[-1]
        tokens = self.embed(patches.flatten(2).mT)
        angles = rotations(side, self.head, x.device)
        if prompt is not None:
            tokens = torch.cat([tokens, prompt.tokens], dim=1)
            angles = F.pad(angles, (0, 0, 0, prompt.tokens.shape[1]))
            mask = F.pad(prompt.mask, (side**2, 0), value=True)
        for block in self.blocks:
            tokens = block(tokens, condition, angles, mask)
        tokens = tokens[:, : side**2]
        scale, shift = self.modulation(condition)[:, None].chunk(2, dim=-1)
        with torch.autocast(x.device.type, enabled=False):  # bf16 would round the images to grey levels
            patches = self.out((self.norm(tokens.to(x.dtype)) * (1 + scale) + shift).to(x.dtype))
            return F.pixel_shuffle(patches.mT.unflatten(2, (side, side)), self.patch_size)


class Block(nn.Module):
    """Attention, then an MLP of four times the hidden size; starts as the identity."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.modulation = zero_module(nn.Linear(hidden_size, 6 * hidden_size))
        self.norm1 = nn.RMSNorm(hidden_size, EPS, elementwise_affine=False)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.norm_q, self.norm_k = nn.RMSNorm(hidden_size // num_heads, EPS), nn.RMSNorm(hidden_size // num_heads, EPS)
        self.project = nn.Linear(hidden_size, hidden_size)
        self.norm2 = nn.RMSNorm(hidden_size, EPS, elementwise_affine=False)
        inner = 4 * hidden_size
        self.mlp = nn.Sequential(nn.Linear(hidden_size, inner), nn.GELU(), nn.Linear(inner, hidden_size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, condition: Tensor, rotations: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, hidden_size) to the same, given the condition (B, hidden_size) and the angles (N, head / 2).

        `mask` (B, 1, 1, N) bool are the tokens that are there; None: all.
        """
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        attended = self.attend(self.norm1(tokens) * (1 + scale1) + shift1, rotations, mask)
        tokens = tokens + gate1 * self.dropout(attended)
        return tokens + gate2 * self.dropout(self.mlp(self.norm2(tokens) * (1 + scale2) + shift2))

    def attend(self, tokens: Tensor, rotations: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(2, (3 * self.num_heads, -1)).transpose(1, 2).chunk(3, dim=1)
        q, k = (norm(one.to(norm.weight.dtype)) for norm, one in ((self.norm_q, q), (self.norm_k, k)))
        q, k = rotated(q, rotations), rotated(k, rotations)
        return self.project(F.scaled_dot_product_attention(q, k, v.to(q.dtype), mask).transpose(1, 2).flatten(2))


@kept
def rotations(side: int, head: int, device: torch.device | None = None) -> Tensor:
    """Angles (side^2, head / 2) of a map's places, row by row: the first half by row, the second by column."""
    frequencies = torch.exp(-math.log(BASE) * torch.arange(head // 4, device=device) / (head // 4))
    angles = torch.arange(side, device=device)[:, None] * frequencies
    rows, columns = angles[:, None].expand(-1, side, -1), angles[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs of numbers of (..., N, head), rotated by angles (N, head / 2): products depend on distances alone."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
