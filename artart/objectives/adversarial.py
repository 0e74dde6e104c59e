"""A loss with a patch discriminator, as of the first stage of Esser et al. 2021, arXiv 2012.09841, Eq. 5 to 7.

The discriminator is trained by the same backward pass and optimizer as the network.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from artart.io.ranges import Fraction, NonNegative, Positive
from artart.objectives.losses import Loss, WeightedSum

NUM_GROUPS = 8
MAX_BALANCE = 1e4


class PatchDiscriminator(nn.Sequential):
    """Maps images (B, 3, S, S) to a score of each patch of 38 px, (B, 1, S / 8, S / 8): high for art.

    Source: Isola et al. 2017, arXiv 1611.07004; with group normalisation, which does not depend on the batch.
    """

    def __init__(self, channels: Literal[16, 32, 64] = 32) -> None:
        """`channels`: of the first of three levels; each has twice those of the one before."""
        widths = (channels, 2 * channels, 4 * channels)
        with torch.random.fork_rng(devices=[]):  # to load a checkpoint changes no random state
            torch.default_generator.manual_seed(0)
            layers: list[nn.Module] = [nn.Conv2d(3, channels, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            for before, width in pairwise(widths):
                layers += [nn.Conv2d(before, width, kernel_size=4, stride=2, padding=1)]
                layers += [nn.GroupNorm(NUM_GROUPS, width), nn.LeakyReLU(0.2)]
            super().__init__(*layers, nn.Conv2d(widths[-1], 1, kernel_size=3, padding=1))


class AdversarialSum(WeightedSum):
    """A weighted sum with an adversarial term in training: the score of a jointly trained discriminator.

    Validation leaves the term out, so it compares networks that were trained with and without it.

    Its weight balances gradients to each image, which does not depend on the batch; Esser et al. balance those to the
    last layer. There the gradients of the other terms cancel in part and that of the discriminator does not: measured,
    a weight of 0.02 here is about 0.4 to 1 there.
    """

    discriminator: PatchDiscriminator | None

    def __init__(
        self,
        weights: Mapping[str, NonNegative],
        discriminator: PatchDiscriminator,
        start: Fraction = 0.2,
        lr_scale: Positive = 0.25,
        **terms: Loss,
    ) -> None:
        """
        Args:
            weights: of the terms and of `adversarial`, whose gradient is first given the norm of that of all others;
                zero: without discriminator.
            discriminator: scores images.
            start: share of the run's steps before the adversarial term, in which the discriminator is trained alone.
            lr_scale: learning rate of the discriminator over that of the network.
        """
        super().__init__({name: weight for name, weight in weights.items() if name != "adversarial"}, **terms)
        self.adversarial_weight = weights.get("adversarial", 0.0)
        self.discriminator = discriminator if self.adversarial_weight else None
        self.start = start
        self.lr_scale = lr_scale

    @torch.compiler.disable  # it takes no gradients of gradients, nor a progress that differs from step to step
    def __call__(
        self, x_hat: Tensor, x: Tensor, factors: Mapping[str, Tensor] | None = None, progress: float | None = None
    ) -> dict[str, Tensor]:
        """As for WeightedSum; in training also `discriminator`, its loss, and `adversarial`, the network's term."""
        losses = super().__call__(x_hat, x, factors)
        if self.discriminator is None or progress is None:
            return losses
        of_art, of_network = self.discriminator(torch.cat([x, x_hat.detach()])).chunk(2)
        losses["discriminator"] = hinge(of_art, of_network)
        total = losses["loss"] + losses["discriminator"]
        if progress >= self.start:
            fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
            losses["adversarial"] = -_per_image(functional_call(self.discriminator, fixed, (x_hat,)))
            weight = self.adversarial_weight * balance(losses["loss"], losses["adversarial"], x_hat)
            total = total + weight * losses["adversarial"]
        return {**losses, "loss": total}


def hinge(of_art: Tensor, of_network: Tensor) -> Tensor:
    """The discriminator's loss (B,) by its scores of images and of what the network makes of them (Esser's code)."""
    return _per_image((1 - of_art.float()).relu() + (1 + of_network.float()).relu()) / 2


def balance(loss: Tensor, adversarial: Tensor, x_hat: Tensor) -> Tensor:
    """What gives the gradient of `adversarial` to an image the norm of that of `loss`, (B,); Eq. 7, image by image."""
    norms = [
        torch.autograd.grad(term.sum(), x_hat, retain_graph=True)[0].float().flatten(1).norm(dim=1)
        for term in (loss, adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-6)).clamp(max=MAX_BALANCE)


def _per_image(scores: Tensor) -> Tensor:
    return scores.float().mean(dim=(1, 2, 3))
