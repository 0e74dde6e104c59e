"""Inception features as in published FIDs and KIDs; the weights are downloaded."""

import functools
from typing import Final

import torch
from torch import Tensor, nn

from artart import ArtError
from artart.io.terminal import first_line

SETTING: Final = "metrics.features=inception"


@functools.cache
def inception_on(weights: str, device: torch.device) -> nn.Module:
    """torch-fidelity's Inception, with the weights of the published FIDs: uint8 (B, 3, H, W) to (B, 2048).

    With weights=`auto` from its cache or by download; else of its file, pt_inception-2015-12-05-6726825d.pth.

    Raises ArtError if torch-fidelity is missing, or the weights are neither here nor can be downloaded.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    file = None if weights == "auto" else weights
    try:
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], file, antialias=False).to(device)  # as TensorFlow 1
    except ModuleNotFoundError:
        raise ArtError(f"{SETTING}: needs torch-fidelity: pip install 'artart[metrics]'") from None
    except Exception as error:  # noqa: BLE001 - no connection; or a damaged file, on which torch raises anything
        reason = first_line(error)
        raise ArtError(f"{SETTING}: no weights of Inception ({reason}); name its file: metrics.weights=FILE") from None


def inception_features(pixels: Tensor, weights: str, device: torch.device) -> Tensor:
    """uint8 images (B, 3, H, W) to features (B, 2048) in double precision, on the CPU; `weights` as above."""
    features: Tensor = inception_on(weights, device)(pixels.to(device))
    return features.cpu().double()
