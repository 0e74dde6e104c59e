"""The progress bar and the log lines of training."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import Progress, TaskID

from artart.diffusion.samplers import Step
from artart.io.images import Batch
from artart.io.terminal import progress_bar
from artart.training.module import ArtModule

log = logging.getLogger(__name__)


class SamplingCallback(Callback):
    """A callback that draws samples, whose work counts in the bar and in the time left; its unit is an image's step."""

    def sampling_left(self, trainer: Trainer, module: ArtModule) -> float:
        """Units until the end of the run."""
        return 0.0

    @contextmanager
    def bar(self, trainer: Trainer, name: str, units: int) -> Iterator[Callable[[Step], object]]:
        """A bar within that of the run; what is given is called after each step of a sampler."""
        bars = [callback for callback in trainer.callbacks if isinstance(callback, RunProgress)]  # type: ignore[attr-defined]
        with bars[0].sampling(name, units) if bars else nullcontext(lambda _: None) as on_step:
            yield on_step


class RunProgress(Callback):
    """A bar for the run, or for each stage, and every `log_every_n_steps` a line with losses, images/s and time left.

    `images_per_second` includes the wait for data, not validation. The time left includes samples.
    """

    num_units, sampling_seconds = 0, 0.0  # that samples took, see SamplingCallback

    bar: Progress
    task: TaskID

    def on_train_start(self, trainer: Trainer, pl_module: ArtModule) -> None:  # type: ignore[override]
        self.step = self.first_step = trainer.global_step
        self.started = time.perf_counter()
        self.bar = progress_bar()
        self.total = pl_module.total_steps
        self.task = self.bar.add_task("training", total=self.total, completed=trainer.global_step)
        self.bar.start()
        self.on_train_epoch_start(trainer, pl_module)  # not called by Lightning where a run resumes within an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: ArtModule) -> None:  # type: ignore[override]
        self.bar.update(self.task, description=pl_module.place)
        self._start_count()

    def _start_count(self) -> None:
        self.num_images, self.counting_since = 0, time.perf_counter()  # on Windows time.monotonic ticks in 15 ms

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ArtModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.num_images += len(batch.x0) * trainer.world_size
        if trainer.global_step == self.step:
            return  # gradients are accumulated
        self.step = trainer.global_step
        self.bar.update(self.task, completed=self.step)
        if self.step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}  # waits for the device
            images_per_second = self.num_images / (time.perf_counter() - self.counting_since)
            pl_module.log("images_per_second", images_per_second)
            names = [f"train/{name}" for name in pl_module.summed]  # an objective may stop computing one
            losses = "  ".join(f"{name} {metrics[name]:.4f}" for name in names)
            left = self._time_left(trainer, pl_module, images_per_second)
            left = f"{left} left" + " in this stage" * bool(pl_module.stage)
            log.info(f"{pl_module.place}  step {self.step}  {losses}  {images_per_second:.0f} images/s  {left}")
            self._start_count()

    @contextmanager
    def sampling(self, name: str, units: int) -> Iterator[Callable[[Step], object]]:
        """A bar for samples, see SamplingCallback."""
        started, task = time.perf_counter(), self.bar.add_task(name, total=units)
        yield lambda step: self.bar.advance(task, len(step.x_t))
        self.bar.remove_task(task)
        self.num_units += units
        self.sampling_seconds += time.perf_counter() - started

    def _time_left(self, trainer: Trainer, module: ArtModule, images_per_second: float) -> str:
        """Until samples are measured, a step for one of them counts as an image of training."""
        per_step = (time.perf_counter() - self.started - self.sampling_seconds) / (self.step - self.first_step)
        per_unit = self.sampling_seconds / self.num_units if self.num_units else 1 / images_per_second
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        units = sum(one.sampling_left(trainer, module) for one in callbacks if isinstance(one, SamplingCallback))
        return str(timedelta(seconds=round(per_step * (self.total - self.step) + per_unit * units)))

    def on_validation_end(self, trainer: Trainer, pl_module: ArtModule) -> None:  # type: ignore[override]
        scores = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if scores and not trainer.sanity_checking:
            values = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            log.info("%s  %s", pl_module.place, values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()
