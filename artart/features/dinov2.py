"""DINOv2's features of images, by the library transformers."""

import functools
from typing import Any, Final

import torch
from torch import Tensor

from artart import ArtError
from artart.features.pretrained import resized, transformers_for
from artart.io.images import to_model

NAME: Final = "facebook/dinov2-large"  # ViT-L/14, which published distances use


@functools.cache
def dinov2_on(weights: str, device: torch.device) -> Any:
    """DINOv2 (Oquab et al. 2023, arXiv 2304.07193) on a device; one copy per process and device.

    With weights=`auto` NAME of the cache of transformers; else of a folder of transformers. Nothing is downloaded.

    Raises ArtError if transformers is missing, or the weights are not here or of another kind.
    """
    name = NAME if weights == "auto" else weights
    with transformers_for("metrics.weights", name) as (transformers, options):
        kind = transformers.AutoConfig.from_pretrained(name, **options).model_type
        if not kind.startswith("dinov2"):
            raise ArtError(f"metrics.weights={name}: is of kind {kind}; name a DINOv2")
        net = transformers.AutoModel.from_pretrained(name, use_safetensors=True, **options)
    return net.requires_grad_(False).eval().to(device)


def dinov2_features(pixels: Tensor, weights: str, device: torch.device) -> Tensor:
    """uint8 images (B, 3, H, W) to DINOv2's normalized class token (B, D) in double precision, on the CPU.

    Images are `resized`, as by Stein et al. 2023 (arXiv 2306.04675); `weights` as for `dinov2_on`.
    """
    token: Tensor = dinov2_on(weights, device)(pixel_values=resized(to_model(pixels).to(device))).pooler_output
    return token.cpu().double()
