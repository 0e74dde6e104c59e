"""Images from noise: files, a contact sheet, and the sampling trajectory."""

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import filterfalse, starmap
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.data.decode import decode
from artart.diffusion.samplers import Step
from artart.generation.conditions import Asked, Condition, conditions_for
from artart.generation.output import Output, shown
from artart.generation.plan import Item, Plan, Sampling, details_of, make
from artart.generation.refusal import Draws, Filter
from artart.io.contact_sheet import ContactSheet
from artart.io.images import Resample, encode_animation
from artart.io.provenance import ImageProvenance

log = logging.getLogger(__name__)

MAX_RECORDED = 16  # images in a trajectory
MOMENTS = 8  # of a trajectory, on its strip


def plan_samples(loaded: Loaded, how: Sampling, asked: Asked) -> Plan:
    """Plan images from noise, by default of all classes or frequent captions in turn; errors as of `conditions_for`."""
    details = details_of(loaded, "sample", how)
    conditions = conditions_for(loaded, asked, default="all")

    def item(seed: int, condition: Condition) -> Item:
        provenance = ImageProvenance("trained", {**details, "seed": seed, **condition.in_words})
        return Item(Path(f"{seed - asked.seed:05}{condition.in_name}.png"), provenance, condition.y, seed)

    whole = {**details, "seed": asked.seed, **asked.in_words(loaded, "all")}
    return Plan(starmap(item, enumerate(conditions, asked.seed)), asked.num_images, how, whole)


class _Grid:
    """A contact sheet of samples, sorted by name, with a column for each condition."""

    def __init__(self, side: int, resample: Resample) -> None:
        self.sheet, self.conditions, self.num = ContactSheet(side, resample), set[tuple[int, ...]](), 0

    def add(self, item: Item, path: Path, pixels: Tensor | None = None) -> None:
        """Add the image of an item, of which there may be any number; None: read its file."""
        self.num += 1
        if self.sheet.has_room():
            self.conditions.add(item.y)
            self.sheet.add(pil_to_tensor(decode(path)) if pixels is None else pixels, path.stem)

    @property
    def num_columns(self) -> int:
        return len(self.conditions) if len(self.conditions) > 1 else math.ceil(math.sqrt(len(self.sheet.tiles)))

    def save(self, out: Output, provenance: ImageProvenance, is_new: bool) -> Path:
        """Write the file, which may be there already unless its images are new; returns its name."""
        if not is_new and out.has("grid.png", provenance):
            return out.folder / "grid.png"
        self.sheet.tiles.sort(key=lambda tile: tile[1])  # those that were drawn again came last
        return out.save(self.sheet.draw(self.num_columns), "grid.png", provenance)


def write_samples(
    loaded: Loaded, how: Sampling, out: Output, asked: Asked, save_trajectory: bool, filters: Mapping[str, Filter]
) -> tuple[Path, int]:
    """Write 00000_LABEL_OR_PROMPT.png ... and grid.png, with `save_trajectory` also trajectory.png and trajectory.webp.

    Replaces no file, and makes no image that the same command has written into the folder before (`Output.is_there`),
    except for a trajectory. The first is the grid. Images that one of `filters` refuses are drawn again (`Draws`).

    Raises ArtError if all are refused, and the errors of `plan_samples` and `make`.
    """
    plan = plan_samples(loaded, how, asked)
    draws = Draws(plan.items, filters, asked.seed + asked.num_images)
    grid = _Grid(loaded.config["image_size"], out.resample)
    steps: list[Tensor] = []  # of each batch, one after the other

    def record(step: Step) -> None:
        if (num := draws.num_accepted) < MAX_RECORDED:
            steps.append(loaded.process.first_stage.decode(step.x_t[: MAX_RECORDED - num]).cpu())

    def is_there(item: Item) -> bool:
        if found := not save_trajectory and out.is_there(item):
            grid.add(item, out.folder / item.name)
        return found

    made = make(loaded, plan._replace(items=filterfalse(is_there, draws)), *[record] * save_trajectory)
    accepted = ((item, image) for item, image in made if draws.accepts(item, image))
    for item, _, path, pixels in out.save_items(accepted, how.batch_size):
        grid.add(item, path, pixels)
    draws.report()
    if not grid.num:
        raise ArtError("all images were refused; ask for other labels or prompts, or for fewer refusals")
    if num_there := grid.num - draws.num_accepted:
        log.info("%d of %d images were there already", num_there, grid.num)
    provenance = ImageProvenance("trained", plan.details)
    first = grid.save(out, provenance, is_new=draws.num_accepted > 0)
    if save_trajectory:
        num_batches = math.ceil(min(asked.num_images, MAX_RECORDED) / how.batch_size)
        _write_trajectory(steps, num_batches, grid.num_columns, out, provenance)
    return first, grid.num + (3 if save_trajectory else 1)


def _write_trajectory(
    steps: Sequence[Tensor], num_batches: int, num_columns: int, out: Output, provenance: ImageProvenance
) -> None:
    """The steps of batches, one after the other, as a strip with a row for each image and as an animation of a grid."""
    num_steps = len(steps) // num_batches
    batches = [torch.stack([*steps[k : k + num_steps]]) for k in range(0, len(steps), num_steps)]
    of_all = torch.cat(batches, dim=1)  # (num_steps, n, C, S, S)
    moments = torch.linspace(0, num_steps - 1, MOMENTS).round().int()
    strip = shown(of_all[moments].transpose(0, 1).unbind(), out.resample)
    out.save(strip, "trajectory.png", provenance)
    frames = [shown(step.split(num_columns), out.resample) for step in of_all]
    out.write(encode_animation(frames, provenance), "trajectory.webp", provenance)
