"""Tables for the terminal, and a report as one self-contained HTML page."""

import io
import logging
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import matplotlib as mpl
import rich.table
import torch
from filelock import FileLock, Timeout
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from rich.text import Text
from torch import Tensor

from artart import ArtError, __version__
from artart.io.files import as_json, remove_empty, write_new
from artart.io.images import encode, grid, to_model
from artart.io.provenance import ImageProvenance
from artart.io.terminal import escaped

log = logging.getLogger(__name__)

LOCK = ".evaluate.lock"
IN_ROW = 8  # images
TEMPLATE = Path(__file__).with_suffix(".html")


class Table(NamedTuple):
    """A table of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def for_terminal(self) -> rich.table.Table:
        table = rich.table.Table(title=Text(escaped(self.title)), title_justify="left", title_style="bold")
        for k, name in enumerate(self.header):
            table.add_column(Text(escaped(name)), justify="right" if k else "left")
        for row in self.rows:
            table.add_row(*(Text(escaped(cell)) for cell in row))
        return table


def interval(low: float | None, high: float | None, form: str = ".3g") -> str:
    """An interval as text; "" without bounds."""
    return "" if low is None or high is None else f"{low:{form}} .. {high:{form}}"


class Figure(NamedTuple):
    """Rows of images (PNG), or one of curves (SVG)."""

    title: str
    rows: Sequence[tuple[str, bytes]]  # the name of each, perhaps empty, and its content
    note: str = ""

    @property
    def sources(self) -> list[tuple[str, str]]:
        """The name of each row, and its content as a data URL."""
        return [
            (name, f"data:image/{_kind(content)};base64,{b64encode(content).decode()}") for name, content in self.rows
        ]


def _kind(content: bytes) -> str:
    return "png" if content.startswith(b"\x89PNG") else "svg+xml"


class Evaluation(NamedTuple):
    """Metrics as plain data, and how they are shown."""

    metrics: Mapping[str, Any]
    verdict: Sequence[str]  # sentences
    images: Sequence[Figure]
    tables: Sequence[Table]
    curves: Sequence[Figure]


@contextmanager
def reserved(folder: Path, root: str | None) -> Iterator[None]:
    """Make a folder, if it is missing, and lock it for other evaluations; a folder that stays empty is removed again.

    Raises ArtError if another process is evaluating there, or it holds an evaluation, or is `root`, the images' folder.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ArtError(f"out={folder}: another process is evaluating there; name another folder") from None
    except (OSError, NotImplementedError) as error:  # a file system without locks; files are not replaced there either
        log.debug("%s: not locked: %s", folder, error)
    try:
        if (folder / "metrics.json").exists():
            raise ArtError(f"out={folder}: holds metrics.json already; name another folder")
        if root is not None and folder.resolve() == Path(root).resolve():
            raise ArtError(f"out={folder}: is the folder of your images, which is only read; name another")
        yield
    finally:
        with suppress(OSError):  # Windows does not remove what is open, but filelock does there
            (folder / LOCK).unlink()
        lock.release()
        remove_empty(missing)


def write(evaluation: Evaluation, out: Path, title: str, facts: Mapping[str, object]) -> tuple[Path, Path]:
    """Write metrics.json and report.html into a folder and return their names; no file is replaced."""
    metrics = as_json({**evaluation.metrics, **facts})
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title, facts=facts, evaluation=evaluation, version=__version__, date=f"{datetime.now():%Y-%m-%d %H:%M}"
    )
    content = page.encode(errors="backslashreplace")  # names of folders may hold bytes that are not UTF-8
    return write_new(out / "metrics.json", metrics), write_new(out / "report.html", content)


def rows_of_images(
    title: str, rows: Sequence[tuple[str, Tensor]], facts: Mapping[str, object], note: str = ""
) -> Figure:
    """Named rows of uint8 images, (n, 3, S, S) with n up to IN_ROW, whose provenance says that a network made them."""
    drawn = []
    for name, images in rows:
        blank = torch.ones(IN_ROW - len(images), *images.shape[1:])
        drawn.append((name, encode(grid([torch.cat([to_model(images), blank])]), ImageProvenance("composite", facts))))
    return Figure(title, drawn, note)


def curves(
    title: str, x: tuple[str, Sequence[float]], y: str, lines: Mapping[str, Sequence[float]], note: str = ""
) -> Figure:
    """Lines over the same values of x, a name and numbers."""
    drawing, axes = _axes(x[0], y)
    for name, values in lines.items():
        axes.plot(x[1], values, label=name)
    return Figure(title, [("", _svg(drawing, axes))], note)


def histograms(
    title: str, x: str, of: Mapping[str, Sequence[float]], limit: tuple[str, float] | None = None, note: str = ""
) -> Figure:
    """Histograms in shares of each set; `limit` is the name and place of a vertical line."""
    drawing, axes = _axes(x, "share of the images")
    lowest, highest = (edge(value for values in of.values() for value in values) for edge in (min, max))
    for name, values in of.items():
        weights = [1 / len(values)] * len(values)
        axes.hist(
            values, bins=40, range=(lowest, highest), weights=weights, histtype="stepfilled", alpha=0.5, label=name
        )
    if limit:
        axes.axvline(limit[1], color="black", linestyle="--", label=limit[0])
    return Figure(title, [("", _svg(drawing, axes))], note)


def _axes(x: str, y: str) -> tuple[Drawing, Axes]:
    drawing = Drawing(figsize=(7, 3.5), layout="constrained")
    axes = drawing.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(visible=True, alpha=0.3)
    return drawing, axes


def _svg(drawing: Drawing, axes: Axes) -> bytes:
    axes.legend()
    file = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "artart"}):  # text stays text
        drawing.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
