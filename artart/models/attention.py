"""Attention of a feature map's places to each other, and to the tokens of a prompt."""

from torch import Tensor, nn
from torch.nn import functional as F

from artart.models.embedding import zero_module
from artart.models.text import Prompt


class SelfAttention(nn.Module):
    """Self-attention among all places of a feature map (B, C, H, W); starts as the identity."""

    def __init__(self, channels: int, num_heads: int = 4) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.out = zero_module(nn.Conv2d(channels, channels, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(1, (3 * self.num_heads, -1)).flatten(3).mT.chunk(3, dim=1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape))


class CrossAttention(nn.Module):
    """Attention of all places of a feature map (B, C, H, W) to a prompt; starts as the identity."""

    def __init__(self, channels: int, text_channels: int, num_heads: int = 4) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(8, channels)
        self.q = nn.Conv2d(channels, channels, kernel_size=1)
        self.kv = nn.Linear(text_channels, 2 * channels)
        self.out = zero_module(nn.Conv2d(channels, channels, kernel_size=1))

    def forward(self, x: Tensor, prompt: Prompt) -> Tensor:
        q = self.q(self.norm(x)).unflatten(1, (self.num_heads, -1)).flatten(3).mT
        k, v = self.kv(prompt.tokens).unflatten(2, (2 * self.num_heads, -1)).transpose(1, 2).chunk(2, dim=1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v, prompt.mask).mT.reshape(x.shape))
