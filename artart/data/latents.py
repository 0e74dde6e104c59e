"""The latents of images, computed once and kept beside the pixels."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from artart.data import store
from artart.data.cache import check_disk_space, locked
from artart.data.dataset import ImageSet
from artart.data.folder import ArtFolder
from artart.data.store import Kind
from artart.io.images import to_model
from artart.io.terminal import progress_bar

log = logging.getLogger(__name__)

CHUNK = 64  # images that are encoded between two steps of the progress bar


class Encoder(Protocol):
    """Images to latents, such as diffusion.first_stage.FrozenAutoencoder."""

    @property
    def sha256(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def latents(self, images: Tensor) -> Tensor: ...

    def normalize(self, latents: Tensor) -> Tensor: ...


class Latents(NamedTuple):
    """Latents of M images, not normalised."""

    values: Tensor  # (N, C, H, W) float16
    rows: Tensor  # (M,) long: the row of each image; with flips the next one is of its mirror image
    normalize: Callable[[Tensor], Tensor]


def latents_of(
    images: ImageSet, encoder: Encoder, folder: ArtFolder | None, device: torch.device, flips: bool
) -> Latents:
    """Encode images on a device, with flips also their mirror images, or find their latents in the folder's cache.

    Without a folder they stay in memory.

    Raises ArtError if the cache cannot be written or has too little space; OSError if the disk fills up.
    """
    num_sides = 1 + flips
    if folder is None:
        values = torch.from_numpy(np.stack([*_encoded(images, range(len(images.rows)), encoder, device, flips)]))
        return Latents(values.flatten(0, 1), num_sides * torch.arange(len(values)), encoder.normalize)
    name = f"{'flips' if flips else 'latents'}-{encoder.sha256[:16]}-{folder.kind.name}"
    kind = Kind(name, (num_sides, *encoder.shape), np.float16)
    with locked(folder.cache, folder.root):
        known = store.find(folder.cache, kind, max_rows=2 * len(images.digests))
        rows = known.rows if known else {}
        if new := [k for k, digest in enumerate(images.digests) if digest not in rows]:
            check_disk_space(folder.cache, "latents", len(new), len(new) * kind.row_bytes)
            with store.writing(folder.cache, kind) as writer:
                for k, sides in zip(new, _encoded(images, new, encoder, device, flips), strict=True):
                    writer.add(images.digests[k], sides)
            known = store.find(folder.cache, kind)
    assert known
    own = torch.tensor([num_sides * known.rows[digest] for digest in images.digests])
    return Latents(torch.from_numpy(known.values).flatten(0, 1), own, encoder.normalize)


def _encoded(images: ImageSet, ids: Any, encoder: Encoder, device: torch.device, flips: bool) -> Iterator[np.ndarray]:
    """For each image of `ids` the latents of it and, with flips, of its mirror image, (1 or 2, C, H, W) float16."""
    with progress_bar() as bar, torch.inference_mode():
        task = bar.add_task("encoding", total=len(ids))
        for part in torch.as_tensor(ids).split(CHUNK):
            x = to_model(images.pixels[images.rows[part]].to(device))
            sides = torch.stack([encoder.latents(one) for one in (x, *[x.flip(-1)] * flips)], dim=1)
            yield from sides.half().cpu().numpy()
            bar.advance(task, len(part))
