"""Pictures at the border: any file to RGB, value ranges, resizing, grids, and files that say how they were made.

Value ranges: files and stores hold uint8 in [0, 255]; everything inside artart is float in [-1, 1]; [0, 1] exists only
at the border to TensorBoard.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from torch import Tensor
from torchvision.utils import make_grid

from artart import __version__
from artart.storage import atomic

Image.init()  # Image.open fails on the name of a plugin that is not loaded, and threads would race to load them
_KNOWN = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
FORMATS = tuple(name for name in _KNOWN if name in Image.OPEN)  # older Pillows have no AVIF; MPO opens as JPEG
SRGB = ImageCms.createProfile("sRGB")
PAPER = (255, 255, 255)
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Large pictures and odd metadata are no concern of the user's: a file can be decoded, or there is a reason why not.
# A filter in `decode` would not do: before Python 3.14 catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Batch(NamedTuple):
    """Pictures and their classes."""

    x0: Tensor  # (B, 3, S, S), uint8 in [0, 255] until it is on the device, then float in [-1, 1]
    y: Tensor  # (B,) long; the number of classes stands for "no class"


def to_model(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] to float in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Float in [-1, 1] (what lies outside is clamped) to uint8 in [0, 255]."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def decode(file: str | Path | BinaryIO) -> Image.Image:
    """The first frame of any picture file, decoded to the last byte, upright, in sRGB, on white paper.

    Returns:
        A picture in mode RGB.

    Raises:
        Exception: of many types (OSError, SyntaxError, DecompressionBombError ...), as Pillow's decoders raise them.
    """
    with Image.open(file, formats=FORMATS) as image:
        image.load()
        with suppress(Exception):  # EXIF that cannot be read says nothing about the pixels
            ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB without Pillow's silent losses: bit depths are scaled, profiles applied, alpha laid on white."""
    icc = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        return _to_srgb(_to_8_bit(image), icc)
    if not image.has_transparency_data:
        return _to_srgb(image, icc)
    rgba = image.convert("RGBA")
    colours = image.convert("L") if image.mode in ("L", "LA") else rgba.convert("RGB")  # a grey profile needs grey
    paper = Image.new("RGB", image.size, PAPER)
    paper.paste(_to_srgb(colours, icc), mask=rgba.getchannel("A"))
    return paper


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Modes I;16, I and F to L; no numbers become black.

    I and F do not tell their white: it is the first of 1, 255, 65535 and the largest value that holds all values.
    """
    values = np.asarray(image, dtype=np.float64)
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:
        peak = values.max(initial=0, where=np.isfinite(values))
        white = next(white for white in (1.0, 255.0, 65535.0, peak) if peak <= white)
    return Image.fromarray(np.nan_to_num(values / white * 255).clip(0, 255).round().astype(np.uint8))


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """RGB through the embedded colour profile, if there is one that can be read and fits the picture."""
    if icc:
        if image.mode not in ("RGB", "L", "CMYK", "LAB"):
            image = image.convert("RGB")
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            if "sRGB" not in ImageCms.getProfileDescription(profile):
                converted = ImageCms.profileToProfile(image, profile, SRGB, outputMode="RGB")
                assert converted is not None
                return converted
    return image.convert("RGB")


def squash(image: Image.Image, size: int) -> np.ndarray:
    """The article's resize: to size x size whatever the aspect ratio, antialiased. Returns uint8 (size, size, 3)."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def grid(rows: Sequence[Tensor]) -> Tensor:
    """Rows of pictures, each (B, 3, H, W) in [-1, 1], as one uint8 picture (3, H', W')."""
    return make_grid(to_pixels(torch.cat(list(rows))), nrow=len(rows[0]), padding=2, pad_value=255)


class Marks(NamedTuple):
    """What a picture says of its origin, for people and machines that meet it later."""

    source: Literal["trained", "composite"]  # made by a network alone, or by a network from somebody's picture
    details: Mapping[str, object]  # checkpoint hash, seed, settings


IPTC_SOURCE = {
    "trained": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    "composite": "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
}


def xmp(marks: Marks) -> str:
    """An XMP packet: IPTC's DigitalSourceType, the tool, and the details as a readable description.

    Source: IPTC Photo Metadata Standard 2023.2, "Digital Source Type"; ISO 16684-1 (XMP).
    """
    description = NOT_XML.sub("\ufffd", "; ".join(f"{name}={value}" for name, value in marks.details.items()))
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
   <Iptc4xmpExt:DigitalSourceType>{IPTC_SOURCE[marks.source]}</Iptc4xmpExt:DigitalSourceType>
   <xmp:CreatorTool>artart {escape(__version__)}</xmp:CreatorTool>
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(description)}</rdf:li></rdf:Alt></dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def save(pixels: Tensor, path: Path, marks: Marks) -> None:
    """Write uint8 (3, H, W) as a PNG with its marks; the file appears whole or not at all.

    Raises:
        OSError: if the file cannot be written.
    """
    # Pillow's save(..., xmp=) is silently ignored for PNG: the packet belongs into this chunk.
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", xmp(marks))
    image = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    with atomic(path) as file:
        image.save(file, format="PNG", pnginfo=chunks)
