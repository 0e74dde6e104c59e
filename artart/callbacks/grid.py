"""Pictures of the training's progress."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from artart.images import Batch, grid, save
from artart.marks import Marks
from artart.module import ArtModule


class SampleGrid(Callback):
    """After epochs 1, n, 2n, ... and the last: a grid of the same held-out pictures, as a file and in TensorBoard.

    Drawn inside the validation loop, where evaluation mode and averaged weights are in place.
    """

    def __init__(self, directory: str | Path, every_n_epochs: int = 10, num_images: int = 8) -> None:
        self.directory = Path(directory)
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: ArtModule,  # type: ignore[override]
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        epoch = trainer.current_epoch + 1  # finished epochs, as in the checkpoints' names
        if batch_idx == 0 and trainer.is_global_zero and not trainer.sanity_checking and self._due(epoch, trainer):
            rows = pl_module.draw(Batch(batch.x0[: self.num_images], batch.y[: self.num_images]))
            picture = grid(rows)
            save(picture, self.directory / f"epoch_{epoch:04d}.png", Marks("composite", {"epoch": epoch}))
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image("samples", picture, trainer.global_step)

    def _due(self, epoch: int, trainer: Trainer) -> bool:
        """Whether a multiple of n, the first or the last epoch came since the validation before."""
        before = epoch - trainer.check_val_every_n_epoch if trainer.check_val_every_n_epoch else epoch - 1
        last = epoch == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step or trainer.should_stop
        return before < 1 or last or epoch // self.every_n_epochs > before // self.every_n_epochs
