"""Value ranges of images, grids, and image files with their provenance.

Files and stores hold uint8 in [0, 255]; everywhere else images are float in [-1, 1], except that TensorBoard gets
[0, 1].
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor
from torchvision.utils import make_grid

from artart.io.files import atomic, write_new
from artart.io.provenance import ImageProvenance, xmp


class Batch(NamedTuple):
    """Images and their labels."""

    x0: Tensor  # (B, 3, S, S), float in [-1, 1]
    y: Tensor  # (B, K) long, a label in each column; the number of a column's names stands for "none"


def to_model(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] to float in [-1, 1]."""
    return pixels.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_pixels(images: Tensor) -> Tensor:
    """Float in [-1, 1], clamped, to uint8 in [0, 255]."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(rows: Sequence[Tensor]) -> Tensor:
    """Rows of images, each (B, 3, H, W) in [-1, 1], as one uint8 image (3, H', W'); the last may be shorter."""
    return make_grid(to_pixels(torch.cat(list(rows))), nrow=len(rows[0]), padding=2, pad_value=255)


def save(pixels: Tensor, path: Path, provenance: ImageProvenance) -> None:
    """Write uint8 (3, H, W) as a PNG with its provenance, atomically.

    Raises:
        OSError: if the file cannot be written.
    """
    with atomic(path) as file:
        encode(pixels, file, provenance)


def save_new(pixels: Tensor, path: Path, provenance: ImageProvenance) -> Path:
    """The same under a free name, which `write_new` chooses; returns that name.

    Raises:
        OSError: if the file cannot be written.
    """
    file = io.BytesIO()
    encode(pixels, file, provenance)
    return write_new(path, file.getvalue())


def encode(pixels: Tensor, file: BinaryIO, provenance: ImageProvenance) -> None:
    """Write uint8 (3, H, W) as a PNG with its provenance into an open file."""
    # Pillow ignores save(..., xmp=) for PNG; the packet belongs into this chunk.
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", xmp(provenance))
    Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(file, format="PNG", pnginfo=chunks)


def save_animation(frames: Sequence[Tensor], path: Path, provenance: ImageProvenance) -> Path:
    """Write images, uint8 (3, H, W) each, as an animated WebP with its provenance; the last one stays longer.

    Returns the file's name, which `write_new` chooses.

    Raises:
        OSError: if the file cannot be written.
    """
    first, *others = [Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()) for pixels in frames]
    durations = [100] * len(others) + [2000]  # ms
    file = io.BytesIO()
    first.save(
        file,
        format="WEBP",
        save_all=True,
        append_images=others,
        duration=durations,
        loop=0,
        lossless=True,
        xmp=xmp(provenance).encode(),
    )
    return write_new(path, file.getvalue())
