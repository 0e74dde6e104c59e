"""Records of what a benchmark measured, tables of them, and docs/results/NAME.md."""

import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock

from artart.io.files import write_json
from artart.io.page import Table
from artart.io.terminal import progress_bar

STAMP = ("commit", "machine", "date")

Record = dict[str, Any]  # what identifies a run (row, seed, ...), what was measured, and the STAMP


class Records:
    """The records of a benchmark in a folder, all of the same settings."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], stamp: Mapping[str, str]) -> None:
        """Raises SystemExit beside records of other settings."""
        self.folder, self.stamp = folder, stamp
        check_settings(kept(folder / "settings.json", lambda: settings), settings, folder)

    def once(self, key: Mapping[str, Any], measure: Callable[..., Mapping[str, Any]], *arguments: Any) -> Record:
        """The record of a run, measured if it is not there yet."""
        path = self.folder / "records" / f"{slug(' '.join(map(str, key.values())))}.json"

        def record() -> Record:
            measured = measure(*arguments)
            same = all(measured.get(name, value) == value for name, value in key.items())
            assert same, "a measurement has the name of what identifies the run"
            return {"key": list(key), **key, **measured, **self.stamp}

        return kept(path, record)

    def rounds(self, names: Iterable[str], num: int, measure: Callable[[str], Mapping[str, Any]]) -> None:
        """Measure each row once a round, in turn, so that a change of the machine's speed concerns all rows."""
        turns = list(product(range(num), names))
        with progress_bar() as bar:
            for k, name in bar.track(turns, description="rounds"):
                self.once({"row": name, "round": k}, measure, name)

    def __iter__(self) -> Iterator[Record]:
        for path in sorted((self.folder / "records").glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            yield json.loads(path.read_text())


def check_settings(theirs: Mapping[str, Any], ours: Mapping[str, Any], place: Path) -> None:
    """Raise SystemExit unless they are equal."""
    if others := [f"{name}={theirs.get(name)}" for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]:
        raise SystemExit(f"{place}: has results of other settings ({', '.join(others)}); name another folder by --out")


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, as JSON in a file; made once, also when several processes ask for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            write_json(path, make())
    return json.loads(path.read_text())


def slug(name: str) -> str:
    return name.replace(",", "").replace("/", "-").replace(" ", "_")


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation; of counts the mean."""
    mean = statistics.mean(values)
    if all(isinstance(value, int) for value in values):
        return f"{mean:,.0f}"
    text, deviation = f"{mean:{',.0f' if mean >= 1000 else '.3g'}}", statistics.stdev(values) if len(values) > 1 else 0
    return f"{text} ± {deviation:{',.0f' if deviation >= 10 else '.1g'}}" if len(values) > 1 else text


def median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.4g}"


def cell(records: Sequence[Record], key: str, middle: Callable[[Sequence[float]], str] = spread) -> str:
    """The values of a key in one cell; of a single record with its interval, if it has one."""
    values = [record[key] for record in records if record.get(key) is not None]
    if not values or isinstance(values[0], str):
        return values[0] if values else ""
    text, low, high = middle(values), f"{key}_low", f"{key}_high"
    if len(values) == 1 and records[0].get(low) is not None:
        text += f" ({records[0][low]:.3g} to {records[0][high]:.3g})"
    return text


def grouped(records: Iterable[Record], key: str) -> dict[Any, list[Record]]:
    """Records by the value of a key, in order of appearance."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(record.get(key), []).append(record)
    return groups


def table(
    title: str,
    records: Iterable[Record],
    columns: Mapping[str, str],
    note: str = "",
    middle: Callable[[Sequence[float]], str] = spread,
) -> Table:
    """A row for each value of `row`, a column for each key that any record has: `columns` maps keys to headings."""
    rows = grouped(records, "row")
    shown = [key for key in columns if any(key in record for own in rows.values() for record in own)]
    body = [[name, *(cell(own, key, middle) for key in shown)] for name, own in rows.items()]
    return Table(title, ["", *(columns[key] for key in shown)], body, note)


def markdown(one: Table) -> str:
    lines = [f"**{one.title}**", "", f"| {' | '.join(one.header)} |", f"|{'---|' * len(one.header)}"]
    lines += [f"| {' | '.join(cell.replace('|', ' ') for cell in row)} |" for row in one.rows]
    return "\n".join([*lines, *(["", one.note] if one.note else [])])


def by_machine(module: ModuleType, records: Iterable[Record]) -> list[Table]:
    """The benchmark's tables, for each machine if there are several; none without records."""
    if getattr(module, "MACHINES", "") == "mixed":
        return [*module.tables([*records])]
    groups = grouped(records, "machine")
    made = ((machine, one) for machine, own in groups.items() for one in module.tables(own))
    return [one._replace(title=f"{one.title}; {machine}") if len(groups) > 1 else one for machine, one in made]


def page(name: str, module: ModuleType, content: Mapping[str, Any]) -> str:
    """docs/results/NAME.md of the content of NAME.json."""
    records, (title, _, *about) = content["records"], str(module.__doc__).split("\n\n")
    stamps = {key: "; ".join(dict.fromkeys(record[key] for record in records)) for key in STAMP}
    commands = "\n".join(dict.fromkeys(record["command"] for record in records))
    facts = f"Commit {stamps['commit']}; {stamps['machine']}; {stamps['date']}; {len(records)} records in {name}.json."
    tables = map(markdown, by_machine(module, records))
    return (
        "\n\n".join([f"# {title.rstrip('.')}", f"```\n{commands}\n```", *map(str.strip, about), facts, *tables]) + "\n"
    )


def write(name: str, module: ModuleType, records: Iterable[Record], settings: Mapping[str, Any], folder: Path) -> None:
    """Merge records into NAME.json, where a record replaces that of the same run and machine, and render NAME.md."""
    path = folder / f"{name}.json"
    content = written(path, settings)
    merged = {identity(record): record for record in (*content["records"], *records)}
    content["records"] = list(merged.values())
    write_json(path, content)
    path.with_suffix(".md").write_text(page(name, module, content), encoding="utf-8")


def written(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What NAME.json holds. Raises SystemExit if that is of other settings."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"settings": settings, "records": []}
    check_settings(content["settings"], settings, path)
    return content


def identity(record: Record) -> tuple[Any, ...]:
    return (*(str(record[name]) for name in record["key"]), record["machine"])
