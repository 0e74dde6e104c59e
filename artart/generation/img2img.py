"""Variations of an image (SDEdit), and inpainting (RePaint)."""

import logging
from collections.abc import Iterable, Iterator
from math import isqrt
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.data.decode import ResizeMode, decode, to_srgb
from artart.data.scan import examine
from artart.generation.conditions import Asked, conditions_for
from artart.generation.inputs import Input, provenance_of_inputs, read_inputs, reason, upright_image
from artart.generation.original import WHITE, repainted, spread
from artart.generation.output import Output
from artart.generation.plan import Item, Plan, Sampling, details_of, make
from artart.io.contact_sheet import ContactSheet
from artart.io.images import to_model

log = logging.getLogger(__name__)

STRENGTH = 0.5  # half image, half noise
ROUNDS = (1.0, 0.9, 0.7, 0.5)  # successive strengths of inpainting, which fit the new part to the rest
GREY = to_model(torch.tensor(128, dtype=torch.uint8))
MAX_IN_ROW = 16  # images of a grid that are made from one input


def plan_variations(
    loaded: Loaded,
    how: Sampling,
    asked: Asked,
    inputs: Iterable[Input],
    num_inputs: int,
    strengths: tuple[float, ...],
    repaint: Tensor | None = None,
) -> Plan:
    """Plan images of each input, NAME_00000_LABEL_OR_PROMPT.png ..., by default of no label and no prompt.

    As many as `num_inputs` or fewer are read, one by one, and refined from successive noise levels, `strengths`; for
    mode=inpaint inputs and `repaint` are those of `masked`. Raises the errors of `conditions_for`.
    """
    details = details_of(loaded, "img2img" if repaint is None else "inpaint", how)
    details["strength"] = ", ".join(map(str, strengths))
    details["network_size"] = "{0} x {0}".format(loaded.config["image_size"])
    conditions_for(loaded, asked, default="none")  # raises

    def items() -> Iterator[Item]:
        for one in inputs:
            for k, condition in enumerate(conditions_for(loaded, asked, default="none")):
                own = {**details, "seed": asked.seed + k, **condition.in_words}
                name = one.name.with_name(f"{one.name.stem}_{k:05}{condition.in_name}.png")
                yield Item(name, provenance_of_inputs([one], own), condition.y, asked.seed + k, source=one)

    whole = {**details, "seed": asked.seed, **asked.in_words(loaded, "none")}
    return Plan(items(), num_inputs * asked.num_images, how, whole, strengths, repaint)


def masked(
    one: Input, mask: Image.Image | Tensor, size: int, resize_mode: ResizeMode, name: str = "mask"
) -> tuple[Input, Tensor]:
    """An input, grey where a mask paints it anew, which the network never sees; and its pixels that this touches.

    The mask is an image of the input's size, more than half white or transparent where it paints; or a tensor (S, S),
    (1, S, S) or (3, S, S), bool or white above 0. Errors begin with its `name`.

    Returns the input and (1, S, S) bool. Raises ArtError if the mask does not fit the input or leaves nothing to paint.
    """
    sides = (one.facts.width, one.facts.height)
    if one.facts.orientation >= 5 and one.facts.format != "TIFF":  # it lies on its side; Pillow turns those of TIFF
        sides = sides[::-1]
    if isinstance(mask, Tensor):
        if mask.shape[-2:] != (size, size) or mask.numel() not in (size**2, 3 * size**2):
            raise ArtError(f"{name}: has the shape {tuple(mask.shape)}; give a PIL image or (1, {size}, {size})")
        repaint = (mask > 0).reshape(-1, size, size).all(dim=0, keepdim=True).cpu()
        image = spread(repaint, sides, resize_mode)
    else:
        mask = to_srgb(upright_image(mask, name))
        if mask.size != sides:
            its, wanted = ("{} x {}".format(*pair) for pair in (mask.size, sides))
            raise ArtError(f"{name}: has {its} pixels, the input {wanted}; they must be the same")
        image = mask.convert("L").point(lambda level: 255 * (level > WHITE))
        repaint = repainted(image, size, resize_mode)
    if not repaint.any():
        raise ArtError(f"{name}: has no white pixels; white marks the area to repaint")
    original = one.original and one.original._replace(mask=image)
    return one._replace(x0=torch.where(repaint, GREY, one.x0), original=original), repaint


def write_variations(
    loaded: Loaded, how: Sampling, out: Output, asked: Asked, input: str, strength: float | None, mask: str | None
) -> tuple[Path, int]:
    """Write variations of each input, or with a mask inpaintings of the only input; and grid.png.

    Images have their input's size. Keeps sub-folders and replaces no file. The grid, which is the first, has for each
    input: the input, with a mask also its kept part on grey, and up to 16 of the images made from it.

    Raises ArtError if no input or the mask cannot be used, and the errors of `plan_variations` and `make`.
    """
    num_files, inputs = read_inputs(Path(input), out.folder, *loaded.preprocessing)
    if mask is None:
        plan = plan_variations(loaded, how, asked, inputs, num_files, (strength or STRENGTH,))
    else:
        (one,) = inputs
        if (seen := examine(Path(mask), *loaded.preprocessing[:2])).pixels is None:
            raise ArtError(f"mask={mask}: cannot be used ({reason(seen.facts)})")
        one, repaint = masked(one, decode(Path(mask)), *loaded.preprocessing[:2], f"mask={mask}")
        plan = plan_variations(loaded, how, asked, [one], 1, ROUNDS, repaint)
    size = loaded.config["image_size"]
    log.info("the network makes %d x %d pixels, which are scaled to the input's size", size, size)
    sheet, shown, num = ContactSheet(size, out.resample), list[Input](), 0
    num_columns = (1 if mask is None else 2) + min(asked.num_images, MAX_IN_ROW)
    for num, (item, _, path, pixels) in enumerate(out.save_items(make(loaded, plan), how.batch_size), start=1):
        k = (num - 1) % asked.num_images
        assert item.source and item.source.original
        if k == 0 and (in_sheet := not shown or sheet.has_room(num_columns)):
            shown.append(item.source)
            sheet.add(item.source.original.pixels(), item.source.name.stem)
            if mask is not None:
                sheet.add(item.source.original.kept(), "kept")
        if in_sheet and k < MAX_IN_ROW:
            sheet.add(pixels, path.stem.removeprefix(f"{item.source.name.stem}_"))
    num_columns *= max(1, isqrt(len(shown) // num_columns))  # several inputs in a row make the sheet about square
    provenance = provenance_of_inputs(shown, plan.details)
    return out.save(sheet.draw(num_columns), "grid.png", provenance), num + 1
