"""What artart.generate writes, by mode."""

import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Sampler
from artart.generation.img2img import masked, noised, plan_variations, read_mask, write_variations
from artart.generation.inputs import read_inputs
from artart.generation.interpolate import plan_interpolation, write_interpolation
from artart.generation.labels import Label
from artart.generation.reconstruct import write_reconstructions
from artart.generation.sample import plan_samples, write_samples
from artart.generation.source import Source

log = logging.getLogger(__name__)


def write(
    source: Source,
    out: Path,
    mode: str,
    sampler: Sampler,
    guidance: Guidance,
    *,
    num_images: int,
    label: Label,
    seed: int,
    seeds: Sequence[int],
    strength: float | None,
    batch_size: int,
    input: Path,  # noqa: A002 - the key of the command
    mask: Path,
    save_trajectory: bool,
    side_by_side: bool,
) -> list[Path]:
    """Write what a network makes in a mode, and return the paths, the one to look at first.

    Sub-folders of the input are kept; no file is replaced. Arguments that the mode does not take are not looked at.

    Raises:
        ArtError: if no input can be used, the mask does not fit, or the network knows no such label.
        FloatingPointError: if the network outputs NaN or infinity.
    """
    if mode == "reconstruct":
        return write_reconstructions(source, out, input, batch_size, side_by_side)
    if mode == "sample":
        plan = plan_samples(source, num_images, label, seed, sampler, guidance)
        return write_samples(source, out, plan, batch_size, save_trajectory)
    if mode == "interpolate":
        plan = plan_interpolation(source, seeds, num_images, label, sampler, guidance)
        return write_interpolation(source, out, plan, batch_size)
    inputs = list(read_inputs(input, out, *source.preprocessing))
    given = (
        noised(inputs, strength)
        if mode == "img2img"
        else masked(inputs[0], read_mask(mask, inputs[0].facts, *source.preprocessing))
    )
    plan = plan_variations(source, inputs, given, num_images, label, seed, sampler, guidance)
    return write_variations(source, out, inputs, plan, batch_size)


def show(path: Path) -> None:
    """Open an image in the desktop's viewer."""
    log.info("showing %s", path)
    with Image.open(path) as image:
        image.show()
