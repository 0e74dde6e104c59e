"""Features of many images, by which they are judged, with those of known images kept."""

import logging
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import platformdirs
import safetensors.torch
import torch
from torch import Tensor, nn

from artart import ArtError
from artart.data.datamodule import ArtDataModule
from artart.features import dinov2, inception
from artart.features.alexnet import CHUNK, alexnet_for, alexnet_on, features_of
from artart.io.files import atomic
from artart.io.terminal import progress_bar
from artart.io.weights import load_weights

log = logging.getLogger(__name__)

NEEDS_ALEXNET: Final = {"sample": "KID, precision and recall", "reconstruct": "LPIPS and KID"}  # by mode


class Extractor(NamedTuple):
    """A network that judges images by its features."""

    name: str  # alexnet, inception or dinov2
    weights: str  # auto, a file or a folder
    origin: str  # of the weights
    net: nn.Module  # whose parameters tell it from others
    of: Callable[[Tensor], Tensor]  # uint8 images (B, 3, H, W) to features (B, D), in double precision on the CPU


def extractor_for(name: str, weights: str, device: torch.device) -> Extractor:
    """Load a network. Raises ArtError if its library is missing or its weights are not available."""
    if name == "inception":
        net, of, origin = inception.inception_on(weights, device), inception.inception_features, "torch-fidelity"
    elif name == "dinov2":
        origin = dinov2.NAME if weights == "auto" else Path(weights).name
        net, of = dinov2.dinov2_on(weights, device), dinov2.dinov2_features
    else:
        origin = alexnet_for("metrics.weights", weights)
        net, of = alexnet_on(weights, device).net, features_of
    return Extractor(name, weights, origin, net, partial(of, weights=weights, device=device))


def extractor_or_none(
    name: str, weights: str | None, mode: str, device: torch.device
) -> tuple[Extractor | None, dict[str, object]]:
    """The network to measure with, and the origin of its weights; None and what is not measured without AlexNet's.

    These are left out with `weights` None, or if `auto` finds none. Raises ArtError if another network, or the weights
    that are named, cannot be used.
    """
    if name != "alexnet" and mode == "reconstruct":
        raise ArtError(f"metrics.features={name}: reconstructions are judged by AlexNet; leave it out")
    try:
        if weights is not None:
            extractor = extractor_for(name, weights, device)
            return extractor, {name: extractor.origin}
    except ArtError as error:
        if weights != "auto" or name != "alexnet":
            raise
        log.warning("%s; not measured without it: %s", error, NEEDS_ALEXNET[mode])
    return None, {"not_measured": NEEDS_ALEXNET[mode]}


def features(pixels: Tensor, extractor: Extractor) -> Tensor:
    """Features (N, D) of uint8 images."""
    with progress_bar() as bar, torch.inference_mode():
        parts = bar.track(pixels.split(CHUNK), description="features")
        return torch.cat([extractor.of(part) for part in parts])


def known_features(pixels: Tensor, extractor: Extractor, data: ArtDataModule) -> Tensor:
    """The same, kept in the data's cache under the hash of images and weights."""
    device = next(extractor.net.parameters()).device
    key = sha256(f"3, {extractor.name}, {device.type}".encode())  # another number if it would give others
    key.update(pixels.contiguous().numpy().data)
    for parameter in extractor.net.parameters():
        key.update(parameter.detach().cpu().contiguous().numpy().data)
    folder = data.folder.cache.parent if data.folder else platformdirs.user_cache_path("artart")
    path = folder / "features" / f"{key.hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            return load_weights(path)["features"]
        except (ArtError, KeyError):
            log.warning("%s: damaged; computed again", path)
    found = features(pixels, extractor)
    try:
        with atomic(path) as file:
            file.write(safetensors.torch.save({"features": found}))
    except OSError as error:
        log.warning("%s: not kept (%s); computed again next time", path, error.strerror)
    return found
