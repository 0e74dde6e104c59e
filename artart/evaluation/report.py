"""The files of an evaluation: metrics as JSON, and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from artart import ArtError
from artart.io.files import as_json, write_new
from artart.io.images import encode, grid, to_model
from artart.io.page import Figure, Table, curves, html
from artart.io.provenance import ImageProvenance
from artart.metrics.spectrum import mean_spectrum

IN_ROW = 8  # images


def interval(low: float | None, high: float | None, form: str = ".3g") -> str:
    """An interval as text; "" without bounds."""
    return "" if low is None or high is None else f"{low:{form}} .. {high:{form}}"


class Evaluation(NamedTuple):
    """Metrics as plain data, and how they are shown."""

    metrics: Mapping[str, Any]
    verdict: Sequence[str]  # sentences
    images: Sequence[Figure]
    tables: Sequence[Table]
    curves: Sequence[Figure]


def check_free(folder: Path, root: str | None) -> None:
    """Raise ArtError if a folder holds an evaluation, or is `root`, the images' folder."""
    if (folder / "metrics.json").exists():
        raise ArtError(f"out={folder}: holds metrics.json already; name another folder")
    if root is not None and folder.resolve() == Path(root).resolve():
        raise ArtError(f"out={folder}: is the folder of your images, which is only read; name another")


def write(evaluation: Evaluation, out: Path, title: str, facts: Mapping[str, object]) -> tuple[Path, Path]:
    """Write metrics.json and report.html into a folder and return their names; no file is replaced."""
    metrics = as_json({**evaluation.metrics, **facts})
    sentences = [*evaluation.verdict]
    if missing := facts.get("not_measured"):
        sentences.append(f"Not measured, for want of AlexNet's weights (metrics.weights): {missing}.")
    sections: list[Table | Figure] = [*evaluation.images, *evaluation.tables, *evaluation.curves]
    content = html(title, sentences, sections, facts)
    return write_new(out / "metrics.json", metrics), write_new(out / "report.html", content)


def spectra(powers: Mapping[str, Tensor], note: str) -> Figure:
    """The mean power spectrum of each set, (n, K) by spatial frequency."""
    lines = {name: mean_spectrum(power) for name, power in powers.items()}
    return curves("Power spectrum", "periods over the image", "mean power (dB)", lines, note)


def rows_of_images(
    title: str, rows: Sequence[tuple[str, Tensor]], facts: Mapping[str, object], note: str = ""
) -> Figure:
    """Named rows of uint8 images, (n, 3, S, S) with n up to IN_ROW, whose provenance says that a network made them."""
    drawn = []
    for name, images in rows:
        blank = torch.ones(IN_ROW - len(images), *images.shape[1:])
        drawn.append((name, encode(grid([torch.cat([to_model(images), blank])]), ImageProvenance("composite", facts))))
    return Figure(title, drawn, note)
