"""Inception features as in published FIDs and KIDs; the weights are downloaded."""

import functools
from typing import Final

import torch
from torch import Tensor, nn

from artart import ArtError
from artart.io.terminal import progress_bar

CHUNK: Final = 64  # images in a batch


@functools.cache
def extractor(device: torch.device) -> nn.Module:
    """torch-fidelity's Inception, with the weights of the published FIDs: uint8 (B, 3, H, W) to (B, 2048).

    Raises ArtError if torch-fidelity is missing, or the weights are neither here nor can be downloaded.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        return NoTrainInceptionV3("inception-v3-compat", ["2048"]).to(device)
    except ModuleNotFoundError:
        raise ArtError("metrics.inception=true: needs torch-fidelity: pip install 'artart[metrics]'") from None
    except Exception as error:  # noqa: BLE001 - no connection; or a damaged file, on which torch raises anything
        raise ArtError(f"metrics.inception=true: no weights of Inception ({error}); leave it false") from None


def inception_features(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 images (N, 3, S, S) to features (N, 2048) in double precision, on the CPU."""
    with progress_bar() as bar, torch.inference_mode():
        parts = bar.track(pixels.split(CHUNK), description="Inception")
        return torch.cat([extractor(device)(part.to(device)).cpu().double() for part in parts])
