"""Whether a network begins to copy its training pictures."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from artart.data.datamodule import ArtDataModule
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Sampler
from artart.images import Batch, to_pixels
from artart.metrics.copies import LEAST_HELD_OUT, CopyTest
from artart.metrics.distances import share
from artart.module import ArtModule
from artart.objectives import Diffusion

log = logging.getLogger(__name__)


class Copies(Callback):
    """After every n pictures logs the share of samples that are copies: `copies/rate`, `_ratio` and `_third`.

    The criteria are those of `metrics.copies`; of held-out pictures the first two find about 0.01. Drawn inside the
    validation loop, where averaged weights are in place; always from the same seeds, in the proportions of the training
    pictures' classes.
    """

    def __init__(
        self,
        sampler: Sampler,
        every_n_images: int = 50_000,
        num_images: int = 256,
        guidance: float = 1.5,
        batch_size: int = 64,
        stop_above: float | None = None,
    ) -> None:
        """
        Args:
            sampler: how noise becomes pictures.
            every_n_images: pictures trained on from one test to the next; a test waits for the next validation.
            num_images: samples in a test.
            guidance: weight of the class.
            batch_size: samples drawn at once.
            stop_above: stop the training when a rate is above this beyond doubt (the low end of its interval).
        """
        self.sampler = sampler
        self.every_n_images = every_n_images
        self.num_images = num_images
        self.guidance = Guidance(guidance)
        self.batch_size = batch_size
        self.stop_above = stop_above
        self.test: CopyTest | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: ArtModule) -> None:  # type: ignore[override]
        data: ArtDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if len(data.val_ids) < LEAST_HELD_OUT:
            log.info(
                "callbacks.copies: does nothing: %d pictures are held out, %d are the least to tell copies by",
                *(len(data.val_ids), LEAST_HELD_OUT),
            )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: ArtModule,  # type: ignore[override]
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        epoch, data = trainer.current_epoch + 1, trainer.datamodule  # type: ignore[attr-defined]
        in_epoch = int(trainer.num_training_batches) * data.train_batch_size * trainer.world_size
        now = pl_module.images_seen
        before = now - (trainer.check_val_every_n_epoch or 1) * in_epoch
        due = now // self.every_n_images > before // self.every_n_images
        if batch_idx or trainer.sanity_checking or not due or len(data.val_ids) < LEAST_HELD_OUT:
            return
        if self.test is None:
            groups = [data.pictures.groups[i] for i in data.train_ids]
            self.test = CopyTest(data.pixels_of(data.train_ids), groups, data.pixels_of(data.val_ids))
        found = self.test.judge(self.test.nearest(self._samples(pl_module, data)))
        rates = {name: share(int(copies.sum()), len(copies)) for name, copies in found.items()}
        for name, rate in rates.items():
            pl_module.log(name.replace("copy_", "copies/"), rate.value, batch_size=1)
        expected = self.test.false_alarms()
        shown = ", ".join(f"{name} {rate.value:.1%} (held out {expected[name]:.1%})" for name, rate in rates.items())
        log.info("epoch %d: %s", epoch, shown)
        if self.stop_above is not None and max(rate.low or 0.0 for rate in rates.values()) > self.stop_above:
            log.warning("callbacks.copies.stop_above=%s: so the training stops after epoch %d", self.stop_above, epoch)
            trainer.should_stop = True

    def _samples(self, module: ArtModule, data: ArtDataModule) -> torch.Tensor:
        """uint8 (num_images, 3, S, S)."""
        assert isinstance(module.objective, Diffusion)
        labels = data.pictures.labels[data.train_ids]
        y = labels[torch.randint(len(labels), (self.num_images,), generator=torch.Generator().manual_seed(0))]
        seeds = range(self.num_images)
        made = module.objective.pictures(
            module.net, self.sampler, y.to(module.device), seeds, self.guidance, self.batch_size
        )
        return torch.cat([to_pixels(x).cpu() for x in made])
