"""Prompts as vectors for a network, by an encoder that is trained along with it or by a frozen one."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from annotated_types import Len
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

# The size of a vocabulary and the number of tokens of a prompt, each a column of y; or, of a frozen encoder,
# 0, the number of tokens and the channels of its embeddings, to whose table y is the row. None: no prompts.
Text = Annotated[list[Annotated[int, Field(ge=0)]], Len(2, 3)] | None
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


class FrozenPrompts(nn.Module):
    """Embeddings of a frozen encoder, in the network's channels."""

    def __init__(self, num_tokens: int, in_channels: int, channels: int) -> None:
        """
        Args:
            num_tokens: T, of a prompt at most.
            in_channels: of an embedding.
            channels: D, of an encoded token.
        """
        super().__init__()
        self.table: Callable[[Tensor], Tensor] | None = None  # y (B, 1) to embeddings (B, *shape); see `attach`
        self.shape = num_tokens, in_channels
        self.start = nn.Parameter(torch.empty(channels))
        nn.init.normal_(self.start, std=0.02)
        self.norm, self.project = nn.LayerNorm(in_channels), nn.Linear(in_channels, channels)

    def forward(self, y: Tensor) -> Prompt:
        """Prompts of the rows y (B, 1) of the table; 0 means none, and needs no table."""
        if self.table is None:
            assert not y.any()
            embeddings = self.start.new_full((len(y), *self.shape), torch.nan)
        else:
            embeddings = self.table(y).to(self.start.dtype)
        mask = F.pad(embeddings[..., 0].isfinite(), (1, 0), value=True)[:, None, None]
        tokens = self.project(self.norm(embeddings.nan_to_num()))
        return Prompt(torch.cat([self.start.to(tokens).expand(len(y), 1, -1), tokens], dim=1), mask)


def attach(net: nn.Module, table: Callable[[Tensor], Tensor]) -> None:
    """Let a network of `FrozenPrompts` read embeddings from a table."""
    for module in net.modules():
        if isinstance(module, FrozenPrompts):
            module.table = table


class Layer(nn.Module):
    """Attention among the tokens that are there, then an MLP, each after a norm and beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_heads = next(num for num in range(max(1, channels // HEAD), 0, -1) if channels % num == 0)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.project = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(2, (3 * self.num_heads, -1)).transpose(1, 2).chunk(3, dim=1)
        attended = F.scaled_dot_product_attention(q, k, v, mask)
        tokens = tokens + self.project(attended.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norm2(tokens))
