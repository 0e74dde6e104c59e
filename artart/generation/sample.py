"""Images from noise: files, a grid, and the sampling trajectory."""

import math
from pathlib import Path

import torch
from torch import Tensor

from artart.checkpoints.load import Loaded
from artart.diffusion.samplers import Step
from artart.generation.labels import Label, label_in_words, labels_for
from artart.generation.plan import Item, Plan, Sampling, details_of, make
from artart.io.images import grid, save_animation, save_new
from artart.io.provenance import ImageProvenance

MAX_IN_GRID = 256  # images
MAX_RECORDED = 16  # images in a trajectory
MOMENTS = 8  # of a trajectory, on its strip


def plan_samples(loaded: Loaded, how: Sampling, num_images: int, label: Label, seed: int) -> Plan:
    """Plan images from noise; image k has the seed `seed + k`; label None means all classes in turn.

    Raises ArtError if the network has no such label.
    """
    label, names = "all" if label is None else label, loaded.label_names
    details, items = details_of(loaded, "sample", how), []
    for k, labels in enumerate(labels_for(label, num_images, names, loaded.untrained_labels)):
        own = {"seed": seed + k, "label": label_in_words(labels, names)}
        items.append(Item(Path(f"{k:05}.png"), ImageProvenance("trained", {**details, **own}), labels, seed + k))
    return Plan(items, how, {**details, "seed": seed, "label": label})


def write_samples(
    loaded: Loaded, how: Sampling, out: Path, num_images: int, label: Label, seed: int, save_trajectory: bool
) -> list[Path]:
    """Write 00000.png ... and grid.png, with `save_trajectory` also trajectory.png and trajectory.webp.

    Replaces no file. Returns the paths, the grid's first. Raises the errors of `plan_samples` and `make`.
    """
    plan = plan_samples(loaded, how, num_images, label, seed)
    shown: list[Tensor] = []  # in the grid
    steps: list[Tensor] = []  # of each batch, one after the other
    written: list[Path] = []

    def record(step: Step) -> None:
        if len(written) < MAX_RECORDED:
            steps.append(loaded.process.first_stage.decode(step.x_t[: MAX_RECORDED - len(written)]).cpu())

    for item, image in make(loaded, plan, *[record] * save_trajectory):
        shown += [image] * (len(shown) < MAX_IN_GRID)
        written.append(item.save(image, out, how.upscale))
    provenance, num_labels = ImageProvenance("trained", plan.details), len({item.labels for item in plan.items})
    num_columns = num_labels if num_labels > 1 else math.ceil(math.sqrt(len(shown)))
    grids = [save_new(grid(torch.stack(shown).split(num_columns)), out / "grid.png", provenance)]
    if save_trajectory:
        num_steps = len(steps) // math.ceil(min(num_images, MAX_RECORDED) / how.batch_size)
        batches = [torch.stack(steps[k : k + num_steps]) for k in range(0, len(steps), num_steps)]
        grids += _write_trajectory(torch.cat(batches, dim=1), num_columns, out, provenance)
    return [*grids, *written]


def _write_trajectory(steps: Tensor, num_columns: int, out: Path, provenance: ImageProvenance) -> list[Path]:
    """Steps (num_steps, n, C, S, S) as a strip, a row for each image, and as an animation of their grid."""
    moments = torch.linspace(0, len(steps) - 1, MOMENTS).round().int()
    strip = save_new(grid(steps[moments].transpose(0, 1).unbind()), out / "trajectory.png", provenance)
    frames = [grid(step.split(num_columns)) for step in steps]
    return [strip, save_animation(frames, out / "trajectory.webp", provenance)]
