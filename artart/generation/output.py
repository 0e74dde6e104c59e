"""Files of generated images, and contact sheets of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from artart.io.images import Resample, enlarged, grid, save_new
from artart.io.provenance import ImageProvenance
from artart.io.terminal import printable

MIN_SIDE = 96  # pixels at which an image is shown
MAX_IN_SHEET = 256  # images
GAP = 2  # pixels
FONT_SIZE = 11  # pixels
CAPTION_HEIGHT = 15  # pixels


class Output(NamedTuple):
    """Where and how files are written."""

    folder: Path
    scale: int = 1  # factor by which images are enlarged
    resample: Resample = "lanczos"

    def save(self, pixels: Tensor, name: str | Path, provenance: ImageProvenance) -> Path:
        """Write an image, uint8 (3, H, W), enlarged, under a free name like `name`; returns that."""
        if self.scale > 1:
            provenance = provenance._replace(details={**provenance.details, "scale": self.scale})
        return save_new(enlarged(pixels, self.scale, self.resample), self.folder / name, provenance)

    def save_sheet(self, sheet: "ContactSheet", num_columns: int, provenance: ImageProvenance) -> Path:
        """Write grid.png, or grid-2.png ...; returns the name."""
        return save_new(sheet.draw(num_columns), self.folder / "grid.png", provenance)


class Written(NamedTuple):
    """The files of a call."""

    first: Path  # to look at
    number: int


def factor_to_show(side: int) -> int:
    """The whole factor by which a square is enlarged to be seen well."""
    return max(1, -(-MIN_SIDE // side))


def shown(rows: Sequence[Tensor], resample: Resample) -> Tensor:
    """A `grid` of squares, (B, 3, S, S) each, large enough to be seen well."""
    factor, mode = factor_to_show(rows[0].shape[-1]), "nearest" if resample == "nearest" else "bicubic"
    return grid([F.interpolate(row, scale_factor=factor, mode=mode) for row in rows])


class ContactSheet:
    """Up to MAX_IN_SHEET images, each with a caption below it."""

    def __init__(self, side: int, resample: Resample) -> None:
        """`side`: of the network's images in pixels; small ones are enlarged."""
        self.side = side * factor_to_show(side)
        self.method = Image.Resampling[resample.upper()]
        self.tiles: list[tuple[Image.Image, str]] = []

    def has_room(self, num: int = 1) -> bool:
        """Whether so many more images fit."""
        return len(self.tiles) + num <= MAX_IN_SHEET

    def add(self, pixels: Tensor, caption: str = "") -> None:
        """Add an image, uint8 (3, H, W), of any size and aspect ratio, if there is room."""
        if self.has_room():
            method = self.method if max(pixels.shape) <= self.side else Image.Resampling.LANCZOS
            self.tiles.append((ImageOps.contain(to_pil_image(pixels), (self.side,) * 2, method), caption))

    def draw(self, num_columns: int) -> Tensor:
        """The sheet, uint8 (3, H, W), in rows of `num_columns` images."""
        step = self.side + GAP
        down = step + (CAPTION_HEIGHT if any(caption for _, caption in self.tiles) else 0)
        columns, rows = min(num_columns, len(self.tiles)), -(-len(self.tiles) // num_columns)
        sheet = Image.new("RGB", (columns * step + GAP, rows * down + GAP), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
        for k, (image, caption) in enumerate(self.tiles):
            left, top = GAP + k % num_columns * step, GAP + k // num_columns * down
            sheet.paste(image, (left + (self.side - image.width) // 2, top + (self.side - image.height) // 2))
            text = printable(caption)
            while text and draw.textlength(text, font) > self.side:
                text = text[:-2] + "…"
            draw.text((left, top + self.side), text, "black", font)
        return pil_to_tensor(sheet)
