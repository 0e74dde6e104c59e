"""Diffusion: the network learns to predict the clean image from a noisy one; sampling starts from pure noise."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from artart.diffusion import parameterization as parameterizations
from artart.diffusion import weighting as weightings
from artart.diffusion.augment import AUGMENT_DIM, Augment
from artart.diffusion.guidance import null_labels
from artart.diffusion.schedule import Level, Noised, Schedule
from artart.io.images import Batch
from artart.io.ranges import Fraction
from artart.objectives import validation
from artart.objectives.base import logged
from artart.objectives.losses import WeightedSum


class Diffusion:
    """The network gets a noisy image, the time and the labels, and learns to predict the clean image.

    All losses are of x0_hat, whatever the network outputs. `perceptual` counts only up to a noise level, because at
    high noise x0_hat is no image yet; the other terms are weighted by noise level.
    """

    mode: ClassVar = "sample"
    inputs: ClassVar = ("x_t", "t", "y")

    def __init__(
        self,
        loss: WeightedSum,
        schedule: Schedule,
        noise_levels: Callable[[int, Generator], Tensor],
        parameterization: parameterizations.Name = "x0",
        weighting: weightings.Name = "velocity",
        perceptual_max_noise: Fraction = 0.7,
        class_dropout_prob: Fraction = 0.1,
        augment: Augment | None = None,
    ) -> None:
        """
        Args:
            loss: of (x0_hat, x0); its MSE in units of the model.
            schedule: alpha(t) and sigma(t).
            noise_levels: (num, generator) to the noise levels r (num,) that are trained.
            parameterization: what the network outputs.
            weighting: of the x0 error by noise level.
            perceptual_max_noise: noise level r up to which the perceptual term counts.
            class_dropout_prob: probability of dropping all labels of an image, which guidance needs; each of several
                columns is also dropped alone with this probability.
            augment: of training images, with augmentation conditioning; None: no augmentation.
        """
        self.loss = loss
        self.schedule = schedule
        self.noise_levels = noise_levels
        self.parameterization = parameterizations.PARAMETERIZATIONS[parameterization]
        self.output = f"{parameterization}_hat"
        self.weighting = weightings.WEIGHTINGS[weighting]
        self.perceptual_max_noise = perceptual_max_noise
        self.class_dropout_prob = class_dropout_prob
        self.augment = augment if augment is not None and augment.probability > 0 else None

    @property
    def network(self) -> Mapping[str, int]:
        return {"conditioned": True, "augment_dim": 0 if self.augment is None else AUGMENT_DIM}

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys([*logged(self.loss), "val/mse"]))

    def __call__(
        self, net: nn.Module, batch: Batch, generator: Generator, rank: int = 0, world_size: int = 1
    ) -> dict[str, Tensor]:
        """The losses of a batch at drawn noise levels, each (B,): `loss` holds their weights, the terms do not."""
        (x0, y), augment_labels = batch, None
        num = world_size * len(x0)

        def own(drawn: Tensor) -> Tensor:
            """The part of this process in the draws for all processes."""
            return drawn.chunk(world_size)[rank]

        r = own(self.noise_levels(num, generator))
        eps = own(torch.randn((num, *x0.shape[1:]), generator=generator, device=generator.device))
        is_dropped = own(self._draw_dropout(num, y.shape[1], generator)).to(y.device)
        if self.augment is not None:
            x0, augment_labels = self.augment.apply(x0, *map(own, self.augment.draw(num, generator)))
        y = torch.where(is_dropped, null_labels(net, y.device), y)
        noised = self.schedule.add_noise(x0, eps, r)
        return self.loss(self.x0_hat(net, x0, noised, y, augment_labels), x0, self.factors(noised.level))

    def _draw_dropout(self, num: int, num_columns: int, generator: Generator) -> Tensor:
        """Whether labels are dropped: (num, 1) for one column, (num, num_columns) for several."""

        def draw(width: int) -> Tensor:
            return torch.rand(num, width, generator=generator, device=generator.device) < self.class_dropout_prob

        return draw(1) if num_columns == 1 else draw(1) | draw(num_columns)

    def x0_hat(
        self, net: nn.Module, x0: Tensor, noised: Noised, y: Tensor, augment_labels: Tensor | None = None
    ) -> Tensor:
        """The network's x0_hat (B, C, S, S), computed from its error: eps-prediction divides by no small alpha."""
        inputs = (noised.x_t, noised.t, y)
        output = net(*inputs) if augment_labels is None else net(*inputs, augment_labels)
        return x0 + self.parameterization.x0_error(output, x0, noised.eps, noised.level)

    def factors(self, level: Level) -> dict[str, Tensor]:
        """The weight of each term at a noise level, (B,)."""
        weight = self.weighting(level).flatten()
        gate = (level.r <= self.perceptual_max_noise).to(weight).flatten()
        return {name: gate if name == "perceptual" else weight for name in self.loss.terms}

    def measure(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Losses, and errors by noise level: see `validation.measure`."""
        return validation.measure(self, net, batch)
