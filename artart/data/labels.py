"""What images are labelled with: K columns of names; the number of a column's names stands for "none"."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from artart import ArtError

CLASS = "class"  # the column that folders stand in for
NO_CLASS = "(no class)"


def labels_of(rows: Sequence[Sequence[str]], label_names: Mapping[str, Sequence[str]]) -> Tensor:
    """Labels (N, K) of N rows of K names; a name that its column does not know is "none"."""
    columns = [{name: label for label, name in enumerate(names)} for names in label_names.values()]
    return torch.tensor(
        [[known.get(name, len(known)) for name, known in zip(row, columns, strict=True)] for row in rows]
    )


def num_classes_of(label_names: Mapping[str, Sequence[str]]) -> int | list[int]:
    """How many names each column has, as `model.num_classes` says it: of one column a number."""
    first, *others = (len(names) for names in label_names.values())
    return [first, *others] if others else first


def check_columns(labels: Sequence[str], metadata: object) -> None:
    """Raises ArtError if they are none, several of a kind, or of a table that is not there."""
    key = f"data.labels=[{', '.join(labels)}]"
    if not labels:
        raise ArtError(f"{key}: names no column; [class] is the folder or the table's column class")
    if odd := [column for column in labels if not column.isprintable()]:
        raise ArtError(f"data.labels: {odd[0]!r} holds signs that cannot be shown; rename that column of the table")
    if repeated := [column for column in labels if labels.count(column) > 1]:
        raise ArtError(f"{key}: names {repeated[0]} more than once; leave one")
    if metadata is None and set(labels) != {CLASS}:
        raise ArtError(f"{key}: columns stand in a table; name it by data.metadata=FILE.csv")
