"""Images between images: noise that lies between the noise of seeds."""

from collections.abc import Sequence
from pathlib import Path

import torch

from artart import ArtError
from artart.diffusion.noise import Between
from artart.generation.labels import Label, labels_for
from artart.generation.plan import Item, Plan, Sampling, make
from artart.generation.source import Source
from artart.io.images import grid, save_animation, save_new, to_pixels
from artart.io.provenance import ImageProvenance

MAX_IN_STRIP = 16  # images


def plan_interpolation(source: Source, how: Sampling, seeds: Sequence[int], num_images: int, label: Label) -> Plan:
    """Plan images on the way through two or more seeds; without a label none.

    All noise, also that of single steps, lies on great circles from each seed to the next. The first image is that of
    `plan_samples` with the first seed, the last that with the last.

    Raises:
        ArtError: if the network knows no such label, if they are several, or if there are fewer images than seeds.
    """
    if num_images < len(seeds):
        raise ArtError(f"num_images={num_images}: are fewer than the {len(seeds)} seeds; ask for more, to see the way")
    label = "none" if label is None else label
    labels = labels_for(label, num_images, source.loaded.label_names)
    if len(set(labels)) > 1:
        raise ArtError(f"label={label}: mode=interpolate keeps to one label; choose a class or none")
    details = {**source.details("interpolate"), **how.details, "seeds": "-".join(map(str, seeds)), "label": label}
    items = []
    for k, place in enumerate(places(seeds, num_images)):
        provenance = ImageProvenance("trained", {**details, "place": f"{k}/{num_images - 1}"})
        items.append(Item(Path(f"{k:05}.png"), labels[k], place, provenance))
    return Plan(items, how, details)


def write_interpolation(
    source: Source, how: Sampling, out: Path, seeds: Sequence[int], num_images: int, label: Label
) -> list[Path]:
    """Write 00000.png ..., strip.png with up to 16 of them, and trajectory.webp; no file is replaced.

    Returns the paths, the strip's first.

    Raises:
        ArtError: as `plan_interpolation`.
        FloatingPointError: if the network outputs NaN or infinity.
    """
    plan = plan_interpolation(source, how, seeds, num_images, label)
    images, written = [], []
    for item, image in make(source, plan):
        images.append(image)
        written.append(save_new(to_pixels(image), out / item.name, item.provenance))
    moments = torch.linspace(0, num_images - 1, min(num_images, MAX_IN_STRIP)).round().int()
    provenance = ImageProvenance("trained", plan.details)
    strip = save_new(grid([torch.stack(images)[moments]]), out / "strip.png", provenance)
    trajectory = save_animation([*map(to_pixels, images)], out / "trajectory.webp", provenance)
    return [strip, trajectory, *written]


def places(seeds: Sequence[int], num: int) -> list[Between]:
    """`num` places at even distances on the way through two or more seeds, from the first to the last."""
    way = []
    for k in range(num):
        stretch = min(k * (len(seeds) - 1) // (num - 1), len(seeds) - 2)
        share = (k * (len(seeds) - 1) - stretch * (num - 1)) / (num - 1)  # 0 and 1 exactly at the ends
        way.append(Between(seeds[stretch], seeds[stretch + 1], share))
    return way
