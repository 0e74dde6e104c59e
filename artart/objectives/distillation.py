"""Distillation: a diffusion network learns to sample in a few steps what its teacher samples in many.

Sources: the ends of the teacher's path as targets, Salimans and Ho 2022, arXiv 2202.00512; a path in segments, Heek et
al. 2024, arXiv 2403.06807; distribution matching, Yin et al. 2023, arXiv 2311.18828; of samples in several steps, Yin
et al. 2024, arXiv 2405.14867.
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
from artart.diffusion.schedule import Level, Noised, Schedule
from artart.io.images import Batch
from artart.io.ranges import Count, Fraction, NonNegative, Positive
from artart.metrics.distances import distance_of_patches
from artart.objectives.diffusion import Diffusion
from artart.objectives.losses import TrainingLoss

MIN_LENGTH = 1e-3  # of a step in r
MIN_ERROR = 1e-3  # of the teacher, by which differences are divided
COMPARED = (0.02, 0.98)  # noise levels r at which samples are compared; in Yin et al. 2023 times


class DistributionMatching(TrainingLoss):
    """Samples move to where images are likelier for the teacher than among samples, by the difference of two scores.

    At x_t, a sample with noise, one score is that of the teacher's x0_hat. The other, that of the samples, is that of a
    second copy of the network, here the discriminator, which is trained along with it to denoise samples.
    """

    teacher: Module
    discriminator: Module

    def __init__(self, regression: NonNegative = 10.0, lr_scale: Positive = 5.0) -> None:
        """
        Args:
            regression: first weight of the squared distance to the ends of the teacher's paths, see `Distillation`.
            lr_scale: learning rate of the discriminator, which follows the samples, over that of the network.
        """
        self.regression = regression
        self.lr_scale = lr_scale

    def begin_with(self, net: Module) -> None:
        """Take copies of the network, which is the teacher before it is trained."""
        self.discriminator = deepcopy(net).to(memory_format=torch.channels_last)
        self.teacher = deepcopy(self.discriminator).eval().requires_grad_(False)

    def __call__(self, x: Tensor, of_teacher: Tensor, of_samples: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """The losses (B,) of samples x (B, C, S, S).

        `loss` trains both networks in one backward pass: its gradient to x is the difference of both x0_hat over the
        teacher's mean error (Yin et al. 2023, Eq. 7 and 8 without alpha, as in the program of its appendix), its
        gradient to the discriminator that of `denoising`. `matching` is the root mean square of the difference.

        Args:
            of_teacher, of_samples: x0_hat (B, C, S, S) of teacher and discriminator for the samples with noise.
            weight: (B,) of their noise levels, for the squared error of the discriminator.
        """
        samples = x.detach()
        scale = (samples - of_teacher).abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=MIN_ERROR)
        difference = (of_samples.detach() - of_teacher) / scale
        towards = (x * difference).mean(dim=(1, 2, 3))  # its gradient to x is the difference
        denoising = weight * (of_samples - samples).square().mean(dim=(1, 2, 3))
        return {
            "loss": denoising + towards - towards.detach(),
            "denoising": denoising.detach(),
            "matching": difference.square().mean(dim=(1, 2, 3)).sqrt(),
        }


class Distillation(Diffusion):
    """The network samples by `samplers.DDIM` in `num_steps` steps as its teacher, a copy before training, in many.

    Regression: noise levels r are cut into equal segments. From x_t the teacher goes to the segment's end by Heun's
    method. A straight line from x_t through that point, in x / (alpha + sigma) over r, meets r = 0 at the x0_hat that
    the network learns. Its weight falls to 0 in the first half of the run, since it blurs where paths part.

    Matching: gradients flow through all steps of samples, whose distribution becomes the teacher's.
    """

    loss: DistributionMatching  # type: ignore[assignment]

    def __init__(
        self,
        loss: DistributionMatching,
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
            loss: of samples and of single steps.
            schedule: alpha(t) and sigma(t), the teacher's.
            num_steps: in which the network learns to sample.
            teacher_steps: of the teacher for each of them in regression, of two evaluations.
            guidance: weight of the teacher's classifier-free guidance, at all noise levels; 1: none.
            parameterization: what the network outputs.
            class_dropout_prob, augment, first_stage: as for Diffusion.
        """
        common = {"class_dropout_prob": class_dropout_prob, "augment": augment, "first_stage": first_stage}
        super().__init__(loss, schedule, Uniform(), parameterization, **common)  # type: ignore[arg-type]
        self.num_steps: int = num_steps
        self.teacher_steps, self.guidance = teacher_steps, guidance

    @property
    def metrics(self) -> list[str]:
        return [*(f"train/{name}" for name in ("loss", "denoising", "matching", "regression")), "val/swd"]

    def __call__(
        self, net: Module, batch: Batch, generator: Generator, rank: int = 0, world_size: int = 1, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """The losses, each (B,), of a batch, and of as many samples: `loss` trains both networks.

        Regression begins for half of the images at the beginning of a segment, for the rest evenly. Segments divide the
        noise levels from the schedule's last, where samples begin, to 0.
        """
        r, eps, *others = self._draw(batch, generator, rank, world_size)
        compared, fresh, *_ = self._draw(batch, generator, rank, world_size)
        share = self._share_of_regression(progress, r)
        self.loss.teacher.to(batch.x0.device)
        end = ((r * self.num_steps).ceil() - 1).clamp(min=0) / self.num_steps
        start = end + (2 * (r - end)).clamp(MIN_LENGTH, 1 / self.num_steps)
        last = self.schedule.at(torch.ones_like(r)).r
        _, begun, labels = self._noised(net, batch, last * start, eps, *others)
        x = self._sample(net, self.schedule.add_noise(torch.zeros_like(batch.x0), eps, last), labels)
        lowest, highest = COMPARED
        noised = self.schedule.add_noise(x.detach(), fresh, lowest + (highest - lowest) * compared)
        of_teacher = self._by_teacher(noised.x_t, noised.t, labels)
        of_samples = self.x0_hat(self.loss.discriminator, x.detach(), noised, *labels)
        losses = self.loss(x, of_teacher, of_samples, self.weighting(noised.level).flatten())
        if share is None:
            return losses
        x0_hat, target = self._estimate(net, begun.x_t, begun.t, labels), self._target(begun, last * end, labels)
        regression = (x0_hat - target).square().mean(dim=(1, 2, 3))
        loss = losses["loss"] + self.loss.regression * share * regression
        return {**losses, "loss": loss, "regression": regression.detach()}

    @torch.compiler.disable  # or each step would be a graph of its own
    def _share_of_regression(self, progress: float, like: Tensor) -> Tensor | None:
        """Of its first weight, on the device of a tensor; None in the second half of the run."""
        return like.new_full((), 1 - 2 * progress) if progress < 0.5 else None

    def _sample(self, net: Module, noise: Noised, labels: list[Tensor]) -> Tensor:
        """Samples (B, C, S, S), in steps that are of equal length in r."""
        x, t, now = noise.x_t, noise.t, noise.level
        first = now.r.flatten()
        for k in range(self.num_steps - 1, -1, -1):
            s = self.schedule.time_at(first * k / self.num_steps)
            after, x0_hat = self.schedule.for_images(s, x), self._estimate(net, x, t, labels)
            remains = after.sigma / now.sigma  # of the noise
            x = after.alpha * x0_hat + remains * (x - now.alpha * x0_hat)
            t, now = s, after
        return x

    def _estimate(self, net: Module, x_t: Tensor, t: Tensor, labels: list[Tensor]) -> Tensor:
        """x0_hat (B, C, S, S), without the knowledge of x0 that `Diffusion.x0_hat` has."""
        return self.parameterization.x0(net(x_t, t, *labels), x_t, self.schedule.for_images(t, x_t))

    @torch.no_grad()
    def _target(self, noised: Noised, end: Tensor, labels: list[Tensor]) -> Tensor:
        """x0_hat of the straight line from x_t to where the teacher arrives at the noise levels `end` (B,)."""
        x, at, now = noised.x_t, noised.t, noised.level
        for k in range(1, self.teacher_steps + 1):
            after = torch.lerp(now.r.flatten(), end.to(at), k / self.teacher_steps)
            x, at = self._follow(x, at, s := self.schedule.time_at(after), labels), s
        last = self.schedule.for_images(at, x)
        y, y_last = noised.x_t / (now.alpha + now.sigma), x / (last.alpha + last.sigma)
        return (now.r * y_last - last.r * y) / (now.r - last.r)

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
        x0_hat = self._by_teacher(x_t, t, labels)
        return (x_t - level.alpha * x0_hat) / level.sigma - x0_hat

    @torch.no_grad()
    def _by_teacher(self, x_t: Tensor, t: Tensor, labels: list[Tensor]) -> Tensor:
        """x0_hat of the teacher, guided."""
        teacher, (y, *others) = self.loss.teacher, labels
        x0_hat = self._estimate(teacher, x_t, t, labels)
        if self.guidance != 1:
            without = [null_labels(teacher, y.device).expand_as(y), *others]
            x0_hat = torch.lerp(self._estimate(teacher, x_t, t, without), x0_hat, self.guidance)
        return x0_hat

    def measure(self, net: Module, batch: Batch) -> dict[str, Tensor]:
        """`val/swd`, the sliced Wasserstein distance of samples to the batch; noise as in `GAN.measure`."""
        x0, y = batch
        last = self.schedule.at(torch.ones(len(x0), device=x0.device)).r
        noise = self.schedule.add_noise(torch.zeros_like(x0), own_noise(x0), last)
        return {"val/swd": distance_of_patches(self._sample(net, noise, [y]), x0)}
