"""The LightningModule of all objectives."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from artart import __version__
from artart.checkpoints.format import FORMAT
from artart.config.build import Config
from artart.data.datamodule import ArtDataModule
from artart.data.labels import LabelNames
from artart.io.images import Batch
from artart.objectives.base import Objective
from artart.objectives.losses import TrainingLoss
from artart.training import loggers


class ArtModule(LightningModule):
    """Wraps a network and an objective, which holds the loss. Its checkpoints hold all that is needed to load them."""

    def __init__(
        self,
        net: nn.Module,
        objective: Objective,
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        scheduler: Callable[..., dict[str, Any]],
        config: Config,
        label_names: LabelNames,
        stage: str = "",
    ) -> None:
        """
        Args:
            net: the network that the objective trains.
            objective: (net, batch, generator) to losses, each (B,); has `measure` for validation.
            optimizer: parameters to an optimizer.
            scheduler: (optimizer, total_steps) to Lightning's scheduler dict.
            config: the plain settings; checkpoints hold them.
            label_names: by column, the names of the labels 0, 1, ...; checkpoints hold them.
            stage: what log lines call this training if it is one of several, such as "stage 1 of 2".
        """
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)
        self.objective = objective
        self.discriminator = objective.loss.discriminator  # or None
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.config = dict(config)
        self.label_names = {column: list(names) for column, names in label_names.items()}
        self.stage = stage
        self.images_seen = 0  # in training, by all processes
        self.metrics_before: dict[str, float] = {}  # in the checkpoint that the run is resumed from

    @property
    def place(self) -> str:
        """Where training is, for log lines."""
        return f"{self.stage}{', ' * bool(self.stage)}epoch {self.current_epoch + 1}/{self.trainer.max_epochs}"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        place = (self.config["seed"], self.current_epoch, batch_idx)  # alone, so that a resumed run draws the same
        torch.manual_seed(seed_of(*place, rank, 1))  # of what a network draws itself, such as dropout
        generator = torch.Generator(self.device).manual_seed(seed_of(*place))  # of what is drawn for all processes
        progress = self.trainer.global_step / self.total_steps
        losses = self.objective(self.net, batch, generator, rank, world_size, progress)
        for name, values in losses.items():
            self.log(f"train/{name}", values.mean(), batch_size=len(values))
        self.images_seen += len(batch.x0) * world_size
        return losses["loss"].mean()

    def on_validation_epoch_start(self) -> None:
        self.measured: dict[str, Tensor] = {}  # sum and number of the values of each name, (2,)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self.trainer.datamodule.val_is_held_out:  # type: ignore[attr-defined]
            for name, values in self.objective.measure(self.net, batch).items():
                found = torch.stack([values.float().sum(), torch.tensor(float(len(values)), device=values.device)])
                self.measured[name] = self.measured.get(name, torch.zeros_like(found)) + found

    def on_validation_epoch_end(self) -> None:
        """Log the means over the images of all processes that have a value."""
        if self.measured:
            found = self.trainer.strategy.reduce(torch.stack([*self.measured.values()]), reduce_op="sum")
            for name, (total, number) in zip(self.measured, found, strict=True):
                if number:
                    self.log(name, total / number)

    @property
    def metrics(self) -> dict[str, float]:
        """The last metrics, of a resumed run also those before."""
        return self.metrics_before | {name: one.item() for name, one in self.trainer.callback_metrics.items()}

    @property
    def total_steps(self) -> float:
        """The number of steps at the end of the run."""
        max_steps = self.config["trainer"]["max_steps"]
        return min(self.trainer.estimated_stepping_batches, float("inf") if max_steps == -1 else max_steps)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = optimizer_for(self.optimizer, self.net, self.objective.loss)
        lr_scheduler = self.scheduler(optimizer, total_steps=self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": lr_scheduler}  # type: ignore[return-value]

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip each group by itself: the discriminator's gradient must not scale the network's."""
        for group in optimizer.param_groups:
            alone: Any = SimpleNamespace(param_groups=[group])
            self.clip_gradients(alone, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["artart"] = {"format": FORMAT, "version": __version__, "threads": torch.get_num_threads()}
        checkpoint["config"] = self.config
        checkpoint["labels"] = self.label_names
        data: ArtDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["data"] = data.facts
        if data.text.vocabulary is not None:
            checkpoint["text"] = data.text.vocabulary.content
        checkpoint["images_seen"] = self.images_seen
        if (first_stage := self.objective.first_stage.content) is not None:
            checkpoint["first_stage"] = first_stage
        checkpoint["curves"] = loggers.lengths(self.trainer.loggers, Path(self.trainer.default_root_dir))
        checkpoint["metrics"] = {name: value for name, value in self.metrics.items() if name.startswith("val/")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]
        self.metrics_before = checkpoint.get("metrics", {})


def seed_of(*numbers: int) -> int:
    """A seed that differs for other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def optimizer_for(
    optimizer: Callable[[Iterator[nn.Parameter]], Optimizer], net: nn.Module, loss: TrainingLoss
) -> Optimizer:
    """An optimizer of a network and, in groups of their own, of what its loss trains along with it."""
    made = optimizer(net.parameters())
    for group in loss.param_groups(made.defaults["lr"]):
        made.add_param_group(group)
    return made
