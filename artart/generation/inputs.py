"""Input images: preprocessed as in training, with their provenance."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from artart import ArtError
from artart.data.decode import MAX_PIXELS, WHITE, Colour, ResizeMode, decode, resize, to_srgb, upright
from artart.data.find import find_all
from artart.data.index import LIST_COLUMNS
from artart.data.layouts import check
from artart.data.scan import FileInfo, examine_all
from artart.generation.original import Original
from artart.io.files import as_csv, write_new
from artart.io.images import to_model
from artart.io.provenance import ImageProvenance, joint_opt_out, provenance_of
from artart.io.terminal import relative_to_cwd

log = logging.getLogger(__name__)

_decoded = lru_cache(maxsize=1)(decode)  # several images are made from each file
Images = Image.Image | Tensor | Iterable[Image.Image | Tensor]


class Input(NamedTuple):
    """An image as the network sees it."""

    name: Path  # relative to the input folder
    x0: Tensor  # (3, S, S) in [-1, 1]
    facts: FileInfo
    original: Original | None  # None: it has the network's size
    path: Path | None = None  # of its file, if it has one


def read_inputs(
    path: Path, out: Path, size: int, resize_mode: ResizeMode, background: Colour = WHITE
) -> tuple[int, Iterator[Input]]:
    """The number of image files in a file or folder, without what earlier calls wrote into `out`, and the usable ones.

    The others, and files of kinds that are not read, are listed in a new out/rejected.csv.

    Raises ArtError if `out` is that folder, and once all are read if none could be used.
    """
    if out.resolve() == path.resolve():
        raise ArtError(f"out={out}: must be a folder, and not the one that holds the input")
    root, images, rejected = path.parent, [path], list[tuple[Path, str, int]]()
    if path.is_dir():
        root, found = path, find_all(path)
        images = [file for file in found.images if out not in file.parents]
        rejected = [(file, why, 0) for file, why in found.others.items()]
    num_files = len(images) + len(rejected)

    def usable() -> Iterator[Input]:
        for one in examine_all(images, size, resize_mode, background):
            if one.pixels is None:
                rejected.append((one.path, reason(one.facts), one.facts.bytes))
            else:
                original = Original(partial(_decoded, one.path, background=background), resize_mode)
                yield Input(one.path.relative_to(root), _x0(one.pixels), one.facts, original, one.path)
        if len(rejected) == num_files:
            reasons = "; ".join(f"{file.name}: {why}" for file, why, _ in rejected[:3]) or "no image below this folder"
            raise ArtError(f"input={path}: nothing to work on ({reasons})")
        if rejected:
            table = write_new(out / "rejected.csv", as_csv(LIST_COLUMNS, rejected))
            log.warning("%d of %d files cannot be used: see %s", len(rejected), num_files, relative_to_cwd(table))

    return len(images), usable()


def inputs_of(images: Images, size: int, resize_mode: ResizeMode, background: Colour = WHITE) -> list[Input]:
    """PIL images, preprocessed like files, or tensors (3, S, S) or (N, 3, S, S), float in [-1, 1].

    Raises ArtError if there is none, or one cannot be used.
    """
    if isinstance(images, Image.Image):
        path = Path(os.fsdecode(getattr(images, "filename", "")))
        flat, name = upright_image(images, background=background), path.name or "image"
        with path.open("rb") if path.is_file() else nullcontext() as file:
            origin = provenance_of(images, file)
        facts = FileInfo(width=flat.width, height=flat.height, opt_out=origin.opt_out, source=origin.source)
        original = Original(partial(to_srgb, flat), resize_mode)
        x0 = _x0(resize(flat, size, resize_mode, background))
        return [Input(Path(name), x0, facts, original, path if path.is_file() else None)]
    if isinstance(images, Tensor):
        batch = images if images.ndim == 4 else images[None]
        if not batch.is_floating_point() or batch.shape[1:] != (3, size, size):
            raise ArtError(
                f"image: a tensor of type {images.dtype} and shape {tuple(images.shape)}; give PIL images, or floats "
                f"of shape (3, {size}, {size}) or (N, 3, {size}, {size})"
            )
        if not (batch.abs() <= 1).all():
            raise ArtError("image: a tensor with values outside of [-1, 1]; scale it, or give PIL images")
        inputs = [Input(Path("image"), x0, FileInfo(width=size, height=size), None) for x0 in batch.float().cpu()]
    elif isinstance(images, Iterable) and not isinstance(images, str):
        inputs = [one for image in images for one in inputs_of(image, size, resize_mode, background)]
    else:
        raise ArtError(f"image: {type(images).__name__}; give PIL images, such as PIL.Image.open(path), or tensors")
    if not inputs:
        raise ArtError("image: is empty; give a PIL image or a tensor, or several")
    return inputs


def upright_image(image: Image.Image, name: str = "image", background: Colour = WHITE) -> Image.Image:
    """`decode.upright` of a PIL image. Raises ArtError, which begins with `name`, if it cannot be decoded."""
    if not isinstance(image, Image.Image):
        raise ArtError(f"{name}: {type(image).__name__}; give a PIL image, such as PIL.Image.open(path), or a tensor")
    try:
        check(image)
        return upright(image, background)
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise nearly anything on damaged bytes
        raise ArtError(f"{name}: cannot be decoded ({error}); give another") from None


def _x0(pixels: object) -> Tensor:
    """uint8 (S, S, 3) to (3, S, S) in [-1, 1]."""
    return to_model(torch.tensor(pixels).permute(2, 0, 1))


def reason(facts: FileInfo) -> str:
    """Why a file that was examined has no pixels."""
    return facts.flaw or f"too large: {facts.width} x {facts.height} pixels; scale it to {MAX_PIXELS:,} or fewer"


def provenance_of_inputs(inputs: Sequence[Input], details: Mapping[str, object]) -> ImageProvenance:
    """Provenance of an image made from inputs: it keeps their source and their opt-out of data mining."""
    known = {"input": ", ".join(one.name.name for one in inputs)}
    if sources := sorted({one.facts.source for one in inputs} - {""}):
        known["input_source"] = ", ".join(sources)
    opt_out, files = joint_opt_out(one.facts.opt_out for one in inputs), [one.path for one in inputs if one.path]
    return ImageProvenance("composite", {**details, **known}, opt_out, files)
