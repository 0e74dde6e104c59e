"""AlexNet's features of many images, with those of known images kept."""

import logging
from hashlib import sha256

import platformdirs
import safetensors.torch
import torch
from torch import Tensor

from artart import ArtError
from artart.data.datamodule import ArtDataModule
from artart.features.alexnet import CHUNK, alexnet_for, alexnet_on, features_of
from artart.io.files import atomic
from artart.io.terminal import progress_bar
from artart.io.weights import load_weights

log = logging.getLogger(__name__)

NEEDS_ALEXNET = {"sample": "KID, precision and recall", "reconstruct": "LPIPS and KID"}  # by the objective's mode


def alexnet_or_none(weights: str | None, mode: str) -> tuple[str | None, dict[str, object]]:
    """The weights of AlexNet to measure with, and their origin; None and what is not measured, if `auto` finds none.

    Raises ArtError if the weights that are named cannot be used.
    """
    if weights is None:
        return None, {"not_measured": NEEDS_ALEXNET[mode]}
    try:
        return weights, {"alexnet": alexnet_for("metrics.weights", weights)}
    except ArtError as error:
        if weights != "auto":
            raise
        log.warning("%s; not measured without it: %s", error, NEEDS_ALEXNET[mode])
        return None, {"not_measured": NEEDS_ALEXNET[mode]}


def features(pixels: Tensor, weights: str, device: torch.device) -> Tensor:
    """AlexNet's features (N, 256) of uint8 images."""
    with progress_bar() as bar, torch.inference_mode():
        parts = bar.track(pixels.split(CHUNK), description="features")
        return torch.cat([features_of(part, weights, device) for part in parts])


def known_features(pixels: Tensor, weights: str, device: torch.device, data: ArtDataModule) -> Tensor:
    """The same, kept in the data's cache under the hash of images and weights."""
    key = sha256(f"1, {device.type}".encode())  # another number if alexnet_features would give others
    key.update(pixels.contiguous().numpy().data)
    for parameter in alexnet_on(weights, device).net.parameters():
        key.update(parameter.detach().cpu().contiguous().numpy().data)
    folder = data.folder.cache.parent if data.folder else platformdirs.user_cache_path("artart")
    path = folder / "features" / f"{key.hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            return load_weights(path)["alexnet"]
        except (ArtError, KeyError):
            log.warning("%s: damaged; computed again", path)
    found = features(pixels, weights, device)
    try:
        with atomic(path) as file:
            file.write(safetensors.torch.save({"alexnet": found}))
    except OSError as error:
        log.warning("%s: not kept (%s); computed again next time", path, error.strerror)
    return found
