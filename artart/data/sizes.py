"""The sizes of the images of a collection, and what becoming a square costs them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from artart.data.index import Entry

MUCH = 0.25  # share of an image


def sides(entries: Sequence[Entry]) -> np.ndarray:
    """Width and height in pixels of the images that are used, upright, (N, 2)."""
    used = [entry.facts for entry in entries if entry.status == "ok"]
    turned = [(one.height, one.width) if one.orientation > 4 else (one.width, one.height) for one in used]
    return np.array(turned, float).reshape(-1, 2)


def sizes(entries: Sequence[Entry], image_size: int) -> dict[str, Any]:
    """Quantiles of the shorter side and of the aspect ratio (width over height), and the cost of resizing.

    `lost` is the share of an image that `center_crop` cuts off, and of the square that `pad` fills with the background;
    `stretch` widens one side over the other by 1 / (1 - lost). `enlarged` is the share of images whose shorter side is
    less than `image_size`, which resizing blurs.
    """
    found = sides(entries)
    if not len(found):
        return {}
    shorter, ratios = found.min(axis=1), found[:, 0] / found[:, 1]
    lost = 1 - shorter / found.max(axis=1)

    def quantiles(values: np.ndarray) -> dict[str, float]:
        return {f"p{p}": float(value) for p, value in zip((5, 50, 95), np.percentile(values, (5, 50, 95)), strict=True)}

    return {
        "shorter_side": quantiles(shorter),
        "aspect_ratio": quantiles(ratios),
        "lost": quantiles(lost) | {"above_a_quarter": float((lost > MUCH).mean())},
        "enlarged": float((shorter < image_size).mean()),
    }
