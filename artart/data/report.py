"""The report of artart.prepare on a folder of images."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from artart.data.datamodule import ArtDataModule
from artart.data.index import UNUSED, counts
from artart.data.labels import NO_CLASS
from artart.io.terminal import printable


def make_report(data: ArtDataModule, refusal: str) -> dict[str, Any]:
    """Counts, reasons, near-duplicates and the split of a folder that was read, as plain data.

    `refusal` says why it cannot be trained on; empty: it can.
    """
    folder, entries = data.folder, data.entries
    assert folder
    shared = [size for size in Counter(entry.group for entry in entries if entry.status == "ok").values() if size > 1]
    names = sorted({entry.class_name for entry in entries})
    table = folder.metadata
    return {
        "root": str(folder.root),
        "index": str(folder.cache / "index.csv"),
        "counts": counts(entries),
        "reasons": {
            status: dict(Counter(entry.kind for entry in entries if entry.status == status).most_common())
            for status in UNUSED
        },
        "classes": {name or NO_CLASS: counts(one for one in entries if one.class_name == name) for name in names},
        "near_duplicates": {"groups": len(shared), "images": sum(shared)},
        "ignored": dict(folder.found.ignored.most_common()),
        "split": {"train": len(data.train_ids), "val": len(data.val_ids)},
        "refusal": refusal,
        "metadata": table and {"only_in_file": table.only_in_file, "only_in_folder": len(table.only_in_folder)},
    }


def tables(report: Mapping[str, Any]) -> list[Table]:
    """The report for the terminal: counts by class, and the reasons if there are any."""
    classes, reasons = Table("class"), Table("status", "reason")
    for name in report["counts"]:
        classes.add_column(name, justify="right")
    for name, row in {**report["classes"], "all": report["counts"]}.items():
        classes.add_row(Text(printable(name)), *map(str, row.values()))
    reasons.add_column("files", justify="right")
    for status, kinds in report["reasons"].items():
        for kind, number in kinds.items():
            reasons.add_row(status, Text(printable(kind)), str(number))
    return [classes, reasons] if reasons.row_count else [classes]
