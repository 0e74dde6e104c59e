"""What writes the images of each mode."""

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Final

from artart.checkpoints.load import Loaded
from artart.generation.img2img import write_variations
from artart.generation.interpolate import write_interpolation
from artart.generation.output import Output
from artart.generation.plan import Sampling
from artart.generation.reconstruct import write_reconstructions
from artart.generation.sample import write_samples

WRITERS: Final[Mapping[str, Callable[..., tuple[Path, int]]]] = {
    "sample": write_samples,
    "img2img": write_variations,
    "inpaint": write_variations,
    "interpolate": write_interpolation,
    "reconstruct": write_reconstructions,
}


def write_images(
    mode: str, loaded: Loaded, how: Sampling, out: Output, settings: Mapping[str, Any]
) -> tuple[Path, int]:
    """Write images in a mode, with those of the settings that it takes. Raises the errors of its writer."""
    write = WRITERS[mode]
    keys = signature(write).parameters.keys() & settings.keys() - {"out"}
    return write(loaded, how, out, **{key: settings[key] for key in keys})
