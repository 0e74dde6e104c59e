"""The images that a network is trained on: those of a folder, or demo art."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.filesize import decimal
from torch import Tensor

from artart import ArtError
from artart.data import demo
from artart.data.folder import ArtFolder, Contents
from artart.data.index import Entry, counts, describe_unused
from artart.data.labels import labels_of
from artart.data.settings import Storage
from artart.io.terminal import progress_bar

log = logging.getLogger(__name__)

MIN_IMAGES = 4


class ImageSet(NamedTuple):
    """M images with their labels."""

    pixels: Tensor  # (N, 3, S, S) uint8
    rows: Tensor  # (M,) long: the row of each image's pixels
    labels: Tensor  # (M, K) long, a label in each column; the number of a column's names stands for "none"
    digests: list[str]  # hexadecimal SHA-256 of each image's file
    groups: list[str]  # near-duplicates have the same
    captions: Sequence[tuple[str, ...]] = ()  # of each image, perhaps none


def paint_demo_art(number: int, size: int, seed: int) -> ImageSet:
    """Demo art of `size` x `size` pixels."""
    log.info("data.root=null: painting %d images of demo art", number)
    with progress_bar() as bar:
        paintings = bar.track(demo.make(number, size, seed), total=number, description="painting")
        arrays, labels = zip(*paintings, strict=True)
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    digests = [sha256(array.tobytes()).hexdigest() for array in arrays]
    captions = [demo_captions(demo.CLASS_NAMES[label]) for label in labels]
    return ImageSet(pixels, torch.arange(number), torch.tensor(labels)[:, None], digests, digests, captions)


def demo_captions(class_name: str) -> tuple[str, ...]:
    """The captions of demo art of a class."""
    return class_name, f"demo art, {class_name}"


def used(entries: Iterable[Entry]) -> list[Entry]:
    """The entries of the images, in their order, which mixes the classes and does not depend on names."""
    return sorted((entry for entry in entries if entry.status == "ok"), key=lambda one: one.facts.sha256)


def images_of(folder: ArtFolder, contents: Contents, captions: Mapping[Path, tuple[str, ...]]) -> ImageSet:
    """The images of a folder that are used, of which there is at least one, with their captions by file."""
    assert contents.store is not None
    entries = used(contents.entries)
    names = [[folder.name_of(folder.root / entry.path, column) for column in folder.label_names] for entry in entries]
    digests = [entry.facts.sha256 for entry in entries]
    return ImageSet(
        torch.from_numpy(contents.store.values),
        torch.tensor([contents.store.rows[digest] for digest in digests]),
        labels_of(names, folder.label_names),
        digests,
        [entry.group for entry in entries],
        [captions.get(folder.root / entry.path, ()) for entry in entries],
    )


def check_usable(entries: Sequence[Entry], folder: ArtFolder, max_rejected_fraction: float) -> None:
    """Log how many files are not used, and why. Raises ArtError if too few are left or too many were rejected."""
    root, found = folder.root, counts(entries)
    unused = describe_unused(entries, folder.cache / "index.csv")
    if found["ok"] < MIN_IMAGES:
        raise ArtError(
            f"data.root={root}: {found['ok']} of {found['found']} files can be used, at least {MIN_IMAGES} are needed; "
            + ("; ".join(unused.values()) or "add images")
        )
    if found["rejected"] > max_rejected_fraction * found["found"]:
        raise ArtError(
            f"data.root={root}: {unused['rejected']}; that is more than "
            f"data.max_rejected_fraction={max_rejected_fraction}: repair the folder or raise the fraction"
        )
    for line in unused.values():
        log.warning(line)


def place(pixels: Tensor, storage: Storage, device: torch.device) -> Tensor:
    """The pixels in memory or on the device; auto: on a GPU if they take less than a quarter of its free memory.

    Raises ArtError if they do not fit there.
    """
    if storage == "memory" or (storage == "auto" and device.type != "cuda") or pixels.device == device:
        return pixels
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of an earlier job of a sweep
        free = torch.cuda.mem_get_info(device)[0]
        if storage == "auto" and pixels.nbytes > free / 4:
            return pixels
        if pixels.nbytes > free:
            raise ArtError(
                f"data.storage=device: the pixels take {decimal(pixels.nbytes)} and {decimal(free)} of the GPU "
                "are free; data.storage=memory needs none of it"
            )
    return pixels.to(device)
