"""Tables for the terminal, and one self-contained HTML page of tables, images and curves."""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

import jinja2
import matplotlib as mpl
import rich.table
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from rich.text import Text

from artart import __version__
from artart.io.terminal import escaped

TEMPLATE = Path(__file__).with_suffix(".html")


class Table(NamedTuple):
    """A table of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def sides(self) -> list[Literal["left", "right"]]:
        """By column, where a page aligns it: columns that hold texts, and the first, to the left."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.header)
        is_text = [not k or any(cell[:1].isalpha() for cell in cells) for k, cells in enumerate(columns)]
        return ["left" if one else "right" for one in is_text]

    def for_terminal(self) -> rich.table.Table:
        table = rich.table.Table(title=Text(escaped(self.title)), title_justify="left", title_style="bold")
        if self.note:
            table.caption, table.caption_justify = Text(escaped(self.note)), "left"
        for k, name in enumerate(self.header):
            table.add_column(Text(escaped(name)), justify=self.sides[k], overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(escaped(cell)) for cell in row))
        return table


class Figure(NamedTuple):
    """Rows of images (PNG or JPEG), or one of curves (SVG)."""

    title: str
    images: Sequence[tuple[str, bytes]]  # the name of each, perhaps empty, and its content
    note: str = ""


class Slides(NamedTuple):
    """Sequences of images, each of which shows one, as far through it as a slider says; at first the last."""

    title: str
    sequences: Sequence[tuple[str, Sequence[tuple[str, bytes]]]]  # the name of each, and its images with theirs
    note: str = ""


KINDS = {b"\x89PNG": "png", b"\xff\xd8": "jpeg"}  # by the first bytes


def data_url(content: bytes) -> str:
    """An image (PNG, JPEG or SVG) as a URL that holds it."""
    kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), "svg+xml")
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def html(
    title: str, sentences: Sequence[str], sections: Sequence[Table | Figure | Slides], facts: Mapping[str, object]
) -> bytes:
    """The page: sentences first, then the sections, and facts on how it was made at the end."""
    return render(TEMPLATE, title=title, sentences=sentences, sections=sections, facts=facts)


def render(template: Path, **values: object) -> bytes:
    """A page of a template, which may extend page.html, with the values that it names."""
    loader = jinja2.FileSystemLoader([template.parent, TEMPLATE.parent])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["data_url"] = data_url
    now = f"{datetime.now():%Y-%m-%d %H:%M}"
    text = environment.get_template(template.name).render({"sentences": (), **values}, version=__version__, date=now)
    return text.encode(errors="backslashreplace")  # names of folders may hold bytes that are not UTF-8


def curves(
    title: str, x: str, y: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], note: str = ""
) -> Figure:
    """Lines, each by its values of x and y."""
    drawing, axes = _axes(x, y)
    for name, values in lines.items():
        axes.plot(*values, label=name)
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
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    file = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "artart"}):  # text stays text
        drawing.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
