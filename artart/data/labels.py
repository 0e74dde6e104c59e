"""Labels of images: K columns of names. The number of a column's names stands for "none"."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from artart import ArtError

log = logging.getLogger(__name__)

CLASS = "class"  # the column that sub-folders stand for
NO_CLASS = "(no class)"


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


def labels_of(rows: Sequence[Sequence[str]], label_names: Mapping[str, Sequence[str]]) -> Tensor:
    """Labels (N, K) long of N rows of K names; a name that its column does not have is "none"."""
    columns = [{name: label for label, name in enumerate(names)} for names in label_names.values()]
    return torch.tensor(
        [[known.get(name, len(known)) for name, known in zip(row, columns, strict=True)] for row in rows]
    )


def num_classes_of(label_names: Mapping[str, Sequence[str]]) -> int | list[int]:
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
