"""Quality of samples during training, and a test for memorized training images."""

import logging
import math
from typing import Annotated, Any, ClassVar, Final, cast

import torch
from lightning.pytorch import Trainer
from pydantic import Field
from torch import Tensor

from artart.data.datamodule import ArtDataModule
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Sampler
from artart.diffusion.sampling import NoiseProcess, sample_images
from artart.features.alexnet import features_of
from artart.io.images import Batch, to_pixels
from artart.io.ranges import Count, Fraction, NonNegative
from artart.metrics.distances import kernel_distance, share
from artart.metrics.memorization import MIN_HELD_OUT, MemorizationTest
from artart.training.callbacks.progress import SamplingCallback
from artart.training.module import ArtModule

log = logging.getLogger(__name__)

MAX_HELD_OUT: Final = 2560  # held-out images that samples are compared with


class MemorizationMonitor(SamplingCallback):
    """Logs, every n images, the share of samples that are near-duplicates of training images.

    `memorization/rate`, `rate_ratio` and `rate_third` use the criteria of `metrics.memorization`; the first two find
    about 0.01 of held-out images. With AlexNet it also logs `samples/kid_alexnet`, the kernel distance to held-out
    images, and `samples/kid_no_memorization`: the same, but infinite if significantly more samples than held-out images
    are near-duplicates. `monitor=samples/kid_no_memorization` thus selects the best checkpoint without memorization.

    Samples are drawn inside the validation loop, where averaged weights are set, from the same seeds each time, in the
    proportions of the training images' classes.
    """

    mode: ClassVar = "sample"

    def __init__(
        self,
        sampler: Sampler,
        every_n_images: Count = 50_000,
        num_images: Annotated[int, Field(ge=20)] = 256,
        guidance: NonNegative = 1.5,
        batch_size: Count = 64,
        stop_above: Fraction | None = None,
        weights: str | None = None,
    ) -> None:
        self.sampler = sampler
        self.every_n_images = every_n_images  # of training, between two tests; a test waits for the next validation
        self.num_images = num_images
        self.guidance = Guidance(guidance)
        self.batch_size = batch_size
        self.stop_above = stop_above  # of the lower end of a rate's 95 % interval
        self.weights = weights  # of AlexNet, as for `features.alexnet.alexnet_on`; None: without `samples/kid_alexnet`
        self.test: MemorizationTest | None = None
        self.held_out: Tensor | None = None  # features
        self.kid_no_memorization = math.inf  # of the last test
        self.tested_at = 0  # images trained on until then

    def state_dict(self) -> dict[str, Any]:
        return {"kid_no_memorization": self.kid_no_memorization, "tested_at": self.tested_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kid_no_memorization = float(state_dict["kid_no_memorization"])
        self.tested_at = int(state_dict.get("tested_at", 0))

    def on_fit_start(self, trainer: Trainer, pl_module: ArtModule) -> None:  # type: ignore[override]
        data: ArtDataModule = trainer.datamodule  # type: ignore[attr-defined]
        num_val, num_seen = len(data.val_ids), (trainer.max_epochs or 0) * len(data.train_ids)
        no_test, every = "callbacks.memorization: no test:", self.every_n_images
        if num_val < MIN_HELD_OUT:
            log.info("%s %d images are held out, and it needs %d", no_test, num_val, MIN_HELD_OUT)
        elif 0 < num_seen < every:
            log.info("%s this run sees %d images, callbacks.memorization.every_n_images=%d", no_test, num_seen, every)

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ArtModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if batch_idx or trainer.sanity_checking or len(data.val_ids) < MIN_HELD_OUT:
            return
        now = pl_module.images_seen
        if now // self.every_n_images > self.tested_at // self.every_n_images:
            self.tested_at = now
            self._test(pl_module, data, trainer, trainer.current_epoch + 1)
        if self.weights is not None:  # in each validation, where best.ckpt needs it
            pl_module.log("samples/kid_no_memorization", self.kid_no_memorization, batch_size=1)

    def _test(self, module: ArtModule, data: ArtDataModule, trainer: Trainer, epoch: int) -> None:
        if self.test is None:
            groups = [data.images.groups[i] for i in data.train_ids]
            self.test = MemorizationTest(data.pixels_of(data.train_ids), groups, data.pixels_of(data.val_ids))
        with trainer.precision_plugin.forward_context():
            samples = self._samples(module, data)
        found = self.test.judge(self.test.nearest(samples))
        rates = {name: share(int(is_memorized.sum()), len(is_memorized)) for name, is_memorized in found.items()}
        for name, rate in rates.items():
            module.log(f"memorization/{name}", rate.value, batch_size=1)
        expected = self.test.false_alarms()
        shown = [
            f"memorization/{name} {rate.value:.1%} (held out {expected[name]:.1%})" for name, rate in rates.items()
        ]
        if self.weights is not None:
            if self.held_out is None:
                self.held_out = features_of(data.pixels_of(data.val_ids[:MAX_HELD_OUT]), self.weights, module.device)
            kid = kernel_distance(features_of(samples, self.weights, module.device), self.held_out).value
            module.log("samples/kid_alexnet", kid, batch_size=1)
            self.kid_no_memorization = math.inf if self.test.has_memorized(found) else kid
            shown.insert(0, f"samples/kid_alexnet {kid:.4f}")
        log.info("epoch %d: %s", epoch, ", ".join(shown))
        if self.stop_above is not None and max(rate.low or 0.0 for rate in rates.values()) > self.stop_above:
            log.warning("callbacks.memorization.stop_above=%s: training stops after epoch %d", self.stop_above, epoch)
            trainer.should_stop = True

    def sampling_left(self, trainer: Trainer, module: ArtModule) -> float:
        data: ArtDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if len(data.val_ids) < MIN_HELD_OUT:
            return 0.0
        num_seen = (trainer.max_epochs or 0) * len(data.train_ids)
        number = num_seen // self.every_n_images - self.tested_at // self.every_n_images
        return number * self.num_images * self.sampler.num_steps

    def _samples(self, module: ArtModule, data: ArtDataModule) -> Tensor:
        """uint8 (num_images, 3, S, S)."""
        drawn = torch.randint(len(data.train_ids), (self.num_images,), generator=torch.Generator().manual_seed(0))
        y = data.y_of([data.train_ids[k] for k in drawn.tolist()])
        y, seeds, process = y.to(module.device), range(self.num_images), cast(NoiseProcess, module.objective)
        how = (module.net, process, self.sampler, y, seeds, self.guidance, self.batch_size)
        with self.bar(module.trainer, "samples for the memorization test", len(y) * self.sampler.num_steps) as on_step:
            return torch.cat([to_pixels(x).cpu() for x in sample_images(*how, on_step=on_step)])
