"""The report of artart.prepare on a folder of images."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from artart.data.captions import words_of
from artart.data.datamodule import ArtDataModule
from artart.data.index import UNUSED, Entry, counts
from artart.data.labels import NO_CLASS, PARTS
from artart.data.opt_out import REASON
from artart.data.representation import by_column, sizes
from artart.io.page import Table
from artart.io.provenance import AI_SOURCES
from artart.io.terminal import printable

RARE = 20  # occurrences below which a network hardly learns a word
SHOWN_WORDS, SHOWN_CAPTIONS = 20, 8
MAX_LINES = 30  # of a table
MAX_SHOWN = 40  # characters of a value


def make_report(data: ArtDataModule, refusal: str) -> dict[str, Any]:
    """Counts, reasons, near-duplicates and the split of a folder that was read, as plain data.

    `refusal` says why it cannot be trained on; empty: it can.
    """
    folder, entries = data.folder, data.entries
    assert folder
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
        "representation": by_column(folder, entries),
        "sizes": sizes(entries, data.image_size),
        "opt_outs": dict(Counter(term for entry in entries if (term := _opt_out_of(entry))).most_common()),
        "ai_marks": dict(Counter(term for one in entries if (term := one.facts.source) in AI_SOURCES).most_common()),
        "near_duplicates": near_duplicates(data),
        "ignored": dict(folder.found.ignored.most_common()),
        "split": {"train": len(data.train_ids), "val": len(data.val_ids)},
        "captions": captions_report(data) if data.text.captions.texts else None,
        "refusal": refusal,
        "metadata": table and {"only_in_file": table.only_in_file, "only_in_folder": len(table.only_in_folder)},
    }


def _opt_out_of(entry: Entry) -> str:
    """What says that an image is not for training; "": nothing does."""
    return entry.facts.opt_out or (entry.reason.partition(": ")[2] if entry.kind == REASON else "")


def near_duplicates(data: ArtDataModule) -> dict[str, int]:
    """How many groups there are, of how many images, and how many have images in folders such as train and test."""
    parts = defaultdict[str, set[str]](set)
    used = [entry for entry in data.entries if entry.status == "ok"]
    sizes_of = Counter(entry.group for entry in used)
    for entry in used:
        parts[entry.group] |= {name for name in entry.path.lower().split("/")[:-1] if name in PARTS}
    several = [group for group, size in sizes_of.items() if size > 1]
    return {
        "groups": len(several),
        "images": sum(sizes_of[group] for group in several),
        "in_several_parts": sum(len(parts[group]) > 1 for group in several),
    }


def captions_report(data: ArtDataModule) -> dict[str, Any]:
    """Of the images that are used: how many have captions, and what these are like."""
    captions, used = data.text.captions, [one for one in data.images.captions if one] if data.train_ids else []
    texts = Counter(text for one in used for text in one)
    words = words_of([*texts.elements()])
    return {
        "source": captions.source,
        "images": len(used),
        "missing": len(data.train_ids) + len(data.val_ids) - len(used),
        "empty": captions.num_empty,
        "captions": texts.total(),
        "different": len(texts),
        "longest": max(texts, key=len, default=""),
        "words": dict(words.most_common(SHOWN_WORDS)),
        "num_words": len(words),
        "rare_words": sum(number < RARE for number in words.values()),
        "examples": [*texts][:: max(1, len(texts) // SHOWN_CAPTIONS)][:SHOWN_CAPTIONS],
    }


def tables(report: Mapping[str, Any], entries: Sequence[Entry]) -> list[Table]:
    """The report for people: files by status and reason, classes, columns, and captions if there are any."""
    captions = [_captions_table(report["captions"])] if report["captions"] else []
    return [_files_table(entries), _classes_table(report), _columns_table(report), *captions]


def _files_table(entries: Sequence[Entry]) -> Table:
    kinds = Counter((entry.status, entry.kind) for entry in entries)
    examples = defaultdict[tuple[str, str], list[str]](list)
    for entry in entries:
        if entry.status != "ok" and len(shown := examples[entry.status, entry.kind]) < 3:
            shown.append(printable(entry.path))
    lines = [
        [status, printable(kind), f"{number:,}", ", ".join(examples[status, kind])]
        for (status, kind), number in kinds.most_common()
    ]
    return Table("Files", ["status", "reason", "files", "such as"], lines)


def _classes_table(report: Mapping[str, Any]) -> Table:
    classes = sorted(report["classes"].items(), key=lambda item: -item[1]["ok"])
    lines = [[printable(name), *(f"{number:,}" for number in row.values())] for name, row in classes[:MAX_LINES]]
    others = f"{len(classes) - MAX_LINES} more classes are in report.json. " if len(classes) > MAX_LINES else ""
    most, least = classes[0][1]["ok"], min((row["ok"] for _, row in classes if row["ok"]), default=0)
    ratio = f"The largest has {most / least:.1f} times the images of the smallest." if least < most and least else ""
    return Table("Classes", ["class", *report["counts"]], lines, f"{others}{ratio}")


def _columns_table(report: Mapping[str, Any]) -> Table:
    note = "Effective: the number of values that would be as diverse if all were equally frequent."
    header = ["column", "values", "effective", "unknown", "most frequent"]
    lines = []
    for name, one in report["representation"].items():
        known, most = one["known"], [*one["most"].items()][:3]
        frequent = ", ".join(f"{printable(value)[:MAX_SHOWN]} {number / known:.0%}" for value, number in most)
        numbers = [str(one["different"]), f"{one['effective_number']:.1f}", str(one["unknown"])]
        lines.append([printable(name), *numbers, frequent or "nearly all different" * bool(known)])
    return Table("Who and what is represented", header, lines, note)


def _captions_table(captions: Mapping[str, Any]) -> Table:
    lines = [
        ["images with captions", f"{captions['images']}, {captions['missing']} without, {captions['empty']} empty"],
        ["captions", f"{captions['captions']}, {captions['different']} different"],
        ["longest", printable(captions["longest"])],
        ["words", f"{captions['num_words']}, {captions['rare_words']} occur fewer than {RARE} times"],
        ["frequent words", ", ".join(f"{word} {number}" for word, number in captions["words"].items())],
        *(["example", printable(text)] for text in captions["examples"]),
    ]
    return Table("Captions", ["captions", captions["source"]], lines)
