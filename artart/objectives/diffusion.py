"""Diffusion: the network learns to predict the clean image from a noisy one; sampling starts from pure noise."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import Module

from artart.diffusion import parameterization as parameterizations
from artart.diffusion import weighting as weightings
from artart.diffusion.augment import AUGMENT_DIM, Augment
from artart.diffusion.first_stage import NO_FIRST_STAGE, FirstStage
from artart.diffusion.noise import own_generators
from artart.diffusion.schedule import Level, Noised, Schedule
from artart.io.images import Batch
from artart.io.ranges import Fraction
from artart.objectives.base import Mode, Objective, draw_dropout, drop_labels, logged
from artart.objectives.losses import WeightedSum

NUM_BINS = 10  # of the noise level r, in validation
MAX_GRADIENT_IMAGES = 8  # images of a batch whose gradients are compared


class Diffusion(Objective):
    """The network gets a noisy image, the time and the labels, and learns to predict the clean image.

    All losses are of x0_hat, whatever the network outputs. `perceptual` counts only up to a noise level, because at
    high noise x0_hat is no image yet; the other terms are weighted by noise level.
    """

    mode: Mode = "sample"
    loss: WeightedSum
    inputs: Sequence[str] = ("x_t", "t", "y")

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
        first_stage: FirstStage = NO_FIRST_STAGE,
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
            first_stage: between images and what the network is trained on, which batches hold.
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
        self.first_stage = first_stage
        self.network = {"conditioned": True, "augment_dim": AUGMENT_DIM if self.augment else 0}

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys([*logged(self.loss), "val/mse"]))

    def __call__(
        self, net: Module, batch: Batch, generator: Generator, rank: int = 0, world_size: int = 1, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """The losses of a batch at drawn noise levels, each (B,): `loss` holds their weights, the terms do not."""
        x0, noised, labels = self._noised(net, batch, *self._draw(batch, generator, rank, world_size))
        return self.loss(self.x0_hat(net, x0, noised, *labels), x0, self.factors(noised.level))

    @torch.compiler.disable  # it takes no generators; what follows is one graph
    def _draw(self, batch: Batch, generator: Generator, rank: int, world_size: int) -> list[Tensor]:
        """Noise levels, noise, dropout of labels, and augmentation, of this process; drawn for the images of all."""
        num = world_size * len(batch.x0)
        r = self.noise_levels(num, generator)
        eps = torch.randn((num, *batch.x0.shape[1:]), generator=generator, device=generator.device)
        is_dropped = draw_dropout(num, batch.y.shape[1], self.class_dropout_prob, generator)
        drawn = [r, eps, is_dropped, *(self.augment.draw(num, generator) if self.augment is not None else ())]
        return [values.chunk(world_size)[rank] for values in drawn]

    def _noised(
        self, net: Module, batch: Batch, r: Tensor, eps: Tensor, is_dropped: Tensor, *augmentation: Tensor
    ) -> tuple[Tensor, Noised, list[Tensor]]:
        """The images of a batch, augmented; the same with noise; y with labels dropped, and augment_labels if any."""
        x0, labels = batch.x0, [drop_labels(net, batch.y, is_dropped)]
        if self.augment is not None:
            x0, augment_labels = self.augment.apply(x0, *augmentation)
            labels.append(augment_labels)
        return x0, self.schedule.add_noise(x0, eps, r), labels

    def x0_hat(self, net: Module, x0: Tensor, noised: Noised, *labels: Tensor) -> Tensor:
        """The network's x0_hat (B, C, S, S), computed from its error: eps-prediction divides by no small alpha."""
        output = net(noised.x_t, noised.t, *labels)
        return x0 + self.parameterization.x0_error(output, x0, noised.eps, noised.level)

    def factors(self, level: Level) -> dict[str, Tensor]:
        """The weight of each term at a noise level, (B,)."""
        weight = self.weighting(level).flatten()
        gate = (level.r <= self.perceptual_max_noise).to(weight).flatten()
        return {name: gate if name == "perceptual" else weight for name in self.loss.terms}

    def measure(self, net: Module, batch: Batch) -> dict[str, Tensor]:
        """Losses at a noise level drawn as in training; and the squared error of x0_hat at levels drawn evenly.

        Noise and levels are a function of each image's pixels, so metrics are comparable across epochs and batch
        sizes; `val/mse`, at evenly drawn levels, also across runs that train at other levels. `noise/mse_r0.05` is for
        r in 0 .. 0.1. `noise/perceptual_gradient_r0.05` is the norm of the gradient of the perceptual term over that
        of the other terms, for a few images of the batch; it should stay below 1.
        """
        (x0, y), generators = batch, own_generators(batch.x0)
        as_trained = torch.cat([self.noise_levels(1, generator) for generator in generators])
        evenly = torch.cat([torch.rand(1, generator=generator) for generator in generators])
        eps = torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in generators])
        noised = self.schedule.add_noise(x0, eps, as_trained)
        losses = self.loss(self.x0_hat(net, x0, noised, y), x0, self.factors(noised.level))
        noised = self.schedule.add_noise(x0, eps, evenly)
        x0_hat = self.x0_hat(net, x0, noised, y)
        by_level = {"mse": (x0_hat - x0).square().mean(dim=(1, 2, 3))}
        if "perceptual" in self.loss.terms and len(self.loss.terms) > 1:
            few = slice(MAX_GRADIENT_IMAGES)
            level = Level(*(values[few] for values in noised.level))
            by_level["perceptual_gradient"] = self._perceptual_gradient(x0_hat[few], x0[few], level)
        measured = {f"val/{name}": values for name, values in losses.items()} | {"val/mse": by_level["mse"]}
        for name, values in by_level.items():
            bins = (evenly[: len(values)] * NUM_BINS).long().to(values.device)
            for k in range(NUM_BINS):
                measured[f"noise/{name}_r{(k + 0.5) / NUM_BINS:.2f}"] = values[bins == k]
        return measured

    def _perceptual_gradient(self, x0_hat: Tensor, x0: Tensor, level: Level) -> Tensor:
        """(B,) norm of the weighted perceptual term's gradient to x0_hat, over that of the other terms."""
        with torch.inference_mode(False), torch.enable_grad():
            x0_hat, x0 = x0_hat.clone().requires_grad_(), x0.clone()
            factors = self.factors(Level(*(values.clone() for values in level)))
            losses = self.loss(x0_hat, x0, factors)
            perceptual = self.loss.weights["perceptual"] * losses["perceptual"] * factors["perceptual"]
            (of_perceptual,) = torch.autograd.grad(perceptual.sum(), x0_hat, retain_graph=True)
            (of_all,) = torch.autograd.grad(losses["loss"].sum(), x0_hat)
        return of_perceptual.flatten(1).norm(dim=1) / (of_all - of_perceptual).flatten(1).norm(dim=1)
