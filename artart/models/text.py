"""Prompts as vectors for a network: an encoder that is trained along with it."""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Len
from torch import Tensor, nn
from torch.nn import functional as F

from artart.io.ranges import Count

Text = Annotated[list[Count], Len(2, 2)] | None  # size of the vocabulary, tokens of a prompt; None: no prompts
DEPTH = 2
HEAD = 32  # channels of an attention head


class Prompt(NamedTuple):
    """Encoded prompts: the first of T tokens means that there is a prompt or none, so it is always there."""

    tokens: Tensor  # (B, T, D)
    mask: Tensor  # (B, 1, 1, T) bool: tokens that are there

    def mean(self) -> Tensor:
        """Of the tokens that are there, (B, D)."""
        weights = self.mask.flatten(1).to(self.tokens)
        return (self.tokens * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)


class TextEncoder(nn.Module):
    """A transformer over the tokens of a prompt, such as Rombach et al. 2022 train along (arXiv 2112.10752)."""

    def __init__(self, size: int, num_tokens: int, channels: int) -> None:
        """
        Args:
            size: of the vocabulary. The token `size` means none: padding, a dropped word, or no prompt at all.
            num_tokens: L, of a prompt at most.
            channels: D, of an encoded token.
        """
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(size + 1, channels)
        self.positions = nn.Parameter(torch.empty(num_tokens + 1, channels))
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self.layers = nn.ModuleList(Layer(channels) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(channels)

    def forward(self, y: Tensor) -> Prompt:
        """Prompts of the tokens y (B, L)."""
        y = F.pad(y, (1, 0), value=self.size)
        mask = F.pad(y[:, 1:] != self.size, (1, 0), value=True)[:, None, None]
        tokens = self.embedding(y) + self.positions
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return Prompt(self.norm(tokens), mask)


class Layer(nn.Module):
    """Attention among the tokens that are there, then an MLP, each after a norm and beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_heads = max(1, channels // HEAD)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.project = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(2, (3 * self.num_heads, -1)).transpose(1, 2).chunk(3, dim=1)
        attended = F.scaled_dot_product_attention(q, k, v, mask)
        tokens = tokens + self.project(attended.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norm2(tokens))
