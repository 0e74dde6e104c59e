"""The LightningModule of all objectives."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
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
from artart.diffusion.first_stage import fingerprint
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
            optimizer: parameters to an optimizer.
            scheduler: (optimizer, total_steps) to Lightning's scheduler dict.
            config: the plain settings; checkpoints hold them, and the names of labels.
            stage: what log lines call this training if it is one of several, such as "stage 1 of 2".
        """
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)
        self.objective = objective
        mode = config.get("compile")  # batches of training have one size
        self.compiled = torch.compile(objective.__call__, mode=mode, dynamic=False) if mode else None
        self.discriminator = objective.loss.discriminator  # or None
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.config = dict(config)
        self.label_names = {column: list(names) for column, names in label_names.items()}
        self.stage = stage
        self.images_seen = 0  # in training, by all processes
        self.metrics_before: dict[str, float] = {}  # in the checkpoint that the run is resumed from
        self.summed: dict[str, Tensor | float] = {}  # losses of the steps since the last log line
        self.num_summed = 0
        self.logged_step = -1  # the step of the last log line, until the next one begins

    @property
    def place(self) -> str:
        """Where training is, for log lines."""
        return f"{self.stage}{', ' * bool(self.stage)}epoch {self.current_epoch + 1}/{self.trainer.max_epochs}"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        place = (self.config["seed"], self.current_epoch, batch_idx)  # alone, so that a resumed run draws the same
        self._seed(seed_of(*place, rank, 1))  # of what a network draws itself, such as dropout
        generator = torch.Generator(self.device).manual_seed(seed_of(*place))  # of what is drawn for all processes
        progress = self.trainer.global_step / self.total_steps
        losses_of = self.compiled or self.objective
        losses = losses_of(self.net, batch, generator, rank, world_size, progress)
        self._log_losses(losses)
        self.images_seen += len(batch.x0) * world_size
        return losses["loss"].mean()

    def _log_losses(self, losses: Mapping[str, Tensor]) -> None:
        """Log the means of the batches since the last log line, which are summed on the device."""
        is_over = self.trainer.global_step == self.logged_step  # a step may have several batches
        if is_over or (self.summed and self.summed.keys() != losses.keys()):  # a loss begins or ends
            self.summed, self.num_summed, self.logged_step = {}, 0, -1
        for name, values in losses.items():
            self.summed[name] = self.summed.get(name, 0.0) + values.detach().mean()
        self.num_summed += 1
        step, every = self.trainer.global_step + 1, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % every == 0 or self.trainer.is_last_batch or step >= self.total_steps:
            for name, total in self.summed.items():
                self.log(f"train/{name}", total / self.num_summed, batch_size=1)
            if step % every == 0:  # the others only log the epoch's last value
                self.logged_step = step

    def _seed(self, seed: int) -> None:
        """Seed the device alone: torch.manual_seed takes a millisecond where others are not in use."""
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def on_validation_epoch_start(self) -> None:
        self.measured: dict[str, Tensor] = {}  # sum and number of the values of each name, (2,)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self.trainer.datamodule.val_is_held_out:  # type: ignore[attr-defined]
            for name, values in self.objective.measure(self.net, batch).items():
                found = torch.stack([values.float().sum(), values.new_full((), len(values), dtype=torch.float)])
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

    @cached_property
    def total_steps(self) -> float:
        """The number of steps at the end of the run, which takes a while to compute."""
        max_steps = self.config["trainer"]["max_steps"]
        return min(self.trainer.estimated_stepping_batches, float("inf") if max_steps == -1 else max_steps)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = optimizer_for(self.optimizer, self.net, self.objective.loss, self._can_fuse)
        lr_scheduler = self.scheduler(optimizer, total_steps=self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": lr_scheduler}  # type: ignore[return-value]

    @property
    def _can_fuse(self) -> bool:
        """Whether optimizers can be fused; they unscale gradients of float16 themselves, which are clipped before."""
        return self.trainer.strategy.root_device.type == "cuda" and self.trainer.precision != "16-mixed"

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
        if self.objective.loss.teacher is not None:
            checkpoint["teacher"] = sha256_of_teacher(self.objective.loss)
        checkpoint["curves"] = loggers.lengths(self.trainer.loggers, Path(self.trainer.default_root_dir))
        checkpoint["metrics"] = {name: value for name, value in self.metrics.items() if name.startswith("val/")}
        is_logged = self.trainer.global_step == self.logged_step
        checkpoint["losses"] = {} if is_logged else {name: float(total) for name, total in self.summed.items()}
        checkpoint["num_losses"] = 0 if is_logged else self.num_summed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        set_fused(checkpoint["optimizer_states"], is_fused(self.optimizer, self._can_fuse))
        self.images_seen = checkpoint["images_seen"]
        self.metrics_before = checkpoint.get("metrics", {})
        self.summed, self.num_summed = dict(checkpoint.get("losses", {})), checkpoint.get("num_losses", 0)


def sha256_of_teacher(loss: TrainingLoss) -> str | None:
    """The hash of a loss's teacher, which is in no checkpoint; None: it has none."""
    return fingerprint({}, loss.teacher.state_dict()) if loss.teacher is not None else None


def seed_of(*numbers: int) -> int:
    """A seed that differs for other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def is_fused(optimizer: Callable[..., Optimizer], can_fuse: bool) -> bool | None:
    """What `fused` of an optimizer is to be: as the user set it, else True where it can be; None: not set."""
    if (fused := inspect.signature(optimizer).parameters.get("fused")) is None:
        return None
    return True if fused.default is None and can_fuse else fused.default


def set_fused(states: Sequence[dict[str, Any]], fused: bool | None) -> None:
    """Let optimizers of a checkpoint, which may come from another device, be fused or not."""
    for group in (group for state in states for group in state["param_groups"] if "fused" in group):
        group["fused"] = fused


def optimizer_for(
    optimizer: Callable[..., Optimizer], net: nn.Module, loss: TrainingLoss, can_fuse: bool = False
) -> Optimizer:
    """An optimizer of a network and, in groups of their own, of what its loss trains along with it."""
    made = optimizer(net.parameters(), **({"fused": True} if is_fused(optimizer, can_fuse) else {}))
    for group in loss.param_groups(made.defaults["lr"]):
        made.add_param_group(group)
    return made
