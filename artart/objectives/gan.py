"""A generative adversarial network: a generator learns from a discriminator that is trained along with it.

Source: R3GAN, Huang et al. 2024, arXiv 2501.05441.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.nn import functional as F

from artart.diffusion.noise import own_noise
from artart.diffusion.parameterization import X0Prediction
from artart.diffusion.schedule import Flow, per_image
from artart.io.images import Batch
from artart.io.ranges import Fraction, NonNegative
from artart.metrics.distances import distance_of_patches
from artart.objectives.base import Mode, Objective, draw_dropout, drop_labels
from artart.objectives.differentiable_augment import augment, draw
from artart.objectives.losses import TrainingLoss


class RelativisticLoss(TrainingLoss):
    """The relativistic pairing loss with zero-centred gradient penalties of real (R1) and generated images (R2).

    With the score D of a real image x and of a generated one G, the discriminator minimises
    softplus(-(D(x) - D(G))) + gamma / 2 (|grad D(x)|^2 + |grad D(G)|^2), the generator softplus(-(D(G) - D(x))).
    """

    discriminator: Module

    def __init__(
        self,
        discriminator: Module,
        gamma: NonNegative = 2.0,
        final_gamma: NonNegative = 0.02,
        burn_in: Fraction = 0.5,
    ) -> None:
        """
        Args:
            discriminator: (x, y) to scores (B,).
            gamma: weight of the gradient penalties at first.
            final_gamma: their weight after the burn-in; it falls along a cosine.
            burn_in: share of the run's steps.
        """
        self.discriminator = discriminator
        self.gamma, self.final_gamma, self.burn_in = gamma, final_gamma, burn_in

    def __call__(self, real: Tensor, fake: Tensor, y: Tensor, progress: float = 1.0) -> dict[str, Tensor]:
        """The losses (B,) of pairs of a real and a generated image, (B, C, S, S) each, with the labels y (B, K).

        `loss` trains both networks in one backward pass: its gradient to the discriminator's weights is that of
        `discriminator`, its gradient to `fake` that of `generator` (Shen et al. 2021, arXiv 2103.00430). R2 has
        computed the latter already.
        """
        both = torch.cat([real, fake]).detach().requires_grad_()
        scores = self.discriminator(both, torch.cat([y, y])).to(both.dtype)
        (gradients,) = torch.autograd.grad(scores.sum(), both, create_graph=True)
        r1, r2 = gradients.flatten(1).square().sum(dim=1).chunk(2)
        of_real, of_fake = scores.chunk(2)
        discriminator = pairing_loss(of_real, of_fake)
        gamma = during_burn_in(self.gamma, self.final_gamma, progress, self.burn_in)
        penalized = discriminator + gamma / 2 * (r1 + r2)
        with torch.no_grad():
            slope = per_image(-torch.sigmoid(of_real - of_fake), fake) * gradients.chunk(2)[1]
        generator = pairing_loss(of_fake, of_real).detach()
        towards = (fake * slope).flatten(1).sum(dim=1)  # its gradient to `fake` is `slope`
        return {
            "loss": penalized + generator + towards - towards.detach(),
            "discriminator": discriminator.detach(),
            "generator": generator,
            "r1": r1.detach(),
            "r2": r2.detach(),
        }


def pairing_loss(above: Tensor, below: Tensor) -> Tensor:
    """What falls as the scores `above` rise over those `below`, (B,); Jolicoeur-Martineau 2018, arXiv 1807.00734."""
    return F.softplus(below - above)


def during_burn_in(first: float, last: float, progress: float, burn_in: float) -> float:
    """A value that goes from `first` to `last` along half a cosine in the share `burn_in` of a run, and stays there."""
    share = min(1.0, progress / burn_in) if burn_in else 1.0
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


class GAN(Objective):
    """The network makes images from noise and labels in one evaluation, which a discriminator compares with art.

    In terms of sampling it predicts x0 from pure noise, in one step.
    """

    mode: Mode = "sample"
    loss: RelativisticLoss
    inputs: Sequence[str] = ("x", "y")
    one_step = True
    schedule: ClassVar = Flow()
    parameterization: ClassVar = X0Prediction()

    def __init__(
        self,
        loss: RelativisticLoss,
        augment_prob: Fraction = 0.3,
        burn_in: Fraction = 0.5,
        class_dropout_prob: Fraction = 0.1,
    ) -> None:
        """
        Args:
            loss: of real and generated images.
            augment_prob: probability of each operation on the images that the discriminator sees; it rises from 0.
            burn_in: share of the run's steps in which it rises.
            class_dropout_prob: as for Diffusion: for images without a label.
        """
        self.loss = loss
        self.augment_prob, self.burn_in = augment_prob, burn_in
        self.class_dropout_prob = class_dropout_prob

    @property
    def metrics(self) -> list[str]:
        names = ("loss", "discriminator", "generator", "r1", "r2")
        return [*(f"train/{name}" for name in names), "val/discriminator", "val/swd"]

    def __call__(
        self, net: Module, batch: Batch, generator: Generator, rank: int = 0, world_size: int = 1, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """The losses of a batch, each (B,): `loss` trains both networks."""
        num = world_size * len(batch.x0)
        z = torch.randn((num, *batch.x0.shape[1:]), generator=generator, device=generator.device)
        probability = during_burn_in(0.0, self.augment_prob, progress, self.burn_in)
        operations = [draw(num, probability, generator).chunk(world_size, rank) for _ in ("real", "generated")]
        is_dropped = draw_dropout(num, batch.y.shape[1], self.class_dropout_prob, generator).chunk(world_size)[rank]
        y = drop_labels(net, batch.y, is_dropped)
        fake = net(z.chunk(world_size)[rank].to(batch.x0), None, y)
        real, fake = (augment(x, how) for x, how in zip((batch.x0, fake), operations, strict=True))
        return self.loss(real, fake, y, progress)

    def measure(self, net: Module, batch: Batch) -> dict[str, Tensor]:
        """`val/swd`, the sliced Wasserstein distance of generated images to the batch, and `val/discriminator`.

        The latter is the averaged discriminator's loss on held-out images, without augmentation: while it rises and
        `train/discriminator` falls, the discriminator memorizes training images. The distance is that of parts of
        PART images, since one of more images is smaller. Noise is a function of each image's pixels.
        """
        x0, y = batch
        fake = net(own_noise(x0), None, y)
        scores = [self.loss.discriminator(x, y).float() for x in (x0, fake)]
        return {"val/discriminator": pairing_loss(*scores), "val/swd": distance_of_patches(fake, x0)}
