"""Diffusion: the network learns to tell the clean image from one with noise; sampling begins with noise alone."""

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn

from artart.diffusion import parameterization as parameterizations
from artart.diffusion import weighting as weightings
from artart.diffusion.augment import AUGMENT_DIM, Augment
from artart.diffusion.guidance import null_labels
from artart.diffusion.noise import own_generators
from artart.diffusion.schedule import Level, Schedule
from artart.io.images import Batch
from artart.io.ranges import Fraction
from artart.objectives.base import logged
from artart.objectives.losses import WeightedSum

NUM_BINS = 10  # of the noise level r, in validation
MAX_GRADIENT_IMAGES = 8  # images of a batch whose gradients are compared


class Noised(NamedTuple):
    """Images with noise."""

    x_t: Tensor  # (B, C, S, S) alpha x0 + sigma eps
    eps: Tensor  # (B, C, S, S) standard normal noise
    t: Tensor  # (B,) times
    level: Level  # the schedule at t, each (B, 1, 1, 1)


class Diffusion:
    """The network sees an image with noise, the time and the class, and learns to tell the clean image.

    All losses are of x0_hat, whatever the network outputs. `perceptual` counts where there is little enough noise for
    x0_hat to be an image; the other terms are weighted by noise level.
    """

    mode: ClassVar = "sample"

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
            schedule: how noise comes in.
            noise_levels: (num, generator) to the noise levels r (num,) that are trained.
            parameterization: what the network outputs.
            weighting: of the x0 error by noise level.
            perceptual_max_noise: noise level r up to which the perceptual term counts.
            class_dropout_prob: how often all labels of an image are withheld, which guidance needs; of several columns
                each one is also withheld alone that often.
            augment: what is done to images in training and given to the network; None: nothing.
        """
        self.loss = loss
        self.schedule = schedule
        self.noise_levels = noise_levels
        self.parameterization = parameterizations.PARAMETERIZATIONS[parameterization]
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
        (num, *shape), device = batch.x0.shape, generator.device
        num_all, own = num * world_size, slice(rank * num, (rank + 1) * num)  # what is drawn is for all processes
        r = self.noise_levels(num_all, generator)[own]
        eps = torch.randn((num_all, *shape), generator=generator, device=device)[own]
        x0, y, augment_labels = batch.x0, batch.y, None
        is_dropped = torch.rand(num_all, 1, generator=generator, device=device)[own] < self.class_dropout_prob
        if y.shape[1] > 1:
            each = torch.rand(num_all, y.shape[1], generator=generator, device=device)[own]
            is_dropped = is_dropped | (each < self.class_dropout_prob)
        if self.augment is not None:
            matrices, augment_labels = (drawn[own] for drawn in self.augment.draw(num_all, generator))
            x0, augment_labels = self.augment.apply(x0, matrices, augment_labels)
        noised = self.add_noise(x0, eps, r)
        y = torch.where(is_dropped.to(y.device), null_labels(net, y.device), y)
        return self._losses(self._x0_hat(net, x0, noised, y, augment_labels), x0, noised.level)

    def add_noise(self, x0: Tensor, eps: Tensor, r: Tensor) -> Noised:
        """Images (B, C, S, S) with noise of their shape at the levels r (B,)."""
        t = self.schedule.time_at(r.to(x0))
        level, eps = self.schedule.for_images(t, x0), eps.to(x0)
        return Noised(level.alpha * x0 + level.sigma * eps, eps, t, level)

    def _x0_hat(
        self, net: nn.Module, x0: Tensor, noised: Noised, y: Tensor, augment_labels: Tensor | None = None
    ) -> Tensor:
        """x0_hat by way of its error, so that eps-prediction divides nothing by a small alpha."""
        output = (
            net(noised.x_t, noised.t, y) if augment_labels is None else net(noised.x_t, noised.t, y, augment_labels)
        )
        return x0 + self.parameterization.x0_error(output, x0, noised.eps, noised.level)

    def _losses(self, x0_hat: Tensor, x0: Tensor, level: Level) -> dict[str, Tensor]:
        return self.loss(x0_hat, x0, self._factors(level))

    def _factors(self, level: Level) -> dict[str, Tensor]:
        """What each term counts at a noise level, (B,)."""
        weight = self.weighting(level).flatten()
        gate = (level.r <= self.perceptual_max_noise).to(weight).flatten()
        return {name: gate if name == "perceptual" else weight for name in self.loss.terms}

    def measure(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Losses at a noise level drawn as in training; and the squared error of x0_hat at levels drawn evenly.

        Noise and levels are a function of each image's pixels, so figures compare across epochs and batch sizes;
        `val/mse`, over all levels evenly, also across runs that train at other levels.
        `noise/mse_r0.05` is of r in 0 .. 0.1. `noise/perceptual_gradient_r0.05` is how strongly the perceptual term
        pulls at x0_hat against the other terms, of a few images of the batch; it should stay below 1.
        """
        generators = own_generators(batch.x0)
        shape = batch.x0.shape[1:]
        as_trained = torch.cat([self.noise_levels(1, generator) for generator in generators])
        evenly = torch.cat([torch.rand(1, generator=generator) for generator in generators])
        eps = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        noised = self.add_noise(batch.x0, eps, as_trained)
        losses = self._losses(self._x0_hat(net, batch.x0, noised, batch.y), batch.x0, noised.level)
        noised = self.add_noise(batch.x0, eps, evenly)
        x0_hat = self._x0_hat(net, batch.x0, noised, batch.y)
        by_level = {"mse": (x0_hat - batch.x0).square().mean(dim=(1, 2, 3))}
        if "perceptual" in self.loss.terms and len(self.loss.terms) > 1:
            few = slice(MAX_GRADIENT_IMAGES)
            level = Level(*(values[few] for values in noised.level))
            by_level["perceptual_gradient"] = self._perceptual_gradient(x0_hat[few], batch.x0[few], level)
        measured = {f"val/{name}": values for name, values in losses.items()} | {"val/mse": by_level["mse"]}
        for name, values in by_level.items():
            bins = (evenly[: len(values)] * NUM_BINS).long().to(values.device)
            for k in range(NUM_BINS):
                measured[f"noise/{name}_r{(k + 0.5) / NUM_BINS:.2f}"] = values[bins == k]
        return measured

    def _perceptual_gradient(self, x0_hat: Tensor, x0: Tensor, level: Level) -> Tensor:
        """(B,) norm of the perceptual term's gradient to x0_hat, as it counts, over that of the other terms."""
        with torch.inference_mode(False), torch.enable_grad():
            x0_hat, x0 = x0_hat.clone().requires_grad_(), x0.clone()
            level = Level(*(values.clone() for values in level))
            losses = self._losses(x0_hat, x0, level)
            perceptual = self.loss.weights["perceptual"] * losses["perceptual"] * self._factors(level)["perceptual"]
            (of_perceptual,) = torch.autograd.grad(perceptual.sum(), x0_hat, retain_graph=True)
            (of_all,) = torch.autograd.grad(losses["loss"].sum(), x0_hat)
        return of_perceptual.flatten(1).norm(dim=1) / (of_all - of_perceptual).flatten(1).norm(dim=1)
