"""The LightningModule: one step, two stages."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from artart.images import Batch
from artart.objectives import Reconstruction


class ArtModule(LightningModule):
    """Wraps a network and an objective (which holds the loss); a checkpoint of it explains itself."""

    def __init__(
        self,
        net: nn.Module,
        objective: Reconstruction,
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        scheduler: Callable[..., dict[str, Any]],
        config: Mapping[str, Any],
        class_names: Sequence[str] = (),
    ) -> None:
        """
        Args:
            net: the network, (B, 3, S, S) in [-1, 1] to the same.
            objective: (net, batch) to losses, each (B,); has `measure` for validation and `draw` for grids.
            optimizer: parameters to an optimizer.
            scheduler: (optimizer, total_steps) to Lightning's scheduler dict.
            config: plain data that rebuilds net and objective; goes into every checkpoint.
            class_names: names of the classes 0, 1, ...; go into every checkpoint.
        """
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)
        self.objective = objective
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.config = dict(config)
        self.class_names = list(class_names)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._log(self.objective(self.net, batch), "train")["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self.trainer.datamodule.val_is_held_out:  # type: ignore[attr-defined]
            self._log(self.objective.measure(self.net, batch), "val")

    def _log(self, values: Mapping[str, Tensor], stage: str) -> dict[str, Tensor]:
        """Log the batch's means; return them."""
        means = {name: value.mean() for name, value in values.items()}
        batch_size = len(next(iter(values.values())))
        self.log_dict({f"{stage}/{name}": mean for name, mean in means.items()}, batch_size=batch_size)
        return means

    def draw(self, batch: Batch) -> list[Tensor]:
        """Rows of a grid for a batch that is already in [-1, 1]; see the objective's `draw`."""
        return self.objective.draw(self.net, batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.net.parameters())
        lr_scheduler = self.scheduler(optimizer, total_steps=self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": lr_scheduler}  # type: ignore[return-value]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        checkpoint["class_names"] = self.class_names
