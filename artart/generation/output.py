"""Files of generated images, and grids of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from artart.generation.plan import Item
from artart.io.contact_sheet import ContactSheet, factor_to_show
from artart.io.images import Resample, enlarged, grid, save_new, to_pixels
from artart.io.provenance import ImageProvenance


class Output(NamedTuple):
    """Where and how files are written."""

    folder: Path
    scale: int = 1  # factor by which images are enlarged
    resample: Resample = "lanczos"
    on_image: Callable[[Path, Tensor, ImageProvenance], object] | None = None  # gets what `save_item` writes

    def save(self, pixels: Tensor, name: str | Path, provenance: ImageProvenance) -> Path:
        """Write an image, uint8 (3, H, W), enlarged, under a free name like `name`; returns that."""
        if self.scale > 1:
            provenance = provenance._replace(details={**provenance.details, "scale": self.scale})
        return save_new(enlarged(pixels, self.scale, self.resample), self.folder / name, provenance)

    def save_item(self, item: Item, image: Tensor) -> tuple[Path, Tensor]:
        """Write the network's image (3, S, S) in [-1, 1] of an item; returns the file's name and `item.finished`.

        `on_image` gets the name, the network's image as uint8 (3, S, S), and its provenance.
        """
        path = self.save(pixels := item.finished(image), item.name, item.provenance)
        if self.on_image is not None:
            self.on_image(path, to_pixels(image), item.provenance)
        return path, pixels

    def save_sheet(self, sheet: ContactSheet, num_columns: int, provenance: ImageProvenance) -> Path:
        """Write grid.png, or grid-2.png ...; returns the name."""
        return save_new(sheet.draw(num_columns), self.folder / "grid.png", provenance)


class Written(NamedTuple):
    """The files of a call."""

    first: Path  # to look at
    number: int


def shown(rows: Sequence[Tensor], resample: Resample) -> Tensor:
    """A `grid` of squares, (B, 3, S, S) each, large enough to be seen well."""
    factor, mode = factor_to_show(rows[0].shape[-1]), "nearest" if resample == "nearest" else "bicubic"
    return grid([F.interpolate(row, scale_factor=factor, mode=mode) for row in rows])
