"""Images from noise: files, a contact sheet, and the sampling trajectory."""

import math
from collections.abc import Mapping
from itertools import starmap
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.diffusion.samplers import Step
from artart.generation.conditions import Asked, Condition, conditions_for
from artart.generation.output import Output, Written, shown
from artart.generation.plan import Item, Plan, Sampling, details_of, make
from artart.generation.refusal import Draws, Filter
from artart.io.contact_sheet import MAX_IN_SHEET, ContactSheet
from artart.io.provenance import ImageProvenance

MAX_RECORDED = 16  # images in a trajectory
MOMENTS = 8  # of a trajectory, on its strip


def plan_samples(loaded: Loaded, how: Sampling, num_images: int, asked: Asked, seed: int) -> Plan:
    """Plan images from noise; image k has the seed `seed + k`; by default of all classes or frequent captions in turn.

    Raises the errors of `conditions_for`.
    """
    details = details_of(loaded, "sample", how)
    conditions = conditions_for(loaded, asked, num_images, default="all")

    def item(k: int, condition: Condition) -> Item:
        provenance = ImageProvenance("trained", {**details, "seed": seed + k, **condition.in_words})
        return Item(Path(f"{k:05}{condition.in_name}.png"), provenance, condition.y, seed + k)

    whole = {**details, "seed": seed, **asked.in_words(loaded, "all")}
    return Plan(starmap(item, enumerate(conditions)), num_images, how, whole)


def write_samples(
    loaded: Loaded,
    how: Sampling,
    out: Output,
    num_images: int,
    asked: Asked,
    seed: int,
    save_trajectory: bool,
    filters: Mapping[str, Filter] = MappingProxyType({}),
) -> Written:
    """Write 00000_LABEL_OR_PROMPT.png ... and grid.png, with `save_trajectory` also trajectory.png and trajectory.webp.

    Replaces no file. The first is the grid. Images that one of `filters` refuses are drawn again (`Draws`).

    Raises ArtError if all are refused, and the errors of `plan_samples` and `make`.
    """
    plan = plan_samples(loaded, how, num_images, asked, seed)
    draws = Draws(plan.items, filters, seed + num_images)
    sheet, in_sheet = ContactSheet(loaded.config["image_size"], out.resample), set[tuple[int, ...]]()
    steps: list[Tensor] = []  # of each batch, one after the other
    num = 0

    def record(step: Step) -> None:
        if num < MAX_RECORDED:
            steps.append(loaded.process.first_stage.decode(step.x_t[: MAX_RECORDED - num]).cpu())

    for item, image in make(loaded, plan._replace(items=draws), *[record] * save_trajectory):
        if not draws.accepts(item, image):
            continue
        num += 1
        path, pixels = out.save_item(item, image)
        sheet.add(pixels, path.stem)
        if num <= MAX_IN_SHEET:
            in_sheet.add(item.y)
    draws.report()
    sheet.tiles.sort(key=lambda tile: tile[1])  # those that were drawn again came last
    if not num:
        raise ArtError("all images were refused; ask for other labels or prompts, or for fewer refusals")
    num_columns = len(in_sheet) if len(in_sheet) > 1 else math.ceil(math.sqrt(min(num, MAX_IN_SHEET)))
    provenance = ImageProvenance("trained", plan.details)
    first = out.save_sheet(sheet, num_columns, provenance)
    if save_trajectory:
        num_steps = len(steps) // math.ceil(min(num_images, MAX_RECORDED) / how.batch_size)
        batches = [torch.stack(steps[k : k + num_steps]) for k in range(0, len(steps), num_steps)]
        _write_trajectory(torch.cat(batches, dim=1), num_columns, out, provenance)
    return Written(first, num + (3 if save_trajectory else 1))


def _write_trajectory(steps: Tensor, num_columns: int, out: Output, provenance: ImageProvenance) -> None:
    """Steps (num_steps, n, C, S, S) as a strip, a row for each image, and as an animation of their grid."""
    moments = torch.linspace(0, len(steps) - 1, MOMENTS).round().int()
    strip = shown(steps[moments].transpose(0, 1).unbind(), out.resample)
    out.save(strip, "trajectory.png", provenance)
    frames = [shown(step.split(num_columns), out.resample) for step in steps]
    out.save_animation(frames, "trajectory.webp", provenance)
