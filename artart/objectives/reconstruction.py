"""The article's objective: the network reproduces an image."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import Module

from artart.io.images import Batch
from artart.metrics.pixel import MAX_PSNR, psnr
from artart.objectives.base import Mode, Objective, logged
from artart.objectives.losses import WeightedSum

Regularizer = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
ERROR_GAIN = 4  # brightness of the error in a grid


class Reconstruction(Objective):
    """The network reproduces its input image."""

    mode: Mode = "reconstruct"
    loss: WeightedSum
    inputs: Sequence[str] = ("x",)
    network: Mapping[str, int] = {"conditioned": False, "augment_dim": 0}

    def __init__(self, loss: WeightedSum, regularizer: Regularizer | None = None) -> None:
        """
        Args:
            loss: of (x0_hat, x0).
            regularizer: of the latents of an autoencoder, as in `objectives.regularizers`; None: none.
        """
        self.loss = loss
        self.regularizer = regularizer

    @property
    def metrics(self) -> list[str]:
        penalty = [] if self.regularizer is None else ["train/regularizer"]
        return [*logged(self.loss), *penalty, "val/psnr"]

    def __call__(
        self, net: Module, batch: Batch, generator: Generator, rank: int = 0, world_size: int = 1, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """The losses of a batch, each (B,); only a regularizer draws."""
        if self.regularizer is None:
            return self.loss(net(batch.x0), batch.x0, progress=progress)
        mean, log_var = net.posterior(batch.x0)  # type: ignore[operator]
        eps = _noise((world_size * len(mean), *mean.shape[1:]), generator).chunk(world_size)[rank]
        latents, penalty = self.regularizer(mean, log_var, eps)
        losses = self.loss(net.decode(latents), batch.x0, progress=progress)  # type: ignore[operator]
        return {**losses, "loss": losses["loss"] + penalty, "regularizer": penalty}

    def measure(self, net: Module, batch: Batch) -> dict[str, Tensor]:
        """The losses and `val/psnr` (dB) of a batch, each (B,)."""
        x0_hat = net(batch.x0)
        losses = {f"val/{name}": values for name, values in self.loss(x0_hat, batch.x0).items()}
        return {**losses, "val/psnr": psnr(x0_hat, batch.x0).clamp(max=MAX_PSNR)}

    def draw(self, net: Module, batch: Batch) -> list[Tensor]:
        """Rows of a grid, each (B, 3, S, S) in [-1, 1]: the inputs, the outputs, and their absolute error, brightened.

        The error is black where there is none.
        """
        x0_hat = net(batch.x0)
        error = (x0_hat.clamp(-1, 1) - batch.x0).abs()
        return [batch.x0, x0_hat, (ERROR_GAIN * error - 1).clamp(max=1)]


@torch.compiler.disable  # it takes no generators
def _noise(shape: Sequence[int], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
