"""Distillation: a trained diffusion network learns to go in one step where its teacher goes in several.

Sources: steps of the teacher in one of the student, Salimans and Ho 2022, arXiv 2202.00512; a path in segments, each
gone in one step from anywhere in it, Heek et al. 2024, arXiv 2403.06807.
"""

from copy import deepcopy
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from artart.diffusion.augment import Augment
from artart.diffusion.first_stage import NO_FIRST_STAGE, FirstStage
from artart.diffusion.guidance import null_labels
from artart.diffusion.noise import own_noise
from artart.diffusion.noise_levels import Uniform
from artart.diffusion.samplers import DDIM
from artart.diffusion.schedule import Level, Schedule
from artart.io.images import Batch
from artart.io.ranges import Count, Fraction, NonNegative
from artart.metrics.distances import distance_of_patches
from artart.objectives.diffusion import Diffusion
from artart.objectives.losses import WeightedSum

MIN_LENGTH = 1e-3  # of a step in r


class Distillation(Diffusion):
    """The network's step from x_t ends where its teacher, a copy of it before training, arrives in several steps.

    Noise levels r are cut into `num_steps` equal segments. From x_t the teacher goes to the segment's end by Heun's
    method. A straight line from x_t through that point, in x / (alpha + sigma) over r, meets r = 0 at the x0_hat that
    the network learns. So `samplers.DDIM` in `num_steps` steps, which are straight, follows the teacher.
    """

    teacher: Module

    def __init__(
        self,
        loss: WeightedSum,
        schedule: Schedule,
        num_steps: Count = 2,
        teacher_steps: Count = 4,
        guidance: NonNegative = 1.0,
        parameterization: Literal["v"] = "v",
        class_dropout_prob: Fraction = 0.1,
        augment: Augment | None = None,
        first_stage: FirstStage = NO_FIRST_STAGE,
    ) -> None:
        """
        Args:
            loss: of x0_hat.
            schedule: alpha(t) and sigma(t), the teacher's.
            num_steps: in which the network learns to sample.
            teacher_steps: of the teacher for each of them, of two evaluations.
            guidance: weight of the teacher's classifier-free guidance, at all noise levels; 1: none.
            parameterization: what the network outputs.
            class_dropout_prob, augment, first_stage: as for Diffusion.
        """
        levels, common = Uniform(), (class_dropout_prob, augment, first_stage)
        super().__init__(loss, schedule, levels, parameterization, "uniform", 1.0, *common)
        self.num_steps: int = num_steps
        self.teacher_steps, self.guidance = teacher_steps, guidance

    @property
    def metrics(self) -> list[str]:
        return [*(f"train/{name}" for name in ("loss", *self.loss.terms)), "val/swd"]

    def teach_by(self, net: Module) -> None:
        """Take a copy of a network as the teacher."""
        self.teacher = deepcopy(net).eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def __call__(
        self, net: Module, batch: Batch, generator: Generator, rank: int = 0, world_size: int = 1, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """The losses of a batch, each (B,): half of them at the beginning of a segment, the rest evenly.

        Segments divide the noise levels from the schedule's last, where samples begin, to 0.
        """
        r, *others = self._draw(batch, generator, rank, world_size)
        end = ((r * self.num_steps).ceil() - 1).clamp(min=0) / self.num_steps
        start = end + (2 * (r - end)).clamp(MIN_LENGTH, 1 / self.num_steps)
        last = self.schedule.at(torch.ones((), device=r.device)).r
        return self._losses(net, batch, last * end, last * start, *others)

    def _losses(self, net: Module, batch: Batch, end: Tensor, *drawn: Tensor) -> dict[str, Tensor]:
        """Of steps from the drawn noise levels to those of `end` (B,)."""
        _, (x_t, _, t, now), labels = self._noised(net, batch, *drawn)
        with torch.no_grad():
            self.teacher.to(x_t.device)
            x, at = x_t, t
            for k in range(1, self.teacher_steps + 1):
                after = torch.lerp(now.r.flatten(), end.to(t), k / self.teacher_steps)
                x, at = self._follow(x, at, s := self.schedule.time_at(after), labels), s
            last = self.schedule.for_images(at, x)
            y, y_last = x_t / (now.alpha + now.sigma), x / (last.alpha + last.sigma)
            target = (now.r * y_last - last.r * y) / (now.r - last.r)
        return self.loss(self._estimate(net, x_t, t, labels), target)

    def _estimate(self, net: Module, x_t: Tensor, t: Tensor, labels: list[Tensor]) -> Tensor:
        """x0_hat (B, C, S, S), without the knowledge of x0 that `Diffusion.x0_hat` has."""
        return self.parameterization.x0(net(x_t, t, *labels), x_t, self.schedule.for_images(t, x_t))

    def _follow(self, x_t: Tensor, t: Tensor, s: Tensor, labels: list[Tensor]) -> Tensor:
        """The teacher's x_s by a step of `samplers.Heun`; to s = 0 by Euler's, as there."""
        now, after = (self.schedule.for_images(one, x_t) for one in (t, s))
        start, length = x_t / (now.alpha + now.sigma), after.r - now.r
        slope = self._slope(x_t, t, now, labels)
        x_s = (after.alpha + after.sigma) * (start + length * slope)
        mean = (slope + self._slope(x_s, s, after, labels)) / 2
        return torch.where(after.sigma > 0, (after.alpha + after.sigma) * (start + length * mean), x_s)

    def _slope(self, x_t: Tensor, t: Tensor, level: Level, labels: list[Tensor]) -> Tensor:
        """eps_hat - x0_hat of the teacher."""
        x0_hat = self._estimate(self.teacher, x_t, t, labels)
        if self.guidance != 1:
            y, *others = labels
            without = [null_labels(self.teacher, y.device).expand_as(y), *others]
            x0_hat = torch.lerp(self._estimate(self.teacher, x_t, t, without), x0_hat, self.guidance)
        return (x_t - level.alpha * x0_hat) / level.sigma - x0_hat

    def measure(self, net: Module, batch: Batch) -> dict[str, Tensor]:
        """`val/swd`, the sliced Wasserstein distance of samples to the batch; noise as in `GAN.measure`."""
        x0, y = batch
        x = self.schedule.add_noise(x0, own_noise(x0), torch.ones(len(x0), device=x0.device)).x_t
        sampler, times = DDIM(self.num_steps), self.schedule.times(self.num_steps)
        *_, (x, _) = sampler(
            lambda x_t, t: self._estimate(net, x_t, t.to(x_t.device), [y]), self.schedule, x, times, torch.randn
        )
        return {"val/swd": distance_of_patches(x, x0)}
