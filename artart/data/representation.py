"""How the images of a collection are spread over the values of a column, such as artists or periods, and over sizes."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from artart.data.folder import ArtFolder
from artart.data.index import Entry
from artart.data.labels import CLASS

MAX_LISTED = 10  # values
YEAR = re.compile(r"(?<!\d)(1\d{3}|20\d{2})(?!\d)")  # in "c. 1890" and "1890-95"
MAX_PERIOD_LENGTH = 16  # characters of a value that is a period
UNIQUE = 0.9  # different values per known one, above which a column names single images, as titles do
YEARS = 0.9  # share of the known values that hold a year, above which a column is one of periods


def representation(values: Iterable[str]) -> dict[str, Any]:
    """Numbers on the values of a column, one of each image; "" is unknown.

    `effective_number` is the number of values that would be as diverse if all were equally frequent: the exponential of
    the Shannon entropy (Hill 1973, doi 10.2307/1934352); 0 without any.
    """
    counted = Counter(values)
    unknown = counted.pop("", 0)
    shares = [number / counted.total() for number in counted.values()]
    return {
        "known": counted.total(),
        "unknown": unknown,
        "different": len(counted),
        "effective_number": math.exp(-sum(one * math.log(one) for one in shares)) if shares else 0.0,
        "most": dict(counted.most_common(MAX_LISTED)),
    }


def by_column(folder: ArtFolder, entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """`representation` of the classes and of each column of the table, over the images that are used.

    Columns of years are counted by decade. Columns such as titles, of which nearly every image has another value, list
    none.
    """
    used = [folder.root / entry.path for entry in entries if entry.status == "ok"]
    columns = [] if folder.metadata is None else [one for one in folder.metadata.columns if one not in (CLASS, "path")]
    found = {}
    for column in (CLASS, *columns):
        values = [" ".join(folder.name_of(path, column).split()) for path in used]
        decades = [*map(decade, values)]
        if column != CLASS and sum(map(bool, decades)) > YEARS * max(1, sum(map(bool, values))):
            column, values = f"{column}, by decade", decades
        one = representation(values)
        is_name = one["different"] > max(MAX_LISTED, UNIQUE * one["known"])
        found[column] = one | {"most": {}} if is_name else one
    return found


def decade(value: str) -> str:
    """The decade of a value such as "1904" or "c. 1890"; "" if it is none."""
    year = YEAR.search(value) if len(value) <= MAX_PERIOD_LENGTH else None
    return f"{year[1][:3]}0s" if year else ""


def sides(entries: Sequence[Entry]) -> np.ndarray:
    """Width and height in pixels of the images that are used, upright, (N, 2)."""
    used = [entry.facts for entry in entries if entry.status == "ok"]
    sideways = [one.orientation > 4 and one.format != "TIFF" for one in used]  # Pillow turns the sides of TIFFs
    turned = [(one.width, one.height)[:: -1 if k else 1] for one, k in zip(used, sideways, strict=True)]
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
        "lost": quantiles(lost) | {"above_a_quarter": float((lost > 0.25).mean())},
        "enlarged": float((shorter < image_size).mean()),
    }
