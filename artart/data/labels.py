"""Labels of images: K columns of names. The number of a column's names stands for "none"."""

import functools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from artart import ArtError

log = logging.getLogger(__name__)

LabelNames = Mapping[str, Sequence[str]]  # by column

CLASS = "class"  # the column that sub-folders stand for
NO_CLASS = "(no class)"
# Names of the parts of a data set, which are no classes
PARTS = frozenset(["dev", "eval", "holdout", "test", "testing", "train", "training", "val", "valid", "validation"])


@functools.cache  # a folder has many files
def class_of(folder: Path, root: Path, level: int = 1) -> str | None:
    """The name of a folder below root, or of the one at a level that it lies in, at any depth; None without one.

    Bytes that are not UTF-8 become `\\xe9`, so that checkpoints, tables and pages can hold the name.
    """
    parts = folder.relative_to(root).parts
    return os.fsencode(parts[level - 1]).decode(errors="backslashreplace") if len(parts) >= level else None


def describe_folders(paths: Sequence[Path], root: Path) -> str:
    """What seems wrong with the folders right below root as classes, and what to do; empty: nothing.

    A folder around all others is no class, nor are the parts of a data set, such as train and test.
    """
    folders = {path.relative_to(root).parts[:-1] for path in paths}
    around = Path(os.path.commonpath([Path(*parts) for parts in folders])).parts if len(folders) > 1 else ()
    level = len(around) + 1
    names = sorted({parts[level - 1] for parts in folders if len(parts) >= level})
    parts = [name for name in names if name.casefold() in PARTS]
    if len(parts) > 1 or (parts and parts == names):
        message = f"the classes {', '.join(parts)} seem to be parts of a data set"
        level += 1
    elif around:
        message = f"{Path(*around)} holds all images, so there is one class"
    else:
        return ""
    one = root.joinpath(*around, *sorted(parts, key=lambda name: "train" not in name.casefold())[:1])
    return f"{message}; for the folders below as classes: data.class_level={level}, or data.root={one}"


def frequent_names(column: str, names: Iterable[str], least: int) -> list[str]:
    """The names, sorted, that occur at least so often; "" is no name."""
    found = Counter(filter(None, names))
    frequent = sorted(name for name, number in found.items() if number >= least)
    if num_rare := len(found) - len(frequent):
        num_files = found.total() - sum(found[name] for name in frequent)
        log.info(
            "data.min_per_label=%d: %s has %d labels; %d rarer values, of %d files, are none",
            *(least, column, len(frequent), num_rare, num_files),
        )
    return frequent


def labels_of(rows: Sequence[Sequence[str]], label_names: LabelNames) -> Tensor:
    """Labels (N, K) long of N rows of K names; a name that its column does not have is "none"."""
    columns = [{name: label for label, name in enumerate(names)} for names in label_names.values()]
    return torch.tensor(
        [[known.get(name, len(known)) for name, known in zip(row, columns, strict=True)] for row in rows]
    )


def pairs(labels: Tensor, label_names: LabelNames) -> list[list[tuple[int, int]]]:
    """For each row of labels (N, K) the pairs of column and label, without "none"."""
    sizes = [len(names) for names in label_names.values()]
    return [[(k, label) for k, label in enumerate(row) if label < sizes[k]] for row in labels.tolist()]


def untrained_labels(labels: Tensor, label_names: LabelNames) -> dict[str, list[str]]:
    """The names, by column, that no row of labels (N, K) has; columns of which there are none are left out."""
    used = [set(column) for column in labels.T.tolist()]
    unused = {
        column: [name for label, name in enumerate(names) if label not in known]
        for (column, names), known in zip(label_names.items(), used, strict=True)
    }
    return {column: names for column, names in unused.items() if names}


def num_classes_of(label_names: LabelNames) -> int | list[int]:
    """The number of names of each column, as `model.num_classes` has it: a single number for one column."""
    first, *others = (len(names) for names in label_names.values())
    return [first, *others] if others else first


def check_columns(labels: Sequence[str], metadata: object) -> None:
    """Raises ArtError if no column is named, one twice, one that cannot be shown, or one without a table."""
    key = f"data.labels=[{', '.join(labels)}]"
    if not labels:
        raise ArtError(f"{key}: names no column; [class] is the folder or the table's column class")
    if odd := [column for column in labels if not column.isprintable()]:
        raise ArtError(f"data.labels: {odd[0]!r} holds signs that cannot be shown; rename that column of the table")
    if repeated := [column for column in labels if labels.count(column) > 1]:
        raise ArtError(f"{key}: names {repeated[0]} more than once; leave one")
    if metadata is None and set(labels) != {CLASS}:
        raise ArtError(f"{key}: these are columns of a table; name it by data.metadata=FILE.csv")
