"""Value ranges of images, grids, and image files with their provenance.

Files and stores hold uint8 in [0, 255]; everywhere else images are float in [-1, 1].
Functions that write raise OSError if they cannot.
"""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from artart import ArtError
from artart.io.files import atomic, write_new
from artart.io.provenance import ImageProvenance, xmp

log = logging.getLogger(__name__)

Resample = Literal["lanczos", "nearest"]


class Batch(NamedTuple):
    """Images and their labels."""

    x0: Tensor  # (B, 3, S, S), float in [-1, 1]
    y: Tensor  # (B, K) long, a label in each column; the number of a column's names means "none". Or tokens of prompts


def to_model(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] to float in [-1, 1]."""
    return pixels.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_pixels(images: Tensor) -> Tensor:
    """Float in [-1, 1], clamped, to uint8 in [0, 255]."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(rows: Sequence[Tensor]) -> Tensor:
    """Rows of images, each (B, 3, H, W) in [-1, 1], as one uint8 image (3, H', W'); the last may be shorter."""
    return make_grid(to_pixels(torch.cat(list(rows))), nrow=len(rows[0]), padding=2, pad_value=255)


def to_pil(pixels: Tensor, provenance: ImageProvenance) -> Image.Image:
    """uint8 (3, H, W) as a PIL image with its provenance: XMP in `info["xmp"]`."""
    image = to_pil_image(pixels)
    image.info["xmp"] = xmp(provenance).encode()
    return image


def save(pixels: Tensor, path: Path, provenance: ImageProvenance) -> None:
    """Write uint8 (3, H, W) as a PNG with its provenance, atomically; replaces an older file."""
    with atomic(path) as file:
        file.write(encode(pixels, provenance))


def save_image(image: Image.Image | Tensor, path: str | Path) -> Path:
    """Write an image as a PNG with its provenance; replaces no file: a taken name gets -2, -3 ... Returns the name.

    Args:
        image: a PIL image, such as `Model.sample` returns, whose XMP is kept; or a tensor (3, H, W), float in [-1, 1].
            A file of an image without XMP states that a network made it.
        path: a name that ends in .png.

    Raises ArtError if the name ends differently, or the image is neither; OSError if the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".png":
        raise ArtError(f"path={path}: must end in .png")
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
            raise ArtError(
                f"image: a tensor of type {image.dtype} and shape {tuple(image.shape)}, not floats (3, H, W)"
            )
        return write_new(path, encode(to_pixels(image), ImageProvenance("trained", {})))
    packet = image.info.get("xmp")
    known = packet.decode(errors="replace") if isinstance(packet, bytes) else packet
    return write_new(path, as_png(image, known if isinstance(known, str) else xmp(ImageProvenance("trained", {}))))


def encode(pixels: Tensor, provenance: ImageProvenance) -> bytes:
    """uint8 (3, H, W) as a PNG with its provenance."""
    return as_png(to_pil_image(pixels), xmp(provenance))


def as_png(image: Image.Image, packet: str) -> bytes:
    """A PIL image as a PNG with an XMP packet."""
    # Pillow ignores save(..., xmp=) for PNG: the packet belongs into this chunk.
    chunks, file = PngImagePlugin.PngInfo(), io.BytesIO()
    chunks.add_itxt("XML:com.adobe.xmp", packet)
    image.save(file, format="PNG", pnginfo=chunks)
    return file.getvalue()


def enlarged(pixels: Tensor, factor: int, resample: Resample = "lanczos") -> Tensor:
    """uint8 (3, H, W) to (3, factor H, factor W)."""
    if factor == 1:
        return pixels
    _, height, width = pixels.shape
    large = to_pil_image(pixels).resize((factor * width, factor * height), Image.Resampling[resample.upper()])
    return pil_to_tensor(large)


def encode_animation(frames: Sequence[Tensor], provenance: ImageProvenance) -> bytes:
    """Images, uint8 (3, H, W) each, as an animated WebP with its provenance; the last one stays longer."""
    first, *others = map(to_pil_image, frames)
    durations = [100] * len(others) + [2000]  # ms
    file, packet = io.BytesIO(), xmp(provenance).encode()
    options = {"append_images": others, "duration": durations, "loop": 0, "lossless": True, "xmp": packet}
    first.save(file, format="WEBP", save_all=True, **options)
    return file.getvalue()


def show(path: Path) -> None:
    """Open an image in the desktop's viewer."""
    log.info("showing %s", path)
    with Image.open(path) as image:
        image.show()
