"""A trained network with the checkpoint it comes from."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from artart import ArtError
from artart.checkpoints.load import Loaded, load
from artart.checkpoints.validate import printable
from artart.config.build import join_words, select_or_none
from artart.data.decode import ResizeMode
from artart.diffusion.guidance import Guidance
from artart.io.files import sha256

MODES = {"reconstruct": ("reconstruct",), "sample": ("sample", "img2img", "inpaint", "interpolate")}
"""What a network can do, by the mode of its objective; the first is the default."""
ALIKE = ("image_size", "objective.parameterization", "objective.schedule")  # in networks that guide each other


class Source(NamedTuple):
    """A network and the file it was loaded from."""

    loaded: Loaded
    path: Path
    sha256: str  # of the file

    @property
    def modes(self) -> tuple[str, ...]:
        return MODES[self.loaded.objective.mode]

    @property
    def device(self) -> torch.device:
        return next(self.loaded.net.parameters()).device

    @property
    def preprocessing(self) -> tuple[int, ResizeMode]:
        """Side in pixels and resize mode of the training's images."""
        return self.loaded.config["image_size"], self.loaded.config["data"].get("resize_mode", "stretch")

    def check_mode(self, mode: str) -> None:
        """Raises ArtError if the network was not trained for a mode."""
        if mode not in self.modes:
            able = join_words(self.modes)
            raise ArtError(f"mode={mode}: {self.path} was not trained for that; it can do mode={able}")

    def details(self, mode: str) -> dict[str, object]:
        """The part of an image's provenance that names the network."""
        return {"mode": mode, "checkpoint": self.path.name, "checkpoint_sha256": self.sha256}


def open_source(path: Path, trusted_classes: Collection[str] = (), device: str = "cpu") -> Source:
    """Load a checkpoint and hash its file.

    Raises:
        ArtError: as `checkpoints.load.load`.
    """
    return Source(load(path, trusted_classes, device), path, sha256(path))


def guidance_for(
    loaded: Loaded,
    weight: float,
    interval: Sequence[float] = Guidance().interval,
    network: str | Path | None = None,
    trusted_classes: Collection[str] = (),
    device: str = "cpu",
) -> Guidance:
    """Guidance of a loaded network; `network` is the checkpoint of a weaker one (autoguidance).

    Raises:
        ArtError: if that checkpoint cannot be used, differs in schedule, size or labels, or has no effect.
    """
    low, high = interval
    if network is None:
        return Guidance(weight, (low, high))
    if weight == 1:
        raise ArtError(f"guidance.network={network}: has no effect with guidance.weight=1; set guidance.weight=1.5")
    other = open_source(Path(network), trusted_classes, device)
    for key in ALIKE:
        if (its := select_or_none(other.loaded.config, key)) != (ours := select_or_none(loaded.config, key)):
            raise ArtError(
                f"guidance.network={network}: was trained with {key}={printable(its)}, not {printable(ours)}; name an "
                "earlier checkpoint of the same run, or one of a run like it"
            )
    if list(other.loaded.label_names.items()) != list(loaded.label_names.items()):
        raise ArtError(f"guidance.network={network}: knows other labels; name an earlier checkpoint of the same run")
    return Guidance(weight, (low, high), other.loaded.net, other.sha256)
