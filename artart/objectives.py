"""Objectives: what a network is asked to do with a batch, and what a grid shows of it."""

from torch import Tensor, nn

from artart.images import Batch
from artart.losses import WeightedSum
from artart.metrics.pixel import psnr


class Reconstruction(nn.Module):
    """The article's objective: the network sees a picture and reproduces it."""

    def __init__(self, loss: WeightedSum) -> None:
        super().__init__()
        self.loss = loss

    @property
    def metrics(self) -> list[str]:
        """The names under which training and validation log."""
        names = ["loss", *self.loss.terms]
        return [*(f"train/{name}" for name in names), *(f"val/{name}" for name in names), "val/psnr"]

    def forward(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch, each (B,): `loss` is what training lowers."""
        return self.loss(net(batch.x0), batch.x0)

    def measure(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses and `psnr` (dB) of a batch, each (B,)."""
        x0_hat = net(batch.x0)
        return {**self.loss(x0_hat, batch.x0), "psnr": psnr(x0_hat, batch.x0)}

    def draw(self, net: nn.Module, batch: Batch) -> list[Tensor]:
        """Rows of a grid, each (B, 3, S, S) in [-1, 1]: the inputs above the outputs."""
        return [batch.x0, net(batch.x0)]
