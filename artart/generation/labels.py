"""From the names of labels to their numbers, and back."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import cycle, islice, repeat
from unicodedata import normalize

from artart import ArtError
from artart.config.build import did_you_mean, format_value, join_words
from artart.data.labels import LabelNames
from artart.io.terminal import printable

Label = str | Mapping[str, str | None] | None
"""A name, "all", "none", {column: name, "all" or "none"}; None: the default of the mode."""
MAX_IN_NAME = 40  # characters of a label in a file's name


def labels_for(
    label: object, num_images: int, label_names: LabelNames, untrained: Mapping[str, Collection[str]] = {}
) -> Iterator[tuple[int, ...]]:
    """A row of K labels for each image: those of a name, of `all` names of the first column in turn, or `none`.

    {column: name, all or none} asks for several; columns that it does not name have none. `all` leaves out the names
    in `untrained`, by column, that no training image has.

    Raises ArtError if there is no such name or column, or if several columns have the name.
    """
    wanted = _wanted(label, label_names)
    for column, name in wanted.items():
        if column not in label_names:
            raise ArtError(f"label.{column}={name}: no such column{_choice(column, list(label_names))}")
        if name not in ("all", "none", None, *label_names[column]):
            raise ArtError(
                f"label.{column}={name}: no such {column}{_choice(str(name), label_names[column], 'all', 'none')}"
            )
    columns = [_numbers(wanted.get(column), names, untrained.get(column, ())) for column, names in label_names.items()]
    return islice(zip(*columns, strict=True), num_images)


def hidden_from_all(
    label: object, allowed: Sequence[str], label_names: LabelNames, untrained: Mapping[str, Collection[str]]
) -> dict[str, set[str]]:
    """By column, the names that `all` leaves out if only some labels are allowed.

    Raises ArtError if a label is asked for that is not allowed, or none is, or an allowed one is unknown.
    """
    known, allowed = [name for names in label_names.values() for name in names], [*map(_text, allowed)]
    if unknown := [name for name in allowed if name not in known]:
        raise ArtError(f"allowed_labels: {unknown[0]} is no label{_choice(unknown[0], known)}")
    hidden = {column: {*names} - {*allowed} | {*untrained.get(column, ())} for column, names in label_names.items()}
    wanted = {column: name for column, name in _wanted(label, label_names).items() if name not in ("none", None)}
    for column, name in wanted.items():
        is_allowed = {*label_names.get(column, ())} - hidden.get(column, set()) if name == "all" else name in allowed
        if not is_allowed:
            raise ArtError(f"label.{column}={name}: is not allowed; allowed_labels has {join_words(allowed, 'and')}")
    if not wanted:
        raise ArtError(
            f"label=none: any image could come of it; choose {join_words(allowed)}, or leave allowed_labels out"
        )
    return hidden


def _wanted(label: object, label_names: LabelNames) -> dict[str, str | None]:
    """What is asked for in each column: that which has the label, or the first for all and none."""
    if isinstance(label, Mapping):
        return {str(column): None if name is None else _text(name) for column, name in label.items()}
    label = None if label is None else _text(label)
    having = [column for column, names in label_names.items() if label in names]
    if len(having) > 1:
        raise ArtError(f"label={label}: is in {join_words(having, 'and')}; name the column: label={{{having[0]}: ...}}")
    if not having and label not in ("all", "none", None):
        known = [name for names in label_names.values() for name in names]
        raise ArtError(f"label={label}: no such {join_words(list(label_names))}{_choice(label, known, 'all', 'none')}")
    return {next(iter(having or label_names)): label}


def _text(name: object) -> str:
    """A name as checkpoints have it, with accents as single characters."""
    return normalize("NFC", format_value(name))


def label_in_words(labels: Sequence[int], label_names: LabelNames) -> str:
    """The name of a label; for several, each after its column."""
    names = [(*names, "none")[label] for names, label in zip(label_names.values(), labels, strict=True)]
    if len(names) == 1:
        return names[0]
    return ", ".join(f"{column}: {name}" for column, name in zip(label_names, names, strict=True))


def label_in_name(labels: Sequence[int], label_names: LabelNames) -> str:
    """The label as the end of a file's name, such as "_ink_Ada"; "" for none."""
    words = [names[label] for names, label in zip(label_names.values(), labels, strict=True) if label < len(names)]
    return "".join(f"_{slug(word)}" for word in words)


def slug(text: str) -> str:
    """A text as part of a file's name on any system."""
    return re.sub(r"[^\w-]+", "-", text)[:MAX_IN_NAME]


def _numbers(name: str | None, names: Sequence[str], untrained: Collection[str]) -> Iterator[int]:
    """The labels of a column, without end; a class may itself be named "all" or "none"."""
    if name in names:
        return repeat(names.index(name))
    trained = [k for k, one in enumerate(names) if one not in untrained]
    return cycle(trained if name == "all" and trained else [len(names)])


def _choice(name: str, known: Sequence[str], *words: str) -> str:
    return printable(did_you_mean(name, known) or f"; choose {join_words([*words, *known])}")
