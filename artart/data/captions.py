"""Captions of images: text files beside them, metadata.jsonl, columns of the user's table, templates over columns."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from string import Formatter
from typing import NamedTuple
from unicodedata import normalize

from artart import ArtError
from artart.data.folder import ArtFolder
from artart.data.labels import CLASS
from artart.data.opt_out import folded
from artart.io.files import read_text

COLUMNS = ("caption", "text", "prompt", "description", "title")  # of a table, by which auto finds captions


class Captions(NamedTuple):
    """The captions of a folder's images."""

    texts: dict[Path, tuple[str, ...]]  # different ones of each image; images without any are left out
    source: str  # in words
    num_empty: int  # images whose text file, cell or item is there, but empty


def captions_of(folder: ArtFolder, sources: Sequence[str]) -> Captions:
    """The captions of the images that the table does not exclude, from each of the sources.

    A source is `txt` (NAME.txt or NAME.jpg.txt beside an image, a caption in each line), `jsonl` (`text` in
    metadata.jsonl, a text or a list), a column of the table, a template over its columns such as "{fruit} by {artist}",
    or `auto`: the first of these that is there.

    Raises ArtError if a source is missing or no text, with file and line.
    """
    found, empty, names = dict[Path, dict[str, None]](), set[Path](), list[str]()
    for source in sources:
        name, captions = _auto(folder) if source == "auto" else (source, _read(folder, source))
        names.append(name)
        for path, texts in captions.items():
            kept = [text for text in map(clean, texts) if text]
            found.setdefault(path, {}).update(dict.fromkeys(kept))
            if not kept:
                empty.add(path)
    texts_of = {path: tuple(kept) for path, kept in found.items() if kept}
    if not texts_of:
        raise ArtError(f"data.captions=[{', '.join(names)}]: no image below {folder.root} has one")
    return Captions(texts_of, ", ".join(names), len(empty - texts_of.keys()))


def clean(text: str) -> str:
    """A caption in one line, with accents as single characters and without signs that cannot be shown."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in normalize("NFC", text)).split())


def _auto(folder: ArtFolder) -> tuple[str, Mapping[Path, Sequence[str]]]:
    """The first source that is there, and its texts by image."""
    columns = folder.metadata.columns if folder.metadata else ()
    for source in ("txt", "jsonl", *(name for name in COLUMNS if name in columns)):
        if (captions := _read(folder, source)) or source in COLUMNS:
            return source, captions
    has = f"; {folder.settings.metadata} has {', '.join(columns)}" if columns else ""
    raise ArtError(
        f"data.captions=auto: {folder.root} has no text beside an image, no metadata.jsonl, and there is no "
        f"table with a column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}{has}; name a column, or a template such "
        'as "{class} by {artist}"'
    )


def _read(folder: ArtFolder, source: str) -> Mapping[Path, Sequence[str]]:
    """The texts of a source by image."""
    if source == "txt":
        return {path: read_text(file).splitlines() for path, file in _sidecars(folder).items()}
    if source == "jsonl":
        return _of_json(folder)
    fill = _template(folder, source)
    return {path: [text] for path in folder.listed if (text := fill(path)) is not None}


def _template(folder: ArtFolder, source: str) -> Callable[[Path], str | None]:
    """What fills a template with the cells of an image; None where one of several is empty."""
    key, table = f"data.captions={source}", folder.metadata
    try:
        parsed = [*Formatter().parse(source if "{" in source else f"{{{source}}}")]
    except ValueError as error:
        raise ArtError(f'{key}: {error}; a template is a text such as "{{class}} by {{artist}}"') from None
    parts = [(before, name if name is None else " ".join(name.lower().split())) for before, name, *_ in parsed]
    names = [name for _, name in parts if name is not None]
    columns = dict.fromkeys([CLASS, *(table.columns if table else ())])
    for name in names:
        if name not in columns:
            wanted = "is no column" if table else "needs a table with that column: data.metadata=FILE.csv"
            has = f"; {folder.settings.metadata} has {', '.join(columns)}" if table else ""
            raise ArtError(f"{key}: {name or '{}'} {wanted}{has}")

    def fill(path: Path) -> str | None:
        cells = {name: folder.name_of(path, name) for name in names}
        if not all(cells.values()):
            return "" if parts == [("", names[0])] else None
        return "".join(before + ("" if name is None else cells[name]) for before, name in parts)

    return fill


def _sidecars(folder: ArtFolder) -> dict[Path, Path]:
    """The text file of each image that has one: NAME.txt, or NAME.jpg.txt."""
    found, beside = dict[Path, Path](), dict[Path, dict[str, Path]]()
    for path in folder.listed:
        if path.parent not in beside:
            files = (Path(entry.path) for entry in os.scandir(path.parent))
            beside[path.parent] = {folded(file.name): file for file in files if file.suffix.casefold() == ".txt"}
        for name in (f"{path.stem}.txt", f"{path.name}.txt"):
            if file := beside[path.parent].get(folded(name)):
                found[path] = file
    return found


def _of_json(folder: ArtFolder) -> dict[Path, Sequence[str]]:
    """Texts of metadata.jsonl in any folder, by image; as in Hugging Face's imagefolder."""
    found, listed = dict[Path, Sequence[str]](), {normalize("NFC", str(path)): path for path in folder.listed}
    for parent in sorted({parent for path in folder.listed for parent in path.parents}):
        file = parent / "metadata.jsonl"
        if not parent.is_relative_to(folder.root) or not file.is_file():
            continue
        for number, line in enumerate(read_text(file).split("\n"), start=1):  # JSON may hold U+2028
            if line.strip():
                name, texts = _item(line, f"{file}: line {number}")
                if path := listed.get(normalize("NFC", os.path.normpath(parent / name))):
                    found[path] = texts
    return found


def _item(line: str, place: str) -> tuple[str, Sequence[str]]:
    """File name and captions of a line of metadata.jsonl."""
    with suppress(ValueError, TypeError, KeyError):
        item = json.loads(line)
        name, texts = item["file_name"], item.get("text") or []
        texts = [texts] if isinstance(texts, str) else texts
        if isinstance(texts, list) and all(isinstance(text, str) for text in (name, *texts)):
            return name, texts
    raise ArtError(f'{place}: must be a JSON object of "file_name" and "text", a text or a list of texts')


def words_of(texts: Sequence[str]) -> Counter[str]:
    """How often each word occurs."""
    return Counter(word for text in texts for word in words_in(text))


def words_in(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters, digits and what joins them."""
    kept = "".join(sign if sign.isalnum() or sign in "'-" else " " for sign in normalize("NFKC", text).lower())
    return [word for word in (one.strip("'-") for one in kept.split()) if word]
