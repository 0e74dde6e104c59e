"""The latents of images, computed once and kept beside the pixels."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from artart.data.dataset import ImageSet
from artart.data.folder import ArtFolder
from artart.data.store import Kind
from artart.io.images import to_model
from artart.io.terminal import progress_bar

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

    Raises the errors of `ArtFolder.complete`.
    """
    num_sides, encode = 1 + flips, partial(_encoded, images, encoder, device, flips)
    if folder is None:
        values = torch.from_numpy(np.stack([*encode(range(len(images.rows)))]))
        return Latents(values.flatten(0, 1), num_sides * torch.arange(len(values)), encoder.normalize)
    name = f"{'flips' if flips else 'latents'}-{encoder.sha256[:16]}-{folder.kind.name}"
    kind = Kind(name, (num_sides, *encoder.shape), np.float16)
    place = {digest: k for k, digest in enumerate(images.digests)}
    known = folder.complete(
        *(kind, "latents", images.digests),
        lambda new: encode([place[digest] for digest in new]),
        max_rows=2 * len(images.digests),
    )
    own = torch.tensor([num_sides * known.rows[digest] for digest in images.digests])
    return Latents(torch.from_numpy(known.values).flatten(0, 1), own, encoder.normalize)


def _encoded(
    images: ImageSet, encoder: Encoder, device: torch.device, flips: bool, ids: Sequence[int]
) -> Iterator[np.ndarray]:
    """For each image of `ids` the latents of it and, with flips, of its mirror image, (1 or 2, C, H, W) float16."""
    with progress_bar() as bar, torch.inference_mode():
        task = bar.add_task("encoding", total=len(ids))
        for part in torch.as_tensor(ids).split(CHUNK):
            x = to_model(images.pixels[images.rows[part]].to(device))
            sides = torch.stack([encoder.latents(one) for one in (x, *[x.flip(-1)] * flips)], dim=1)
            yield from sides.half().cpu().numpy()
            bar.advance(task, len(part))
