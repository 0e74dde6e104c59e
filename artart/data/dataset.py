"""The images that can be trained on: those of a folder, or painted demo art."""

import logging
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from artart import ArtError
from artart.data import demo
from artart.data.folder import ArtFolder, Contents
from artart.data.index import Entry, counts, unused_in_words
from artart.data.labels import labels_of
from artart.io.terminal import progress_bar

log = logging.getLogger(__name__)

MIN_IMAGES = 4


class ImageSet(NamedTuple):
    """Images that can be trained on, and where their pixels lie."""

    pixels: Tensor  # (N, 3, S, S) uint8
    rows: Tensor  # (M,) long: where each image's pixels are
    labels: Tensor  # (M, K) long, a label in each column; the number of a column's names stands for "none"
    digests: list[str]  # hexadecimal SHA-256 of each image's file
    groups: list[str]  # look-alikes share a name


def painted(number: int, size: int, seed: int) -> ImageSet:
    """So many images of demo art, whose side is `size` pixels.

    Raises:
        ArtError: if they are too few.
    """
    if number < MIN_IMAGES:
        raise ArtError(f"data.num_demo_images={number}: {MIN_IMAGES} are the least")
    log.info("data.root=null: painting %d images of demo art", number)
    paintings = demo.make(number, size, seed)
    with progress_bar() as bar:
        tracked = bar.track(paintings, total=number, description="painting")
        arrays, labels = zip(*tracked, strict=True)
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    digests = [sha256(array.tobytes()).hexdigest() for array in arrays]
    return ImageSet(pixels, torch.arange(len(digests)), torch.tensor(labels)[:, None], digests, digests)


def usable(folder: ArtFolder, contents: Contents) -> ImageSet:
    """Those of a folder that can be used."""
    assert contents.store is not None
    # An order that mixes the classes and does not depend on names.
    used = sorted((entry for entry in contents.entries if entry.status == "ok"), key=lambda one: one.facts.sha256)
    rows = [[folder.name_of(folder.root / entry.path, column) for column in folder.label_names] for entry in used]
    return ImageSet(
        torch.from_numpy(contents.store.pixels),
        torch.tensor([contents.store.rows[entry.facts.sha256] for entry in used]),
        labels_of(rows, folder.label_names),
        [entry.facts.sha256 for entry in used],
        [entry.group for entry in used],
    )


def judge(entries: Sequence[Entry], folder: ArtFolder, max_rejected_fraction: float, lists: Path | None) -> None:
    """A line about what is not used, and where it stands: in the lists, or, if there are none, in the folder's index.

    Raises:
        ArtError: if that is too much to train on the rest.
    """
    root, found = folder.root, counts(entries)
    summary = unused_in_words(entries, lists, folder.cache / "index.csv")
    if found["ok"] < MIN_IMAGES:
        raise ArtError(
            f"data.root={root}: {found['ok']} of {found['found']} files can be used, {MIN_IMAGES} are the least; "
            + ("; ".join(summary.values()) or "add images")
        )
    if found["rejected"] > max_rejected_fraction * found["found"]:
        raise ArtError(
            f"data.root={root}: {summary['rejected']}; that is more than "
            f"data.max_rejected_fraction={max_rejected_fraction}: mend the folder or raise the fraction"
        )
    for line in summary.values():
        log.warning(line)
