"""One page of samples: each can be enlarged, with its provenance and the nearest training image beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artart.evaluation.attribution import TrainingSet
from artart.io.images import encode
from artart.io.page import Slides, data_url, render
from artart.io.provenance import ImageProvenance

TEMPLATE = Path(__file__).with_suffix(".html")


def page(
    title: str,
    made: Sequence[tuple[str, Tensor, ImageProvenance]],
    training: TrainingSet | None,
    grids: Sequence[tuple[str, bytes]],
    facts: Mapping[str, Any],
) -> bytes:
    """The gallery as HTML, one file: arrow keys and swipes go through the images, Escape closes one.

    `made` are samples by name, uint8 (3, S, S), which are shown with the nearest of the training images.
    """
    no_other: dict[str, object] = {"nearest": "", "source": ""}
    tiles = [
        {"name": name, "image": data_url(encode(pixels, origin)), "details": origin.details, **no_other}
        for name, pixels, origin in made
    ]
    if training is not None:
        distances, which = training.test.k_nearest(torch.stack([pixels for _, pixels, _ in made]), k=1)
        for tile, distance, k in zip(tiles, distances[:, 0].tolist(), which[:, 0].tolist(), strict=True):
            path, opt_out = training.sources[k].path, training.sources[k].opt_out
            origin = ImageProvenance("composite", {"training image": path}, opt_out)
            near = training.describe(k, distance)
            relation = ", closer than held-out art" if near["closer_than_held_out"] else ""
            known = [f"distance {distance:.3f}{relation}", near.get("artist"), near.get("licence"), path]
            tile["nearest"] = data_url(encode(training.images[k], origin))
            tile["source"] = "; ".join(filter(None, known))
    slides = [Slides("Samples through the epochs", [("", grids)])] if grids else []
    return render(TEMPLATE, title=f"Samples of {title}", tiles=tiles, sections=slides, facts=facts)
