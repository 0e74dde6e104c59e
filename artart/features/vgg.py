"""VGG-16 up to relu3_3, for the perceptual loss."""

import copy
import functools
import logging

import torch
from torch import nn
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import make_layers

from artart import ArtError
from artart.features.pretrained import Filters, filled, frozen

log = logging.getLogger(__name__)

REMEDY = "name a file or folder: loss.perceptual.weights=PATH, or leave the term out: loss.weights.perceptual=0"


@functools.cache
@torch.inference_mode(False)
def vgg16(weights: str) -> Filters:
    """VGG-16 `features[:16]`, up to relu3_3, on the CPU; one copy per process.

    Args:
        weights: `imagenet`: torchvision's, from its cache or by download. `auto`: the same, or else `random`.
            `random`: seeded random filters. Anything else: a file or folder, as for `pretrained.find_weights`.

    Raises ArtError if the weights are not available.
    """
    if weights == "random":
        return _random_filters("random filters (seed 0)")
    try:
        source = VGG16_Weights.IMAGENET1K_V1 if weights in ("auto", "imagenet") else weights
        return filled(_empty(), source, "VGG-16")
    except ArtError as error:
        problem = f"loss.perceptual.weights={weights}: {error}"
        if weights != "auto":
            raise ArtError(f"{problem}; {REMEDY}") from None
    log.warning(
        "%s. The perceptual loss uses RANDOM filters instead: they compare textures, not content. "
        "Download the trained ones, or %s",
        problem,
        REMEDY,
    )
    return _random_filters("random filters (seed 0), because ImageNet's are not available")


@functools.cache
@torch.inference_mode(False)  # tensors made in it could take part in no gradient
def vgg16_on(weights: str, device: torch.device) -> nn.Sequential:
    """`vgg16` on a device; one copy per process and device."""
    net = vgg16(weights).net
    return net if device.type == "cpu" else copy.deepcopy(net).to(device)


def _empty() -> nn.Sequential:
    with torch.device("meta"):
        return make_layers([64, 64, "M", 128, 128, "M", 256, 256, 256])


def _random_filters(origin: str) -> Filters:
    """He initialisation from its own generator: the global random state does not change."""
    net, generator = _empty().to_empty(device="cpu"), torch.Generator().manual_seed(0)
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
    return Filters(frozen(net), origin)
