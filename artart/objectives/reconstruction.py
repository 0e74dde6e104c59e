"""The article's objective: the network reproduces an image."""

from typing import ClassVar

from torch import Generator, Tensor, nn

from artart.io.images import Batch
from artart.metrics.pixel import psnr
from artart.objectives.base import logged
from artart.objectives.losses import WeightedSum


class Reconstruction:
    """The network reproduces its input image."""

    mode: ClassVar = "reconstruct"
    network: ClassVar = {"conditioned": False, "augment_dim": 0}
    inputs: ClassVar = ("x",)
    output: ClassVar = "x0_hat"

    def __init__(self, loss: WeightedSum) -> None:
        self.loss = loss

    @property
    def metrics(self) -> list[str]:
        return [*logged(self.loss), "val/psnr"]

    def __call__(
        self, net: nn.Module, batch: Batch, generator: Generator, rank: int = 0, world_size: int = 1
    ) -> dict[str, Tensor]:
        """The losses of a batch, each (B,). Nothing is drawn."""
        return self.loss(net(batch.x0), batch.x0)

    def measure(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses and `val/psnr` (dB) of a batch, each (B,)."""
        x0_hat = net(batch.x0)
        losses = {f"val/{name}": values for name, values in self.loss(x0_hat, batch.x0).items()}
        return {**losses, "val/psnr": psnr(x0_hat, batch.x0)}

    def draw(self, net: nn.Module, batch: Batch) -> list[Tensor]:
        """Rows of a grid, each (B, 3, S, S) in [-1, 1]: the inputs above the outputs."""
        return [batch.x0, net(batch.x0)]
