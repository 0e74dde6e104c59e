"""One page of samples: each can be enlarged, with its provenance and the nearest training image beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from artart.evaluation.attribution import TrainingSet, compare
from artart.io.images import encode
from artart.io.page import Slides, data_url, render
from artart.io.provenance import ImageProvenance

TEMPLATE = Path(__file__).with_suffix(".html")


class Tile(NamedTuple):
    """A sample on the page."""

    name: str
    image: str  # data URL, as are others
    details: Mapping[str, object]
    nearest: str = ""  # of the training image
    source: str = ""  # what is known of that


def tiles(made: Sequence[tuple[str, Tensor, ImageProvenance]], training: TrainingSet | None) -> list[Tile]:
    """Samples by name, uint8 (3, S, S), with the nearest of the training images."""
    own = [Tile(name, data_url(encode(pixels, origin)), origin.details) for name, pixels, origin in made]
    if training is None:
        return own
    found = compare(torch.stack([pixels for _, pixels, _ in made]), training, k=1)
    pairs = zip(own, found.distances[:, 0].tolist(), found.which[:, 0].tolist(), strict=True)
    return [_with_nearest(tile, training, distance, which, found.threshold) for tile, distance, which in pairs]


def _with_nearest(tile: Tile, training: TrainingSet, distance: float, which: int, threshold: float | None) -> Tile:
    source = training.sources[which]
    relation = "" if threshold is None else ", closer than held-out art" if distance < threshold else ""
    known = [f"distance {distance:.3f}{relation}", source.columns.get("artist"), source.columns.get("licence")]
    image = encode(
        training.images[which], ImageProvenance("composite", {"training image": source.path}, source.opt_out)
    )
    return tile._replace(nearest=data_url(image), source="; ".join(filter(None, [*known, source.path])))


def page(title: str, shown: Sequence[Tile], grids: Sequence[tuple[str, bytes]], facts: Mapping[str, Any]) -> bytes:
    """The gallery as HTML, one file: arrow keys and swipes go through the images, Escape closes one."""
    slides = [Slides("Samples through the epochs", [("", grids)])] if grids else []
    return render(TEMPLATE, title=f"Samples of {title}", tiles=shown, sections=slides, facts=facts)
