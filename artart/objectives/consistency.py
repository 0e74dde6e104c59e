"""Consistency distillation: a trained diffusion network learns to map a point of a sampling path to the path's end.

Source: Song et al. 2023, arXiv 2303.01469, Algorithm 2.
"""

from copy import deepcopy
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from artart.diffusion.augment import Augment
from artart.diffusion.first_stage import NO_FIRST_STAGE, FirstStage
from artart.diffusion.guidance import null_labels
from artart.diffusion.noise import own_generators
from artart.diffusion.noise_levels import Uniform
from artart.diffusion.schedule import Level, Schedule
from artart.io.images import Batch
from artart.io.ranges import Count, Fraction, NonNegative
from artart.metrics.wasserstein import sliced_wasserstein
from artart.objectives.diffusion import Diffusion
from artart.objectives.losses import WeightedSum


class Consistency(Diffusion):
    """The network's x0_hat becomes the image at which its teacher, a copy of it before training, arrives from x_t.

    A step of Heun's method with the teacher leads from x_t to x_s, nearer to the image on the same path. The loss
    compares x0_hat at x_t with that at x_s, through which no gradient flows. At the path's end x0_hat is the image
    itself, whatever the network outputs, because it predicts v.
    """

    distilled = True
    teacher: Module

    def __init__(
        self,
        loss: WeightedSum,
        schedule: Schedule,
        num_steps: Count = 16,
        first_num_steps: Count = 4,
        guidance: NonNegative = 1.0,
        parameterization: Literal["v"] = "v",
        class_dropout_prob: Fraction = 0.1,
        augment: Augment | None = None,
        first_stage: FirstStage = NO_FIRST_STAGE,
    ) -> None:
        """
        Args:
            loss: of x0_hat at x_t and at x_s.
            schedule: alpha(t) and sigma(t), the teacher's.
            num_steps: of the teacher from noise to image, equally long in r, at the end of training.
            first_num_steps: the same at its beginning; the length of a step changes geometrically.
            guidance: weight of the teacher's classifier-free guidance, at all noise levels; 1: none.
            parameterization: what the network outputs.
            class_dropout_prob, augment, first_stage: as for Diffusion.
        """
        levels, common = Uniform(), (class_dropout_prob, augment, first_stage)
        super().__init__(loss, schedule, levels, parameterization, "uniform", 1.0, *common)
        self.num_steps, self.first_num_steps, self.guidance = num_steps, first_num_steps, guidance

    @property
    def metrics(self) -> list[str]:
        return [*(f"train/{name}" for name in ("loss", *self.loss.terms)), "val/swd"]

    def teach_by(self, net: Module) -> None:
        """Take a copy of a network as the teacher."""
        self.teacher = deepcopy(net).eval().requires_grad_(False)

    @torch.compiler.disable(recursive=False)  # progress differs from step to step; the rest is one graph
    def __call__(
        self, net: Module, batch: Batch, generator: Generator, rank: int = 0, world_size: int = 1, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """The losses of a batch at evenly drawn noise levels, each (B,)."""
        r, *others = self._draw(batch, generator, rank, world_size)
        length = self.first_num_steps ** (progress - 1) * self.num_steps**-progress
        return self._losses(net, batch, (r - length).clamp(min=0), r, *others)

    def _losses(self, net: Module, batch: Batch, r_s: Tensor, *drawn: Tensor) -> dict[str, Tensor]:
        """As `__call__`, with steps of the teacher to the noise levels r_s (B,)."""
        _, (x_t, _, t, _), labels = self._noised(net, batch, *drawn)
        with torch.no_grad():
            s = self.schedule.time_at(r_s.to(t))
            x_s = self._follow(x_t, t, s, labels)
            target = self._estimate(net, x_s, s, labels)
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
        x0_hat = self._estimate(self.teacher.to(x_t.device), x_t, t, labels)
        if self.guidance != 1:
            y, *others = labels
            without = [null_labels(self.teacher, y.device).expand_as(y), *others]
            x0_hat = torch.lerp(self._estimate(self.teacher, x_t, t, without), x0_hat, self.guidance)
        return (x_t - level.alpha * x0_hat) / level.sigma - x0_hat

    def measure(self, net: Module, batch: Batch) -> dict[str, Tensor]:
        """`val/swd`, the sliced Wasserstein distance of samples of one step to the batch; noise as in `GAN.measure`."""
        x0, y = batch
        eps = torch.stack([torch.randn(x0.shape[1:], generator=one) for one in own_generators(x0)])
        noised = self.schedule.add_noise(x0, eps, torch.ones(len(x0)))
        samples = self._estimate(net, noised.x_t, noised.t, [y])
        return {"val/swd": sliced_wasserstein(samples, x0).expand(len(x0))}
