"""The LightningModule: one step, two stages."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from artart.images import Batch
from artart.objectives import Objective


class ArtModule(LightningModule):
    """Wraps a network and an objective (which holds the loss); a checkpoint of it explains itself."""

    def __init__(
        self,
        net: nn.Module,
        objective: Objective,
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        scheduler: Callable[..., dict[str, Any]],
        config: Mapping[str, Any],
        class_names: Sequence[str] = (),
    ) -> None:
        """
        Args:
            net: the network, of the form that the objective asks for.
            objective: (net, batch, generator) to losses, each (B,); has `measure` for validation.
            optimizer: parameters to an optimizer.
            scheduler: (optimizer, total_steps) to Lightning's scheduler dict.
            config: plain data that rebuilds net and objective, and the seed; goes into every checkpoint.
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
        losses = self.objective(self.net, batch, self._generator(batch_idx))
        self._log({f"train/{name}": values for name, values in losses.items()})
        return losses["loss"].mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self.trainer.datamodule.val_is_held_out:  # type: ignore[attr-defined]
            self._log(self.objective.measure(self.net, batch))

    def _generator(self, batch_idx: int) -> torch.Generator:
        """What is drawn for a batch depends on seed, epoch and batch alone, so a resumed run draws the same."""
        words = np.random.SeedSequence((self.config["seed"], self.current_epoch, batch_idx)).generate_state(1)
        return torch.Generator(self.device).manual_seed(int(words[0]))

    def _log(self, measured: Mapping[str, Tensor]) -> None:
        """Log the means over the pictures that have a value."""
        for name, values in measured.items():
            self.log(name, values.mean(), batch_size=len(values))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.net.parameters())
        lr_scheduler = self.scheduler(optimizer, total_steps=self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": lr_scheduler}  # type: ignore[return-value]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        checkpoint["class_names"] = self.class_names
