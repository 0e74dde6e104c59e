"""Grids of images, drawn during training."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import torch
from lightning.pytorch import Trainer
from pydantic import Field
from torch import Tensor, nn

from artart.data.preview import preview
from artart.diffusion.guidance import Guidance
from artart.diffusion.noise import Between
from artart.diffusion.samplers import Sampler
from artart.diffusion.sampling import NoiseProcess, sample_images, sample_steps
from artart.io.images import Batch, grid, save
from artart.io.provenance import ImageProvenance
from artart.io.ranges import Count, NonNegative
from artart.objectives.reconstruction import Reconstruction
from artart.training.callbacks.ema import EMA
from artart.training.callbacks.progress import SamplingCallback
from artart.training.loggers import log_grid
from artart.training.module import ArtModule

How = tuple[nn.Module, NoiseProcess, Sampler]  # that samples are drawn with


class Grid(SamplingCallback, ABC):
    """A grid of images after epochs 1, n, 2n, ... and the last, as a file and in the loggers.

    It is drawn inside the validation loop, where evaluation mode and averaged weights are set.
    """

    mode: ClassVar[str]
    """That of the objectives whose networks it shows."""

    def __init__(
        self, directory: str | Path, every_n_epochs: Count = 10, num_images: Annotated[int, Field(ge=2)] = 8
    ) -> None:
        self.directory = Path(directory)
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images  # in a row
        self.drawn_after = 0  # finished epochs

    @abstractmethod
    def rows(self, trainer: Trainer, module: ArtModule, batch: Batch) -> list[Tensor]:
        """Rows of the grid, each (num_images, 3, S, S) in [-1, 1]; `batch` is the first of validation."""

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ArtModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        epoch = trainer.current_epoch + 1  # finished epochs, as in the checkpoints' names
        if batch_idx == 0 and trainer.is_global_zero and not trainer.sanity_checking and self._due(epoch, trainer):
            self.drawn_after = epoch
            with trainer.precision_plugin.forward_context():
                rows = self.rows(trainer, pl_module, batch)
            self.write(trainer, rows, "samples", f"epoch_{epoch:04d}")

    def write(self, trainer: Trainer, rows: list[Tensor], tag: str, name: str) -> None:
        """Write a grid into the directory and to the loggers."""
        image = grid(rows)
        details = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        path = self.directory / f"{name}.png"
        save(image, path, ImageProvenance("composite", details))
        log_grid(trainer.loggers, tag, image, path, trainer.global_step)

    def _due(self, epoch: int, trainer: Trainer) -> bool:
        """Whether a multiple of n, the first or the last epoch came since the validation before."""
        before = epoch - trainer.check_val_every_n_epoch if trainer.check_val_every_n_epoch else epoch - 1
        last = epoch == trainer.max_epochs or trainer.should_stop
        return before < 1 or last or epoch // self.every_n_epochs > before // self.every_n_epochs


class ReconstructionGrid(Grid):
    """Held-out images, the same each time, above their reconstructions and the errors of these."""

    mode = "reconstruct"

    def rows(self, trainer: Trainer, module: ArtModule, batch: Batch) -> list[Tensor]:
        objective = cast(Reconstruction, module.objective)
        return objective.draw(module.net, Batch(batch.x0[: self.num_images], batch.y[: self.num_images]))


class SampleGrid(Grid):
    """A row for each class or prompt: real images on the left, samples with their labels and fixed seeds on the right.

    The last row is the trajectory of the first sample; of a GAN, which has none, images between two seeds. While few
    images have been seen, a second grid, `epoch_0010_raw.png`, shows samples of the weights without their average.
    """

    mode = "sample"

    RAW_UNTIL = 100_000  # images seen

    def __init__(
        self,
        directory: str | Path,
        sampler: Sampler,
        every_n_epochs: Count = 10,
        num_images: Annotated[int, Field(ge=2)] = 8,
        guidance: NonNegative = 1.5,
        batch_size: Count = 64,
    ) -> None:
        super().__init__(directory, every_n_epochs, num_images)
        self.sampler = sampler
        self.guidance = Guidance(guidance)
        self.batch_size = batch_size
        self.num_rows = 0  # of a grid, the trajectory not among them; 0: not known yet

    def rows(self, trainer: Trainer, module: ArtModule, batch: Batch | None = None) -> list[Tensor]:
        num_samples = self.num_images // 2
        num_real = self.num_images - num_samples
        real = preview(trainer.datamodule, num_real)  # type: ignore[attr-defined]
        labels = real.y.unflatten(0, (-1, num_real))[:, :num_samples].flatten(0, 1).to(module.device)
        seeds, how = range(len(labels)), (module.net, cast(NoiseProcess, module.objective), self.sampler)
        with self.bar(trainer, "samples for the grid", self._units(trainer)) as on_step:
            made = torch.cat([*sample_images(*how, labels, seeds, self.guidance, self.batch_size, on_step=on_step)])
            last = self._between(how, labels[:1]) if module.objective.one_step else self._trajectory(how, labels[:1])
        pairs = zip(real.x0.to(module.device).split(num_real), made.split(num_samples), strict=True)
        return [*(torch.cat(pair) for pair in pairs), last]

    def _trajectory(self, how: How, label: Tensor) -> Tensor:
        """The images (num_images, 3, S, S) from noise to the first sample."""
        steps = [step.x_t[0] for step in sample_steps(*how, label, range(1), self.guidance)]
        moments = torch.linspace(0, len(steps) - 1, self.num_images).round().int().tolist()
        return how[1].first_stage.decode(torch.stack([steps[k] for k in moments]))

    def _between(self, how: How, label: Tensor) -> Tensor:
        """The images (num_images, 3, S, S) from the first seed to the second."""
        seeds = [Between(0, 1, k / (self.num_images - 1)) for k in range(self.num_images)]
        return torch.cat([*sample_images(*how, label.expand(self.num_images, -1), seeds, self.guidance)])

    def _units(self, trainer: Trainer) -> int:
        """Images of a grid times steps; the trajectory is one more."""
        if not self.num_rows:  # with captions this takes seconds
            self.num_rows = len(preview(trainer.datamodule, 1).y)  # type: ignore[attr-defined]
        return (self.num_rows * (self.num_images // 2) + 1) * self.sampler.num_steps

    def sampling_left(self, trainer: Trainer, module: ArtModule) -> float:
        """Of the grids to come, each twice while those of the raw weights are drawn too."""
        first, last, every = trainer.current_epoch, trainer.max_epochs or 0, self.every_n_epochs
        others = [epoch for epoch in {1, last} if first < epoch <= last and epoch % every]
        number = last // every - first // every + len(others)
        return number * self._units(trainer) * (1 + self._draws_raw(trainer, module))

    def _draws_raw(self, trainer: Trainer, module: ArtModule) -> bool:
        has_average = any(isinstance(callback, EMA) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        return has_average and module.images_seen < self.RAW_UNTIL

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ArtModule) -> None:  # type: ignore[override]
        """After validation, when the weights are those of training again."""
        epoch = trainer.current_epoch + 1
        if self.drawn_after == epoch and self._draws_raw(trainer, pl_module):
            pl_module.eval()
            with torch.inference_mode(), trainer.precision_plugin.forward_context():
                rows = self.rows(trainer, pl_module)
            self.write(trainer, rows, "samples_raw", f"epoch_{epoch:04d}_raw")
            pl_module.train()
