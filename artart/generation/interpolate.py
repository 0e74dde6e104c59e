"""Images between images: noise that lies between the noise of seeds."""

from collections.abc import Sequence
from pathlib import Path

import torch

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.diffusion.noise import Between
from artart.generation.labels import Label, labels_for
from artart.generation.plan import Item, Plan, Sampling, details_of, make
from artart.io.images import grid, save_animation, save_new, to_pixels
from artart.io.provenance import ImageProvenance

MAX_IN_STRIP = 16  # images


def plan_interpolation(loaded: Loaded, how: Sampling, seeds: Sequence[int], num_images: int, label: Label) -> Plan:
    """Plan a sequence of images through two or more seeds; label None means no label.

    All noise, also that of single steps, lies on great circles from each seed to the next. The first image is that of
    `plan_samples` with the first seed, the last that with the last.

    Raises ArtError if the label is unknown or means several, or if there are fewer images than seeds.
    """
    if num_images < len(seeds):
        raise ArtError(f"num_images={num_images}: fewer than the {len(seeds)} seeds; ask for more")
    label = "none" if label is None else label
    labels = labels_for(label, num_images, loaded.label_names, loaded.untrained_labels)
    if len(set(labels)) > 1:
        raise ArtError(f"label={label}: mode=interpolate keeps to one label; choose a class or none")
    details = {**details_of(loaded, "interpolate", how), "seeds": "-".join(map(str, seeds)), "label": label}
    items = []
    for k, place in enumerate(places(seeds, num_images)):
        provenance = ImageProvenance("trained", {**details, "place": f"{k}/{num_images - 1}"})
        items.append(Item(Path(f"{k:05}.png"), provenance, labels[k], place))
    return Plan(items, how, details)


def write_interpolation(
    loaded: Loaded, how: Sampling, out: Path, seeds: Sequence[int], num_images: int, label: Label
) -> list[Path]:
    """Write 00000.png ..., strip.png with up to 16 of them, and trajectory.webp. Replaces no file.

    Returns the paths, the strip's first. Raises the errors of `plan_interpolation` and `make`.
    """
    plan = plan_interpolation(loaded, how, seeds, num_images, label)
    images, written = [], []
    for item, image in make(loaded, plan):
        images.append(image)
        written.append(item.save(image, out, how.upscale))
    moments = torch.linspace(0, num_images - 1, min(num_images, MAX_IN_STRIP)).round().int()
    provenance = ImageProvenance("trained", plan.details)
    strip = save_new(grid([torch.stack(images)[moments]]), out / "strip.png", provenance)
    return [strip, save_animation([*map(to_pixels, images)], out / "trajectory.webp", provenance), *written]


def places(seeds: Sequence[int], num: int) -> list[Between]:
    """`num` evenly spaced places on the path through two or more seeds, from the first to the last."""
    path = []
    for k in range(num):
        segment = min(k * (len(seeds) - 1) // (num - 1), len(seeds) - 2)
        share = (k * (len(seeds) - 1) - segment * (num - 1)) / (num - 1)  # 0 and 1 exactly at the ends
        path.append(Between(seeds[segment], seeds[segment + 1], share))
    return path
