"""Inputs at their own size, into which the part that a network made is pasted."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from artart.data.decode import ResizeMode

Box = tuple[int, int, int, int]  # left, top, right, bottom
WHITE = 127  # of a mask: greater values are painted anew


class Original(NamedTuple):
    """An input at its own size."""

    read: Callable[[], Image.Image]  # upright, in mode RGB
    resize_mode: ResizeMode
    mask: Image.Image | None = None  # of its size, mode L: 255 where it is painted anew, else 0; None: everywhere

    def paste(self, square: Tensor) -> Tensor:
        """The input, uint8 (3, H, W), with the network's image, uint8 (3, S, S), scaled into it.

        Pixels that the network does not see, and those outside of the mask, are exactly the input's.
        """
        image, made = self.read().copy(), to_pil_image(square)
        seen, shown = boxes(image.size, made.width, self.resize_mode)
        part = made.crop(shown).resize(size_of(seen), Image.Resampling.LANCZOS)
        image.paste(part, seen, self.mask and self.mask.crop(seen))
        return pil_to_tensor(image)

    def pixels(self) -> Tensor:
        """The input, uint8 (3, H, W)."""
        return pil_to_tensor(self.read())

    def kept(self) -> Tensor:
        """The input, uint8 (3, H, W), grey where it is painted anew."""
        image = self.read().copy()
        image.paste("grey", mask=self.mask)
        return pil_to_tensor(image)


def boxes(size: tuple[int, int], side: int, resize_mode: ResizeMode) -> tuple[Box, Box]:
    """The part of an image (width, height) that `data.decode.resize` shows, and its place in the square."""
    width, height = size
    if resize_mode == "pad":
        inner = [max(1, round(length * side / max(size))) for length in size]
        return (0, 0, width, height), _centred((side, side), *inner)
    if resize_mode == "center_crop":
        return _centred(size, min(size), min(size)), (0, 0, side, side)
    return (0, 0, width, height), (0, 0, side, side)


def _centred(size: tuple[int, int], width: int, height: int) -> Box:
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def size_of(box: Box) -> tuple[int, int]:
    """Width and height."""
    return box[2] - box[0], box[3] - box[1]


def repainted(mask: Image.Image, side: int, resize_mode: ResizeMode) -> Tensor:
    """The pixels of the network's square that a mask like `Original.mask` touches, (1, S, S) bool."""
    seen, shown = boxes(mask.size, side, resize_mode)
    square = Image.new("L", (side, side))
    square.paste(mask.crop(seen).resize(size_of(shown), Image.Resampling.BOX), shown)
    return pil_to_tensor(square) > 0


def spread(repaint: Tensor, size: tuple[int, int], resize_mode: ResizeMode) -> Image.Image:
    """Of pixels of the network's square, (1, S, S) bool, those of an image (width, height): an `Original.mask`."""
    seen, shown = boxes(size, repaint.shape[-1], resize_mode)
    mask = Image.new("L", size)
    square = to_pil_image(repaint.to(torch.uint8) * 255)
    mask.paste(square.crop(shown).resize(size_of(seen), Image.Resampling.NEAREST), seen)
    return mask
