"""Images that somebody hands to a network: made like those of its training, with what they say of themselves."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from artart import ArtError
from artart.checkpoints.load import Loaded
from artart.data.decode import ResizeMode
from artart.data.index import write_list
from artart.data.scan import FileInfo, examine_all, find
from artart.io.provenance import ImageProvenance
from artart.io.terminal import relative_to_cwd

log = logging.getLogger(__name__)


class Input(NamedTuple):
    """An image as the network is to see it."""

    name: Path  # below the folder that was named
    pixels: Tensor  # (3, S, S) uint8
    facts: FileInfo


def read(loaded: Loaded, source: Path, out: Path, description: str) -> Iterator[Input]:
    """The usable images of a file or folder, as they come; the others are listed in a new file out/rejected.csv.

    Raises:
        ArtError: if `out` is that folder, or no image can be used.
    """
    if out.resolve() == source.resolve():
        raise ArtError(f"out={out}: must be a folder, and not the one that holds the input")
    root, files = source.parent, [source]
    if source.is_dir():
        root, files = source, [path for path in find(source) if out not in path.parents]  # of an earlier call
    rejected: list[tuple[Path, str, int]] = []
    for one in examine_all(files, *size_and_resize_mode(loaded), description=description):
        if one.pixels is None:
            rejected.append((one.path, reason(one.facts), one.facts.bytes))
        else:
            yield Input(one.path.relative_to(root), torch.tensor(one.pixels).permute(2, 0, 1), one.facts)
    if len(rejected) == len(files):
        reasons = "; ".join(f"{path.name}: {why}" for path, why, _ in rejected[:3]) or "no image below this folder"
        raise ArtError(f"input={source}: nothing to work on ({reasons})")
    if rejected:
        table = write_list(rejected, out / "rejected.csv")
        log.warning("%d of %d files cannot be used: see %s", len(rejected), len(files), relative_to_cwd(table))


def size_and_resize_mode(loaded: Loaded) -> tuple[int, ResizeMode]:
    """How the network's training made images square."""
    return loaded.config["image_size"], loaded.config["data"].get("resize_mode", "stretch")


def reason(facts: FileInfo) -> str:
    """Why a file that was examined has no pixels."""
    return facts.flaw or f"too large: {facts.width} x {facts.height} pixels"


def provenance_of_inputs(inputs: Sequence[Input], details: Mapping[str, object]) -> ImageProvenance:
    """Of what a network made from these images: what they say of their origin and of data mining is said on."""
    known = {"input": ", ".join(one.name.name for one in inputs)}
    if sources := sorted({one.facts.source for one in inputs} - {""}):
        known["input_source"] = ", ".join(sources)
    opt_outs = {one.facts.opt_out for one in inputs} - {""}
    opt_out = "DMI-PROHIBITED" if len(opt_outs) > 1 else "".join(opt_outs)  # which includes every other term
    return ImageProvenance("composite", {**details, **known}, opt_out)
