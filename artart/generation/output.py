"""Files of generated images, and grids of them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from artart.generation.plan import Item
from artart.io.contact_sheet import factor_to_show
from artart.io.files import numbered, write_new
from artart.io.images import Resample, encode, enlarged, grid, to_pixels
from artart.io.provenance import ImageProvenance, xmp


class Output(NamedTuple):
    """Where and how files are written. No file is replaced: a taken name gets -2, -3 ..."""

    folder: Path
    scale: int = 1  # factor by which images are enlarged
    resample: Resample = "lanczos"
    on_image: Callable[[Path, Tensor, ImageProvenance], object] | None = None  # gets what `save_item` writes
    sign: Callable[[bytes, str, ImageProvenance], bytes] | None = None  # gets a file's content and name
    on_file: Callable[[Path, bytes, ImageProvenance], object] | None = None  # gets every file before it is written

    def write(self, content: bytes, name: str | Path, provenance: ImageProvenance) -> Path:
        """Write an image file, signed if there is a signer; returns its name."""
        if self.sign is not None:
            content = self.sign(content, Path(name).name, provenance)
        path = self.folder / name
        if self.on_file is not None:  # first: a file that is there is taken as done
            path = next(place for place in numbered(path) if not place.exists())
            self.on_file(path, content, provenance)
        return write_new(path, content)

    def save(self, pixels: Tensor, name: str | Path, provenance: ImageProvenance) -> Path:
        """Write an image or a grid, uint8 (3, H, W), as it is; returns its name."""
        return self.write(encode(pixels, provenance), name, provenance)

    def _enlarged(self, provenance: ImageProvenance) -> ImageProvenance:
        if self.scale == 1:
            return provenance
        own = {"scale": self.scale, "resample": self.resample}
        return provenance._replace(details={**provenance.details, **own})

    def save_item(self, item: Item, image: Tensor) -> tuple[Path, Tensor]:
        """Write the network's image (3, S, S) in [-1, 1] of an item, enlarged by `scale`.

        `on_image` gets the name, the network's image as uint8 (3, S, S), and its provenance.

        Returns the file's name and `item.finished`.
        """
        pixels = item.finished(image)
        path = self.save(enlarged(pixels, self.scale, self.resample), item.name, self._enlarged(item.provenance))
        if self.on_image is not None:
            self.on_image(path, to_pixels(image), item.provenance)
        return path, pixels

    def save_items(
        self, made: Iterable[tuple[Item, Tensor]], ahead: int
    ) -> Iterator[tuple[Item, Tensor, Path, Tensor]]:
        """Write the images of items in a thread, while up to `ahead` others are made.

        Yields in their order the item, its image, and what `save_item` returns, whose errors are raised here. Files
        that wait when an error or Ctrl-C comes are left out.
        """
        waiting, writer = deque[tuple[Item, Tensor, Future[tuple[Path, Tensor]]]](), ThreadPoolExecutor(1)

        def oldest() -> tuple[Item, Tensor, Path, Tensor]:
            item, image, written = waiting.popleft()
            return item, image, *written.result()

        try:
            for item, image in made:
                waiting.append((item, image, writer.submit(self.save_item, item, image)))
                while len(waiting) > ahead:
                    yield oldest()
            while waiting:
                yield oldest()
        finally:
            writer.shutdown(cancel_futures=True)

    def is_there(self, item: Item) -> bool:
        """Whether the same command has written an item before: its file then has the same provenance.

        Not known of signed files, and of those that `on_image` is to see.
        """
        return not (self.on_image or self.sign) and self.has(item.name, self._enlarged(item.provenance))

    def has(self, name: str | Path, provenance: ImageProvenance) -> bool:
        """Whether there is an image file of that name and provenance."""
        with suppress(Exception), Image.open(self.folder / name) as image:  # Pillow raises nearly anything
            return bool(image.info.get("xmp") == xmp(provenance).encode())
        return False


def shown(rows: Sequence[Tensor], resample: Resample) -> Tensor:
    """A `grid` of squares, (B, 3, S, S) each, large enough to be seen well."""
    factor, mode = factor_to_show(rows[0].shape[-1]), "nearest" if resample == "nearest" else "bicubic"
    return grid([F.interpolate(row, scale_factor=factor, mode=mode) for row in rows])
