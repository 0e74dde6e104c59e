"""What AlexNet sees in images: features for distances between sets, and LPIPS between two images."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from artart.features.pretrained import alexnet_on, imagenet_units, lpips_heads
from artart.io.images import to_model

CHUNK: Final = 64  # images that AlexNet sees at once
SEEN_AT: Final = 224  # side in pixels at which AlexNet was trained
MIN_SIDE_FOR_LPIPS: Final = 64  # side in pixels of the patches on which LPIPS was fitted
RELUS: Final = (1, 4, 7, 9, 11)  # the layers of AlexNet that LPIPS compares


def alexnet_features(images: Tensor, weights: str) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to AlexNet's relu5, averaged over space: (B, 256) in double precision, on the CPU.

    Images are brought to 224 px (bicubic, antialiased), as for Inception's FID; `weights` as for
    `pretrained.alexnet_on`.
    """
    large = F.interpolate(images, (SEEN_AT, SEEN_AT), mode="bicubic", antialias=True)
    net = alexnet_on(weights, images.device).net
    return net(imagenet_units(large.clamp(-1, 1))).mean(dim=(2, 3)).cpu().double()


def features_of(pixels: Tensor, weights: str, device: torch.device) -> Tensor:
    """`alexnet_features` (N, 256) of uint8 images (N, 3, H, W), few at a time."""
    return torch.cat([alexnet_features(to_model(part).to(device), weights) for part in pixels.split(CHUNK)])


def lpips_alex(x_hat: Tensor, x: Tensor, weights: str) -> Tensor:
    """LPIPS v0.1 on AlexNet (Zhang et al. 2018, arXiv 1801.03924): 0 for a copy, about 0.7 for what has nothing alike.

    Images with a side below 64 px are enlarged to that (bicubic).

    Args:
        x_hat: (B, 3, H, W), clamped to [-1, 1].
        x: the same shape, in [-1, 1].
        weights: as for `pretrained.alexnet_on`.

    Returns:
        (B,)
    """
    x_hat = x_hat.float().clamp(-1, 1)
    if (enlarged := MIN_SIDE_FOR_LPIPS / min(x.shape[-2:])) > 1:
        x_hat, x = (F.interpolate(images, scale_factor=enlarged, mode="bicubic").clamp(-1, 1) for images in (x_hat, x))
    net, heads = alexnet_on(weights, x.device).net, lpips_heads(weights, x.device)
    ours, theirs = imagenet_units(x_hat), imagenet_units(x)
    distance, compared = torch.zeros(len(x), device=x.device), 0
    for k, layer in enumerate(net):
        ours, theirs = layer(ours), layer(theirs)
        if k in RELUS:
            error = (F.normalize(ours, eps=1e-10) - F.normalize(theirs, eps=1e-10)).square()
            distance = distance + (heads[compared] * error).sum(dim=1).mean(dim=(1, 2))
            compared += 1
    return distance
