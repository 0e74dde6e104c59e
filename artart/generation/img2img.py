"""Variations of an image (SDEdit), and inpainting (RePaint)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.data.decode import ResizeMode, decode, resize, to_srgb
from artart.data.scan import FileInfo, examine
from artart.diffusion.sampling import Given
from artart.generation.inputs import Input, provenance_of_inputs, read_inputs, reason, upright_image
from artart.generation.labels import Label, label_in_words, labels_for
from artart.generation.plan import Item, Plan, Sampling, details_of, make
from artart.generation.sample import MAX_IN_GRID
from artart.io.images import grid, save_new, to_model

STRENGTH = 0.5  # half image, half noise
ROUNDS = (1.0, 0.9, 0.7, 0.5)  # successive strengths of inpainting, which fit the new part to the rest
GREY = to_model(torch.tensor(128, dtype=torch.uint8))
BLACK = (0, 0, 0)  # in a mask: is kept


def plan_variations(
    loaded: Loaded, how: Sampling, inputs: Sequence[Input], given: Given, num_images: int, label: Label, seed: int
) -> Plan:
    """Plan `num_images` of each input, NAME_00000.png ...; image k of each has the seed `seed + k`.

    `given` holds the inputs in their order: `noised` for mode=img2img, `masked` for mode=inpaint. Label None means no
    label. Raises ArtError if the network has no such label.
    """
    label, names = "none" if label is None else label, loaded.label_names
    details = details_of(loaded, "img2img" if given.repaint is None else "inpaint", how)
    details["strength"] = ", ".join(map(str, given.strengths))
    items = []
    for one in inputs:
        for k, labels in enumerate(labels_for(label, num_images, names, loaded.untrained_labels)):
            own = {**details, "seed": seed + k, "label": label_in_words(labels, names)}
            name = one.name.with_name(f"{one.name.stem}_{k:05}.png")
            items.append(Item(name, provenance_of_inputs([one], own), labels, seed + k))
    return Plan(items, how, {**details, "seed": seed, "label": label}, given)


def noised(inputs: Sequence[Input], strength: float | None) -> Given:
    """Inputs that will be noised to the level `strength` and refined from there. None: STRENGTH."""
    return Given(torch.stack([one.x0 for one in inputs]), (strength or STRENGTH,))


def masked(one: Input, repaint: Tensor) -> Given:
    """An input, grey where `repaint`, (1, S, S) bool, is true: the network never sees these pixels."""
    return Given(torch.where(repaint, GREY, one.x0)[None], ROUNDS, repaint)


def read_mask(path: Path, given: FileInfo, size: int, resize_mode: ResizeMode) -> Tensor:
    """`mask_of` a file. Raises ArtError also if the file is no image."""
    mask = examine(path, size, resize_mode)
    if mask.pixels is None:
        raise ArtError(f"mask={path}: cannot be used ({reason(mask.facts)})")
    return mask_of(decode(path), given, size, resize_mode, f"mask={path}")


def mask_of(
    mask: Image.Image | Tensor, given: FileInfo, size: int, resize_mode: ResizeMode, name: str = "mask"
) -> Tensor:
    """The pixels to repaint, (1, S, S) bool: those that are more than half white or transparent.

    Args:
        mask: an image of the input's size; or a tensor (S, S), (1, S, S) or (3, S, S), bool or white above 0.
        given: the facts of the input.
        name: of the mask, in errors.

    Raises ArtError if the mask does not fit the input or leaves nothing to repaint.
    """
    if isinstance(mask, Tensor):
        if mask.shape[-2:] != (size, size) or mask.numel() not in (size**2, 3 * size**2):
            raise ArtError(f"{name}: has the shape {tuple(mask.shape)}; give a PIL image or (1, {size}, {size})")
        repaint = (mask > 0).reshape(-1, size, size).all(dim=0, keepdim=True).cpu()
    else:
        mask = to_srgb(upright_image(mask, name))
        sides = (given.width, given.height) if given.orientation < 5 else (given.height, given.width)  # upright
        if mask.size != sides:
            its, wanted = ("{} x {}".format(*one) for one in (mask.size, sides))
            raise ArtError(f"{name}: has {its} pixels, the input {wanted}; they must be the same")
        white = mask.convert("L").point(lambda level: 255 * (level > 127))
        repaint = torch.tensor(resize(white, size, resize_mode, paper=BLACK)).permute(2, 0, 1)[:1] > 127
    if not repaint.any():
        raise ArtError(f"{name}: leaves nothing to paint; white marks what is painted anew")
    return repaint


def write_variations(
    loaded: Loaded,
    how: Sampling,
    out: Path,
    input: str,  # noqa: A002 - the command's key
    num_images: int,
    label: Label,
    seed: int,
    strength: float | None,
    mask: str | None,
) -> list[Path]:
    """Write variations of each input, or with a mask inpaintings of the only input; and grid.png.

    Keeps sub-folders and replaces no file. The grid has a row for each input: the input, with a mask also its kept
    part on grey, and the images made from it. Returns the paths, the grid's first. Raises ArtError if no input can be
    used, and the errors of `read_mask`, `plan_variations` and `make`.
    """
    inputs, written = list(read_inputs(Path(input), out, *loaded.preprocessing)), []
    rows = [[one.x0] for one in inputs[:MAX_IN_GRID]]
    if mask is None:
        given = noised(inputs, strength)
    else:
        given = masked(inputs[0], read_mask(Path(mask), inputs[0].facts, *loaded.preprocessing))
        rows[0].append(given.x0[0])
    plan = plan_variations(loaded, how, inputs, given, num_images, label, seed)
    rows = rows[: max(1, MAX_IN_GRID // (len(rows[0]) + num_images))]
    for n, (item, image) in enumerate(make(loaded, plan)):
        written.append(item.save(image, out, how.upscale))
        if n // num_images < len(rows):
            rows[n // num_images].append(image)
    provenance = provenance_of_inputs(inputs[: len(rows)], plan.details)
    return [save_new(grid([torch.stack(row) for row in rows]), out / "grid.png", provenance), *written]
