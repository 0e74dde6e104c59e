"""The report of artart.prepare as a page: counts, what is left out, sizes, representation, near-duplicates."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from artart.data.datamodule import ArtDataModule
from artart.data.index import UNUSED, Entry
from artart.data.report import MAX_LINES, tables
from artart.data.representation import sides
from artart.data.scan import examine_all
from artart.io.page import Figure, Table, histograms, html
from artart.io.terminal import printable

SIDE = 96  # of a thumbnail in pixels
IN_ROW = 8
MAX_ROWS = 12  # of images


def page(report: Mapping[str, Any], data: ArtDataModule) -> bytes:
    """HTML, whose size is bounded whatever the number of images."""
    assert data.folder
    number = report["counts"]
    sentences = [f"{number['ok']:,} of {number['found']:,} image files can be trained on."]
    if report["refusal"]:
        sentences.append(f"Training would refuse this folder: {report['refusal']}")
    files, *others = tables(report, data.entries)
    sections: list[Table | Figure] = [files, *_unused(data), *others, *_columns(report)]
    if data.train_ids:
        sections[1:1] = [_examples(data)]
        sections += [*_sizes(report, data), _kinds(data.entries), *_alike(data), _split(report)]
    facts = {"folder": report["root"], "image_size": data.image_size, "resize_mode": data.resize_mode}
    facts |= {"index of every file": report["index"]}
    return html(f"The images of {printable(data.folder.root.name)}", sentences, sections, facts)


def _examples(data: ArtDataModule) -> Figure:
    """Some images of the most frequent classes."""
    classes = defaultdict[str, list[int]](list)
    for row, (name, *_) in enumerate(data.names_of(range(len(data.images.digests)))):
        classes[name].append(row)
    frequent = sorted(classes.items(), key=lambda item: -len(item[1]))[:MAX_ROWS]
    strips = [(printable(name), _strip(data, of)) for name, of in frequent]
    return Figure("Images as networks see them", strips)


def _unused(data: ArtDataModule) -> Iterator[Figure]:
    """Thumbnails of files that are not used but can be decoded, by reason."""
    folder = data.folder
    assert folder
    by_reason = defaultdict[str, list[Entry]](list)
    for entry in data.entries:
        if entry.status in UNUSED and entry.facts.perceptual_hash and len(of := by_reason[entry.kind]) < IN_ROW:
            of.append(entry)
    shown = dict([*by_reason.items()][:MAX_ROWS])
    paths = [folder.root / entry.path for of in shown.values() for entry in of]
    found = examine_all(paths, SIDE, "pad", folder.background, data.max_pixels, data.num_workers)
    pixels = {one.path: one.pixels for one in found}
    strips = [
        (reason, _in_a_row([image for one in of if (image := pixels[folder.root / one.path]) is not None]))
        for reason, of in shown.items()
    ]
    if strips:
        yield Figure("Left out", strips, "Damaged files have no image.")


def _columns(report: Mapping[str, Any]) -> Iterator[Table]:
    for name, one in report["representation"].items():
        if name != "class" and one["most"]:
            shares = [(printable(value), number, number / one["known"]) for value, number in one["most"].items()]
            lines = [[value, f"{number:,}", f"{share:.1%}"] for value, number, share in shares]
            yield Table(f"By {printable(name)}", ["value", "images", "share"], lines)
    for title, found in (("Opt-outs", report["opt_outs"]), ("AI marks", report["ai_marks"])):
        if found:
            yield Table(title, ["term", "files"], [[name, f"{number:,}"] for name, number in found.items()])


def _sizes(report: Mapping[str, Any], data: ArtDataModule) -> Iterator[Table | Figure]:
    found = report["sizes"]
    lines = [
        [name, *(f"{found[key][p]:.4g}" for p in ("p5", "p50", "p95"))]
        for name, key in (("shorter side (px)", "shorter_side"), ("width / height", "aspect_ratio"), ("lost", "lost"))
    ]
    note = (
        f"{found['enlarged']:.1%} of the images are smaller than image_size={data.image_size} and get blurred. Lost: "
        "what resize_mode=center_crop cuts off, and what pad fills with the background; stretch distorts by 1 / (1 - "
        f"lost). It is more than a quarter for {found['lost']['above_a_quarter']:.1%} of the images."
    )
    yield Table("Sizes", ["", "5 %", "median", "95 %"], lines, note)
    ratios = np.log2((pixels := sides(data.entries))[:, 0] / pixels[:, 1])
    yield histograms("Aspect ratios", "log2 of width / height; 0 is a square", {data.resize_mode: ratios.tolist()})


def _kinds(entries: Sequence[Entry]) -> Table:
    used = [entry.facts for entry in entries if entry.status == "ok"]
    kinds = Counter((one.format, one.mode, one.icc or "no profile") for one in used)
    lines = [[*map(printable, kind), f"{number:,}"] for kind, number in kinds.most_common(MAX_LINES)]
    return Table("Formats and colours", ["format", "mode", "profile", "images"], lines)


def _alike(data: ArtDataModule) -> Iterator[Figure]:
    """Groups of near-duplicates, the largest first."""
    groups = defaultdict[str, list[int]](list)
    for row, group in enumerate(data.images.groups):
        groups[group].append(row)
    several = sorted((of for of in groups.values() if len(of) > 1), key=len, reverse=True)[:MAX_ROWS]
    strips = [(f"{len(of)} images", _strip(data, of)) for of in several]
    if strips:
        yield Figure("Near-duplicates", strips, "Of exact duplicates one is used; near-duplicates all are.")


def _split(report: Mapping[str, Any]) -> Table:
    alike = report["near_duplicates"]
    lines = [
        ["training images", f"{report['split']['train']:,}"],
        ["held-out images", f"{report['split']['val']:,}"],
        ["groups of near-duplicates", f"{alike['groups']:,}"],
        ["of them in several folders such as train and test", f"{alike['in_several_parts']:,}"],
    ]
    return Table("Split", ["", "number"], lines)


def _strip(data: ArtDataModule, ids: Sequence[int]) -> bytes:
    """The first of some images as a JPEG."""
    return _in_a_row(data.pixels_of(ids[:IN_ROW]).permute(0, 2, 3, 1).numpy())


def _in_a_row(images: Iterable[np.ndarray]) -> bytes:
    """Up to IN_ROW images, uint8 (S, S, 3), as a JPEG."""
    row, file = Image.new("RGB", (IN_ROW * (SIDE + 2) + 2, SIDE + 4), "white"), io.BytesIO()
    for k, image in enumerate(images):
        row.paste(Image.fromarray(image).resize((SIDE, SIDE)), (k * (SIDE + 2) + 2, 2))
    row.save(file, format="JPEG", quality=85)
    return file.getvalue()
