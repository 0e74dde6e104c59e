"""Contact sheets: images in rows, each with a caption."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from artart.io.images import Resample
from artart.io.terminal import printable

MIN_SIDE = 96  # pixels at which an image is shown
MAX_IN_SHEET = 256  # images
GAP = 2  # pixels
FONT = "fonts/ttf/DejaVuSans.ttf"  # of matplotlib; the font in Pillow has ASCII alone
FONT_SIZE = 10  # pixels
CAPTION_HEIGHT = 15  # pixels


def factor_to_show(side: int) -> int:
    """The whole factor by which a square is enlarged to be seen well."""
    return max(1, -(-MIN_SIDE // side))


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
        import matplotlib

        step = self.side + GAP
        down = step + (CAPTION_HEIGHT if any(caption for _, caption in self.tiles) else 0)
        columns, rows = min(num_columns, len(self.tiles)), -(-len(self.tiles) // num_columns)
        sheet = Image.new("RGB", (columns * step + GAP, rows * down + GAP), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(Path(matplotlib.get_data_path(), FONT), FONT_SIZE)
        for k, (image, caption) in enumerate(self.tiles):
            left, top = GAP + k % num_columns * step, GAP + k // num_columns * down
            sheet.paste(image, (left + (self.side - image.width) // 2, top + (self.side - image.height) // 2))
            text = printable(caption)
            while text and draw.textlength(text, font) > self.side:
                text = text[:-2] + "…"
            draw.text((left, top + self.side), text, "black", font)
        return pil_to_tensor(sheet)
