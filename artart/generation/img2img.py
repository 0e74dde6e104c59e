"""Variations of an image (SDEdit), and inpainting (RePaint)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from artart import ArtError
from artart.data.decode import ResizeMode, decode, resize, to_srgb
from artart.data.scan import FileInfo, examine
from artart.diffusion.sampling import Given
from artart.generation.inputs import Input, provenance_of_inputs, read_inputs, reason, upright_copy
from artart.generation.labels import Label, label_in_words, labels_for
from artart.generation.plan import Item, Plan, Sampling, make
from artart.generation.sample import MAX_IN_GRID
from artart.generation.source import Source
from artart.io.images import grid, save_new, to_model, to_pixels

STRENGTH = 0.5  # half image, half noise
ROUNDS = (1.0, 0.9, 0.7, 0.5)  # strengths of inpainting, one after the other: what is new comes to fit what stays
GREY = to_model(torch.tensor(128, dtype=torch.uint8))
BLACK = (0, 0, 0)  # of a mask: stays


def plan_variations(
    source: Source, how: Sampling, inputs: Sequence[Input], given: Given, num_images: int, label: Label, seed: int
) -> Plan:
    """Plan `num_images` of each input, NAME_00000.png ...; image k of each has the seed `seed + k`.

    Args:
        given: of the inputs, in their order: `noised` for mode=img2img, `masked` for mode=inpaint.
        label: None: no label.

    Raises:
        ArtError: if the network knows no such label.
    """
    label, names = "none" if label is None else label, source.loaded.label_names
    details = {**source.details("img2img" if given.repaint is None else "inpaint"), **how.details}
    details["strength"] = ", ".join(map(str, given.strengths))
    items = []
    for one in inputs:
        for k, labels in enumerate(labels_for(label, num_images, names)):
            own = {**details, "seed": seed + k, "label": label_in_words(labels, names)}
            name = one.name.with_name(f"{one.name.stem}_{k:05}.png")
            items.append(Item(name, labels, seed + k, provenance_of_inputs([one], own)))
    return Plan(items, how, {**details, "seed": seed, "label": label}, given)


def noised(inputs: Sequence[Input], strength: float | None) -> Given:
    """Inputs to be noised to the level `strength` and refined from there. None: STRENGTH."""
    return Given(torch.stack([one.x0 for one in inputs]), (strength or STRENGTH,))


def masked(one: Input, repaint: Tensor) -> Given:
    """An input without what `repaint`, (1, S, S) bool, covers: nothing of that reaches the network."""
    return Given(torch.where(repaint, GREY, one.x0)[None], ROUNDS, repaint)


def read_mask(path: Path, given: FileInfo, size: int, resize_mode: ResizeMode) -> Tensor:
    """What to repaint, (1, S, S) bool, of a mask file; see `mask_of`.

    Raises:
        ArtError: if the file is no image, not of the input's size, or has nothing to repaint.
    """
    mask = examine(path, size, resize_mode)
    if mask.pixels is None:
        raise ArtError(f"mask={path}: cannot be used ({reason(mask.facts)})")
    return mask_of(decode(path), given, size, resize_mode, f"mask={path}")


def mask_of(
    mask: Image.Image | Tensor, given: FileInfo, size: int, resize_mode: ResizeMode, name: str = "mask"
) -> Tensor:
    """What to repaint, (1, S, S) bool: where more than half of a pixel is white or transparent.

    Args:
        mask: an image of the input's size; or a tensor (S, S), (1, S, S) or (3, S, S), bool or white above 0.
        given: the facts of the input.
        name: of the mask, in errors.

    Raises:
        ArtError: if it does not fit the input or has nothing to repaint.
    """
    if isinstance(mask, Tensor):
        if mask.shape[-2:] != (size, size) or mask.numel() not in (size**2, 3 * size**2):
            raise ArtError(f"{name}: has the shape {tuple(mask.shape)}; give a PIL image or (1, {size}, {size})")
        repaint = (mask > 0).reshape(-1, size, size).all(dim=0, keepdim=True).cpu()
    else:
        mask = to_srgb(upright_copy(mask))
        if mask.size != (sides := _sides(given)):
            its, wanted = ("{} x {}".format(*one) for one in (mask.size, sides))
            raise ArtError(f"{name}: has {its} pixels, the input {wanted}; they must lie on each other")
        white = mask.convert("L").point(lambda level: 255 * (level > 127))
        repaint = torch.tensor(resize(white, size, resize_mode, paper=BLACK)).permute(2, 0, 1)[:1] > 127
    if not repaint.any():
        raise ArtError(f"{name}: leaves nothing to paint; white is what is painted anew")
    return repaint


def _sides(facts: FileInfo) -> tuple[int, int]:
    """Width and height of an upright image."""
    return (facts.width, facts.height) if facts.orientation < 5 else (facts.height, facts.width)


def write_variations(
    source: Source,
    how: Sampling,
    out: Path,
    input: str,  # noqa: A002 - the command's key
    num_images: int,
    label: Label,
    seed: int,
    strength: float | None,
    mask: str | None,
) -> list[Path]:
    """Write the variations of each input or, with a mask, of the one input what is new where it is white; and grid.png.

    Sub-folders of the input are kept; no file is replaced. The grid has a row for each input: it, with a mask also what
    is kept of it on grey, and what was made. Returns the paths, the grid's first.

    Raises:
        ArtError: if no input can be used, the mask does not fit, or the network knows no such label.
        FloatingPointError: if the network outputs NaN or infinity.
    """
    inputs, written = list(read_inputs(Path(input), out, *source.preprocessing)), []
    rows = [[one.x0] for one in inputs[:MAX_IN_GRID]]
    if mask is None:
        given = noised(inputs, strength)
    else:
        given = masked(inputs[0], read_mask(Path(mask), inputs[0].facts, *source.preprocessing))
        rows[0].append(given.x0[0])
    plan = plan_variations(source, how, inputs, given, num_images, label, seed)
    rows = rows[: max(1, MAX_IN_GRID // (len(rows[0]) + num_images))]
    for n, (item, image) in enumerate(make(source, plan)):
        written.append(save_new(to_pixels(image), out / item.name, item.provenance))
        if n // num_images < len(rows):
            rows[n // num_images].append(image)
    provenance = provenance_of_inputs(inputs[: len(rows)], plan.details)
    return [save_new(grid([torch.stack(row) for row in rows]), out / "grid.png", provenance), *written]
