"""Self-attention over a feature map."""

from torch import Tensor, nn
from torch.nn import functional as F

from artart.models.embedding import zero_module


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
