"""Losses: (x_hat, x), both (B, 3, S, S) in [-1, 1], to one number per image (B,)."""

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from artart.features.alexnet import alexnet_for, lpips_alex
from artart.features.pretrained import imagenet_units
from artart.features.vgg import vgg16, vgg16_on
from artart.io.images import to_pixels
from artart.io.ranges import NonNegative

Loss = Callable[[Tensor, Tensor], Tensor]


class MSE:
    """Mean squared error of the pixels."""

    def __init__(self, units: Literal["imagenet", "model"] = "imagenet") -> None:
        """`imagenet` counts in standard deviations of ImageNet's channels, as the article does; `model` in [-1, 1]."""
        self.units = units

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        if self.units == "imagenet":
            x_hat, x = imagenet_units(x_hat), imagenet_units(x)
        return (x_hat.float() - x).square().mean(dim=(1, 2, 3))


class Perceptual:
    """Mean squared error of VGG-16's features at relu3_3, `features[:16]` (Johnson et al. 2016, arXiv 1603.08155)."""

    def __init__(
        self, weights: str = "auto", crop: Annotated[float, Field(ge=0.1, le=1)] = 1.0, cache_targets: bool = False
    ) -> None:
        """
        Args:
            weights: as for `features.vgg.vgg16`.
            crop: share of an image's side that is compared in training, at a different place in each batch;
                validation compares whole images.
            cache_targets: keep the features of every x, in half precision, and compute them once; for images that
                do not change.

        Raises ValueError if crop is below 1 with cache_targets.
        """
        if crop < 1 and cache_targets:
            raise ValueError(f"loss.perceptual.crop={crop}: crops differ from step to step; set cache_targets=false")
        self.weights = weights
        self.crop = crop
        self.targets: dict[int, Tensor] | None = {} if cache_targets else None

    def load(self) -> str:
        """Load the filters before the first batch; returns where they come from.

        Raises ArtError if the weights are not available.
        """
        return vgg16(self.weights).origin

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        if self.crop < 1 and torch.is_grad_enabled():
            x_hat, x = self._cropped(x_hat, x)
        net = self._net(x.device)
        with torch.no_grad():
            wanted = self._features(net, x) if self.targets is None else self._known_features(net, x, self.targets)
        return (self._features(net, x_hat) - wanted).square().mean(dim=(1, 2, 3))

    @torch.compiler.disable  # a compiled step takes the network as an input
    def _net(self, device: torch.device) -> nn.Module:
        return vgg16_on(self.weights, device)

    @torch.compiler.disable  # its place differs from step to step
    def _cropped(self, x_hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Crop a batch at one place, a function of torch's seed, which training sets in each step."""
        size = max(1, round(self.crop * x.shape[-1]))
        top, left = np.random.default_rng(torch.initial_seed()).integers(x.shape[-1] - size + 1, size=2)
        part = (..., slice(top, top + size), slice(left, left + size))
        return x_hat[part], x[part]

    @staticmethod
    def _features(net: nn.Module, x: Tensor) -> Tensor:
        return net(imagenet_units(x)).float()

    @torch.compiler.disable  # its keys are read on the host
    def _known_features(self, net: nn.Module, x: Tensor, targets: dict[int, Tensor]) -> Tensor:
        keys = fingerprints(x)
        if new := [i for i, key in enumerate(keys) if key not in targets]:
            features = self._features(net, x[new]).half()
            targets.update({keys[i]: one.clone() for i, one in zip(new, features, strict=True)})
        with torch.autocast(x.device.type, enabled=False):  # unsupported in half precision on a CPU
            return torch.stack([targets[key] for key in keys]).float()

    @staticmethod
    def bytes_per_target(image_size: int) -> int:
        """Bytes that `cache_targets` keeps of an image."""
        return 2 * 256 * (image_size // 4) ** 2


def fingerprints(x: Tensor) -> list[int]:
    """A number for each image (B, 3, S, S) in [-1, 1], different for images whose pixels differ.

    The sum of the pixels, each times a fixed random 64-bit number: exact, so the same on every device and in any batch.
    """
    pixels = to_pixels(x).flatten(1).long()
    return (pixels * _factors(pixels.shape[1], x.device)).sum(dim=1).tolist()


@functools.cache
def _factors(num: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**63), 2**63 - 1, (num,), generator=generator).to(device)


class LPIPS:
    """LPIPS v0.1 on AlexNet (Zhang et al. 2018, arXiv 1801.03924), a perceptual term that costs a tenth of VGG-16's."""

    def __init__(self, weights: str = "auto") -> None:
        """`weights`: as for `features.alexnet.alexnet_on`."""
        self.weights = weights

    def load(self) -> str:
        """As for Perceptual."""
        return alexnet_for("loss.perceptual.weights", self.weights, "loss.weights.perceptual=0")

    @torch.compiler.disable
    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        return lpips_alex(x_hat, x, self.weights)


class TrainingLoss:
    """What an objective minimises, with what is trained along with its network."""

    terms: Mapping[str, Loss] = {}
    discriminator: nn.Module | None = None  # trained along with the network
    teacher: nn.Module | None = None  # which stays as it is, and is in no checkpoint
    lr_scale = 1.0  # of the discriminator's learning rate

    def load(self) -> dict[str, str]:
        """Load the weights of the terms that have a method `load`; returns what that returns, by name."""
        return {name: term.load() for name, term in self.terms.items() if hasattr(term, "load")}

    def begin_with(self, net: nn.Module) -> None:
        """Called once with the network, in the state in which training begins."""

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for an optimizer of what is trained along with a network, whose learning rate is `lr`."""
        parameters = [] if self.discriminator is None else [*self.discriminator.parameters()]
        return [{"params": parameters, "lr": self.lr_scale * lr}] if parameters else []


class WeightedSum(TrainingLoss):
    """A weighted sum of named terms; a weight of zero leaves its term out of the computation."""

    def __init__(self, weights: Mapping[str, NonNegative], **terms: Loss) -> None:
        """Raises ValueError if weights and terms have different names, or if no term is left."""
        if unknown := weights.keys() ^ terms.keys():
            name = sorted(unknown)[0]
            raise ValueError(f"loss.weights.{name}: weights name {sorted(weights)} but the terms are {sorted(terms)}")
        for name, term in terms.items():
            if not callable(term):
                raise ValueError(f"loss.{name}={term}: not a loss; to leave it out, set loss.weights.{name}=0")
        self.weights = weights
        self.terms = {name: term for name, term in terms.items() if weights[name]}
        if not self.terms:
            raise ValueError(f"loss.weights={dict(weights)}: all are zero; set one above 0")

    def __call__(
        self, x_hat: Tensor, x: Tensor, factors: Mapping[str, Tensor] | None = None, progress: float | None = None
    ) -> dict[str, Tensor]:
        """`loss` and each term by its name, each (B,).

        Args:
            x_hat, x: as for the terms.
            factors: (B,) by name, scale terms within `loss`, image by image.
            progress: share of the run's steps that are done; None: not in training.
        """
        losses = {name: term(x_hat, x) for name, term in self.terms.items()}
        scaled = {name: loss * (factors or {}).get(name, 1.0) for name, loss in losses.items()}
        total = torch.stack([self.weights[name] * loss for name, loss in scaled.items()]).sum(dim=0)
        return {"loss": total, **losses}
