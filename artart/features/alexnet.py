"""AlexNet: features for distances between sets of images, and LPIPS between two images."""

import functools
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import AlexNet_Weights, alexnet

from artart import ArtError
from artart.features.pretrained import Filters, WeightsNotFoundError, filled, find_weights, imagenet_units, resized
from artart.io.images import to_model

CHUNK: Final = 64  # images in a batch of AlexNet
MIN_SIDE_FOR_LPIPS: Final = 64  # side in pixels of the patches on which LPIPS was fitted
RELUS: Final = (1, 4, 7, 9, 11)  # the layers of AlexNet that LPIPS compares
CHANNELS: Final = (64, 192, 384, 256, 256)  # of these layers
HEAD_NAMES: Final = ("alex.lin{}.weight", "lin{}.model.1.weight")  # in files; the second are those of the authors
LPIPS_HEADS: Final = "LPIPS v0.1 of AlexNet"


@functools.cache
@torch.inference_mode(False)  # tensors made in it could take part in no gradient
def alexnet_on(weights: str, device: torch.device) -> Filters:
    """AlexNet `features[:12]`, up to relu5, on a device; one copy per process and device.

    With weights=`auto` torchvision's, from its cache or by download; else of a file or folder (`find_weights`).

    Raises ArtError if the weights are not available.
    """
    with torch.device("meta"):
        net = alexnet().features[:12]
    net, origin = filled(net, AlexNet_Weights.IMAGENET1K_V1 if weights == "auto" else weights, "AlexNet")
    return Filters(net.to(device), origin)


@functools.cache
@torch.inference_mode(False)
def lpips_heads(weights: str, device: torch.device) -> Sequence[Tensor]:
    """The weights of LPIPS v0.1 for the channels of AlexNet's five layers, each (C, 1, 1), on a device.

    Of a file or folder (`find_weights`); with weights=`auto`, or if there are none, those in torchmetrics.

    Raises ArtError if several files have them.
    """
    forms = [{name.format(k): (1, num, 1, 1) for k, num in enumerate(CHANNELS)} for name in HEAD_NAMES]
    (package,) = find_spec("torchmetrics").submodule_search_locations  # type: ignore[union-attr, misc]  # not imported
    bundled = str(Path(package, "functional", "image", "lpips_models", "alex.pth"))
    try:
        state, _ = find_weights(bundled if weights == "auto" else weights, forms, LPIPS_HEADS)
    except WeightsNotFoundError:
        state, _ = find_weights(bundled, forms, LPIPS_HEADS)
    return [head[0].to(device) for head in state.values()]


def alexnet_for(setting: str, weights: str, without: str | None = None) -> str:
    """Load AlexNet and the heads of LPIPS before any work; returns the origin of AlexNet's weights.

    Raises ArtError if the weights are not available. It names the key that asks for them, `setting`, its value
    `weights` (as for `alexnet_on`), and the setting that does `without` them; None: `setting=null`.
    """
    try:
        origin = alexnet_on(weights, cpu := torch.device("cpu")).origin
        lpips_heads(weights, cpu)
        return origin
    except ArtError as error:
        remedy = f"name a file or folder: {setting}=PATH, or do without: {without or f'{setting}=null'}"
        raise ArtError(f"{setting}={weights}: {error}; {remedy}") from None


def features_of(pixels: Tensor, weights: str, device: torch.device) -> Tensor:
    """Uint8 images (N, 3, H, W) to AlexNet's relu5, averaged over space: (N, 256) in double precision, on the CPU.

    Images are `resized`, as for Inception's FID; `weights` as for `alexnet_on`.
    """
    net = alexnet_on(weights, device).net
    parts = (net(resized(to_model(part).to(device))).mean(dim=(2, 3)).cpu() for part in pixels.split(CHUNK))
    return torch.cat([*parts]).double()


def lpips_alex(x_hat: Tensor, x: Tensor, weights: str) -> Tensor:
    """LPIPS v0.1 on AlexNet (Zhang et al. 2018, arXiv 1801.03924): 0 for equal images, about 0.7 for unrelated ones.

    x_hat, which is clamped, and x are (B, 3, H, W) in [-1, 1], the result (B,); `weights` as for `alexnet_on`. Images
    with a side below 64 px are enlarged to that (bicubic).
    """
    x_hat = x_hat.float().clamp(-1, 1)
    if (enlarged := MIN_SIDE_FOR_LPIPS / min(x.shape[-2:])) > 1:
        x_hat, x = (F.interpolate(images, scale_factor=enlarged, mode="bicubic").clamp(-1, 1) for images in (x_hat, x))
    net, heads = alexnet_on(weights, x.device).net, iter(lpips_heads(weights, x.device))
    ours, theirs = imagenet_units(x_hat), imagenet_units(x)
    distance = torch.zeros(len(x), device=x.device)
    for k, layer in enumerate(net):
        ours, theirs = layer(ours), layer(theirs)
        if k in RELUS:
            error = (F.normalize(ours, eps=1e-10) - F.normalize(theirs, eps=1e-10)).square()
            distance = distance + (next(heads) * error).sum(dim=1).mean(dim=(1, 2))
    return distance
