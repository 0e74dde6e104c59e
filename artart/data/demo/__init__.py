"""Procedural images in the project's five classes, so that a newcomer can train before owning any data.

Everything is placed on the unit square (origin top left, y down) and lattice noise has a fixed number of cells,
so the size asked for changes the sampling of an image and never its composition.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from artart.data.demo.canvas import Canvas
from artart.data.demo.drawing import draw
from artart.data.demo.engraving import engrave
from artart.data.demo.iconography import iconise
from artart.data.demo.painting import landscape
from artart.data.demo.sculpture import sculpt

_PAINTERS: Final[dict[str, Callable[[Canvas], None]]] = {
    "drawing": draw,
    "engraving": engrave,
    "iconography": iconise,
    "painting": landscape,
    "sculpture": sculpt,
}
CLASS_NAMES: Final = tuple(_PAINTERS)
MIN_RENDER_SIDE: Final = 128
SEED_STRIDE: Final = 1_000_003


def paint(class_name: str, seed: int, size: int) -> NDArray[np.uint8]:
    """One (size, size, 3) RGB image whose content is fixed by the class and the seed (0 or more)."""
    factor = max(2, -(-MIN_RENDER_SIDE // size))
    canvas = Canvas(np.random.default_rng([CLASS_NAMES.index(class_name), seed]), size * factor)
    _PAINTERS[class_name](canvas)
    pixels = canvas.rgb.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def make(num_images: int, size: int, seed: int = 0) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Images and labels, one after the other, the classes in turn; a longer set starts with the shorter one."""
    for index in range(num_images):
        round_, label = divmod(index, len(CLASS_NAMES))
        yield paint(CLASS_NAMES[label], seed * SEED_STRIDE + round_, size), label
