"""Noise becomes images: files, a grid, and the trajectory that led to them."""

import math
from pathlib import Path

import torch
from torch import Tensor

from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Sampler, Step
from artart.generation.labels import Label, label_in_words, labels_for
from artart.generation.plan import Item, Plan, describe_sampling, make
from artart.generation.source import Source
from artart.io.images import grid, save_animation, save_new, to_pixels
from artart.io.provenance import ImageProvenance

MAX_IN_GRID = 256  # images
MAX_RECORDED = 16  # images in a trajectory
MOMENTS = 8  # of a trajectory, on its strip


def plan_samples(
    source: Source, num_images: int, label: Label, seed: int, sampler: Sampler, guidance: Guidance
) -> Plan:
    """Plan images from noise; image k has the seed `seed + k`; without a label all classes in turn.

    Raises:
        ArtError: if the network knows no such label.
    """
    label, names = "all" if label is None else label, source.loaded.label_names
    details = source.details("sample") | describe_sampling(sampler, guidance)
    items = [
        Item(
            Path(f"{k:05}.png"),
            labels,
            seed + k,
            ImageProvenance("trained", {**details, "seed": seed + k, "label": label_in_words(labels, names)}),
        )
        for k, labels in enumerate(labels_for(label, num_images, names))
    ]
    return Plan(items, sampler, guidance, {**details, "seed": seed, "label": label})


def write_samples(source: Source, out: Path, plan: Plan, batch_size: int, save_trajectory: bool) -> list[Path]:
    """Write 00000.png ... and grid.png, with `save_trajectory` also trajectory.png and trajectory.webp.

    No file is replaced. Returns the paths, the grid's first.

    Raises:
        FloatingPointError: if the network outputs NaN or infinity.
    """
    shown: list[Tensor] = []  # in the grid
    steps: list[Tensor] = []  # of each batch, one after the other
    written: list[Path] = []

    def record(step: Step) -> None:
        steps.append(step.x_t[: max(0, MAX_RECORDED - len(written))].cpu())

    for item, image in make(source, plan, batch_size, *[record] * save_trajectory):
        shown += [image] * (len(shown) < MAX_IN_GRID)
        written.append(save_new(to_pixels(image), out / item.name, item.provenance))
    provenance = ImageProvenance("trained", plan.details)
    num_labels = len({item.labels for item in plan.items})
    num_columns = num_labels if num_labels > 1 else math.ceil(math.sqrt(len(shown)))
    grids = [save_new(grid(torch.stack(shown).split(num_columns)), out / "grid.png", provenance)]
    if save_trajectory:
        num_steps = len(steps) // math.ceil(len(written) / batch_size)
        batches = [torch.stack(steps[k : k + num_steps]) for k in range(0, len(steps), num_steps)]
        grids += _write_trajectory(torch.cat(batches, dim=1), num_columns, out, provenance)
    return [*grids, *written]


def _write_trajectory(steps: Tensor, num_columns: int, out: Path, provenance: ImageProvenance) -> list[Path]:
    """Steps (num_steps, n, C, S, S) as a strip, a row for each image, and as an animation of their grid."""
    moments = torch.linspace(0, len(steps) - 1, MOMENTS).round().int()
    strip = save_new(grid(steps[moments].transpose(0, 1).unbind()), out / "trajectory.png", provenance)
    frames = [grid(step.split(num_columns)) for step in steps]
    return [strip, save_animation(frames, out / "trajectory.webp", provenance)]
