import csv
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from artart.data import demo, index
from artart.data.index import COLUMNS, Entry, counts, describe_unused, entries_of, write_unused
from artart.data.perceptual_hash import perceptual_hash
from artart.data.scan import FileInfo
from artart.data.settings import EXCLUDE, DataSettings

SETTINGS = DataSettings(max_pixels=10_000)
LENIENT = DataSettings(max_pixels=10**9, min_size=1, exclude=dict.fromkeys(EXCLUDE, False))
OPT_OUT, SOURCE = "DMI-PROHIBITED-AIMLTRAINING", "trainedAlgorithmicMedia"
NAMES = [
    "plain.jpg",
    "a, b; c.jpg",
    "a \"b\" 'c'.jpg",
    '"',
    "two\nlines\r\nor\rthree.jpg",
    " blanks \t.jpg",
    "北斎/神奈川沖浪裏.jpg",
    "ok",
    "#=-@path",
    os.fsdecode(b"caf\xe9/\xff.jpg"),
]


def facts(number: int = 0, **others: Any) -> FileInfo:
    """Of an image that no rule speaks against."""
    plain = FileInfo(bytes=900, mtime=1, sha256=f"{number:064x}", format="JPEG", width=40, height=30)
    return plain._replace(**others)


def entries_by(
    files: dict[str, FileInfo], settings: DataSettings = SETTINGS, excluded: dict[str, str] | None = None
) -> list[Entry]:
    """The entries of files by path, without classes."""
    return entries_of(((path, "", fact, (excluded or {}).get(path, "")) for path, fact in files.items()), settings)


def statuses(
    files: dict[str, FileInfo], settings: DataSettings = SETTINGS, excluded: dict[str, str] | None = None
) -> dict[str, str]:
    """Kind of the reason by path; empty for what is trained on."""
    entries = entries_by(files, settings, excluded)
    assert all((entry.status == "ok") == (entry.reason == "") for entry in entries)
    return {entry.path: entry.kind for entry in entries}


# --- the table


def test_any_name_and_any_fact_come_back(tmp_path: Path) -> None:
    odd = {"mode": "I;16B", "icc": 'Café, "RGB"\n', "orientation": 8, "opt_out": OPT_OUT}
    odd |= {"mtime": 1_763_800_000_123_456_789, "bytes": 2**40, "perceptual_hash": "f00f", "source": SOURCE}
    entries = [Entry(name, name.upper(), facts(i, **odd), "ok", "") for i, name in enumerate(NAMES)]
    entries += [Entry("empty.jpg", "", FileInfo(), "rejected", 'cut off or damaged: "a", b\nc')]
    index.write(entries, tmp_path / "index.csv")
    assert index.read(tmp_path / "index.csv") == entries
    assert os.fsencode(NAMES[-1]) in (tmp_path / "index.csv").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["index.csv"]


def test_an_index_of_nothing_comes_back(tmp_path: Path) -> None:
    index.write([], tmp_path / "index.csv")
    assert index.read(tmp_path / "index.csv") == []


def test_a_damaged_row_is_the_only_one_lost(tmp_path: Path) -> None:
    entries = [Entry(f"{i}.jpg", "", facts(i), "ok", "") for i in range(3)]
    file = tmp_path / "index.csv"
    index.write(entries, file)
    good = file.read_bytes()
    start, end = good.index(b"1.jpg"), good.index(b"2.jpg")
    for place in range(start, end - 2):
        file.write_bytes(bytes([*good[:place], good[place] ^ 1, *good[place + 1 :]]))
        assert set(index.read(file)) <= {entries[0], entries[2]}
        assert entries[0] in index.read(file)


def test_rows_of_another_version_tell_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "index.csv"
    index.write([Entry("a.jpg", "", facts(), "ok", "")], file)
    assert len(index.read(file)) == 1
    monkeypatch.setattr(index, "COLUMNS", (*COLUMNS[:-2], "near", "crc32"))
    assert index.read(file) == []


def test_a_journal_that_is_cut_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "journal.csv"
    for names in (NAMES[:2], NAMES[2:]):
        with index.journal(file) as note:
            for name in names:
                note(name, facts(len(name)))
                assert index.read(file)[-1].path == name  # also if the process is killed now
        file.write_bytes(file.read_bytes() + b'"half a row')
    assert [entry.path for entry in index.read(file)] == NAMES
    assert [entry.facts for entry in index.read(file)] == [facts(len(name)) for name in NAMES]


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe" * 99, b'path,"class', b"\n\n", b"x" * 200_000])
def test_a_damaged_file_tells_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes(content)
    assert index.read(tmp_path / "index.csv") == []


def test_no_file_tells_nothing(tmp_path: Path) -> None:
    assert index.read(tmp_path / "index.csv") == index.read(tmp_path) == index.read(tmp_path / "no" / "index.csv") == []


def test_what_is_not_trained_on_is_listed_for_people(tmp_path: Path) -> None:
    reasons = [("rejected", 'cut off, or "damaged"'), ("excluded", "AI-made: x"), ("ok", "")]
    entries = [
        Entry(f"{status}/{name}", "", facts(bytes=i), status, reason)  # type: ignore[arg-type]
        for status, reason in reasons
        for i, name in enumerate(NAMES)
    ]
    write_unused(entries, Path("/art"), tmp_path / "run")
    for status, reason in reasons[:2]:
        with (tmp_path / "run" / f"{status}.csv").open(newline="", errors="surrogateescape") as file:
            rows = list(csv.reader(file))
        listed = [[f"/art/{status}/{name}", reason, str(i)] for i, name in enumerate(NAMES)]
        assert rows == [["path", "reason", "bytes"], *listed]


# --- statuses

FAULTS: dict[str, dict[str, Any]] = {  # in the order of precedence: kind of the reason, what is wrong
    "not an image": {"flaw": "not an image: no header"},
    "above data.max_pixels=10000": {"width": 101, "height": 100},
    "below data.min_size=8": {"width": 7, "height": 8},
    "not in data.licences": {},  # excluded
    "opted out of data mining": {"opt_out": OPT_OUT},
    "AI-made": {"source": SOURCE},
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_has_its_status(kind: str) -> None:
    excluded = {"a.jpg": "not in data.licences: CC BY-NC"} if kind == "not in data.licences" else {}
    (entry,) = entries_by({"a.jpg": facts(**FAULTS[kind])}, SETTINGS, excluded)
    assert entry.kind == kind
    assert entry.status == ("rejected" if list(FAULTS).index(kind) < 3 else "excluded")


def test_a_reason_tells_the_numbers() -> None:
    files = {
        "large": facts(width=101, height=100),
        "small": facts(1, width=7, height=800),
        "ai": facts(2, source=SOURCE),
    }
    files |= {"shy": facts(3, opt_out=OPT_OUT), "first": facts(4), "second": facts(4)}
    assert {entry.path: entry.reason for entry in entries_by(files)} == {
        "large": "above data.max_pixels=10000: 101 x 100 pixels",
        "small": "below data.min_size=8: 7 x 800 pixels",
        "ai": "AI-made: trainedAlgorithmicMedia",
        "shy": "opted out of data mining: DMI-PROHIBITED-AIMLTRAINING",
        "first": "",
        "second": "exact duplicate: of first",
    }


@pytest.mark.parametrize("first", range(len(FAULTS)))
def test_of_several_faults_the_gravest_is_reported(first: int) -> None:
    kinds = list(FAULTS)[first:]
    faults: dict[str, Any] = {}
    for kind in reversed(kinds):
        faults |= FAULTS[kind]
    excluded = {"a.jpg": "not in data.licences: none"} if "not in data.licences" in kinds else {}
    near_duplicates = {"0.jpg": facts(), "a.jpg": facts(**faults)}
    assert statuses(near_duplicates, excluded=excluded)["a.jpg"] == kinds[0]


def test_the_limits_themselves_are_allowed() -> None:
    files = {"large": facts(width=100, height=100), "small": facts(1, width=8, height=900)}
    assert statuses(files) == {"large": "", "small": ""}


def test_each_exclusion_can_be_switched_off() -> None:
    files = {"a": facts(), "copy": facts(), "shy": facts(1, opt_out=OPT_OUT), "ai": facts(2, source=SOURCE)}
    kinds = {"copy": "exact duplicate", "shy": "opted out of data mining", "ai": "AI-made"}
    assert statuses(files) == {"a": "", **kinds}
    for path, name in {"copy": "duplicate", "shy": "opt_out", "ai": "ai_made"}.items():
        assert statuses(files, DataSettings(max_pixels=10_000, exclude={name: False})) == {"a": "", **kinds, path: ""}
    assert set(statuses(files, LENIENT).values()) == {""}


def test_a_camera_is_no_network() -> None:
    assert statuses({"photo": facts(source="digitalCapture")}) == {"photo": ""}


def test_of_near_duplicates_the_first_by_path_is_kept() -> None:
    files = {name: facts(number) for name, number in {"a": 1, "b": 2, "c": 1, "d": 1, "e": 2}.items()}
    entries = entries_by(files)
    assert [entry.path for entry in entries] == list(files)
    assert {entry.path: entry.reason for entry in entries if entry.reason} == {
        "c": "exact duplicate: of a",
        "d": "exact duplicate: of a",
        "e": "exact duplicate: of b",
    }


@pytest.mark.parametrize("fault", [{"flaw": "crashes the decoder"}, {"width": 7}, {"opt_out": OPT_OUT}, {}])
def test_a_copy_of_what_is_not_used_is_kept(fault: dict[str, Any]) -> None:
    """An exact copy has the same facts, but metadata may bar one of the two; so may a decoder that crashed once."""
    excluded = {} if fault else {"a": "not in data.metadata"}
    kinds = statuses({"a": facts(**fault), "b": facts(), "c": facts()}, excluded=excluded)
    assert kinds["a"] != ""
    assert (kinds["b"], kinds["c"]) == ("", "exact duplicate")


def test_files_that_could_not_be_read_are_no_near_duplicates_of_each_other() -> None:
    gone = FileInfo(flaw="vanished while it was read")
    assert set(statuses({"a": gone, "b": gone}).values()) == {"vanished while it was read"}


def test_an_entry_knows_its_class() -> None:
    entries = entries_of([("x/a", "x", facts(), ""), ("b", "", facts(1), "")], SETTINGS)
    assert entries == [Entry("x/a", "x", facts(), "ok", ""), Entry("b", "", facts(1), "ok", "")]


def test_entries_are_counted() -> None:
    files = {
        "a": facts(),
        "b": facts(),
        "c": facts(1),
        "d": facts(2, flaw="empty file"),
        "e": facts(3, flaw="empty file"),
    }
    assert counts(entries_by(files)) == {"found": 5, "ok": 2, "rejected": 2, "excluded": 1, "other": 0}
    assert counts([]) == {"found": 0, "ok": 0, "rejected": 0, "excluded": 0, "other": 0}


def test_what_is_not_used_is_reported_in_words() -> None:
    flaws = ["empty file"] * 2 + ["cut off or damaged: a"] + ["cut off or damaged: b"] * 2 + ["odd", "odder", "odd"]
    files = {f"{i}": facts(i, flaw=flaw) for i, flaw in enumerate(flaws)} | {"copy": facts(99), "first": facts(99)}
    entries = entries_by(files)
    assert describe_unused(entries, Path("/index.csv")) == {
        "rejected": "8 of 10 files are unusable (3 cut off or damaged, 2 empty file, 2 odd): see /index.csv",
        "excluded": "1 of 10 files are left out (1 exact duplicate): see /index.csv",
    }
    assert describe_unused(entries_by({"a": facts()}), Path("/index.csv")) == {}


# --- near-duplicates


def hashed(**files: Image.Image | None) -> list[Entry]:
    return [
        Entry(name, "", facts(perceptual_hash=perceptual_hash(image) if image else ""), "ok", "")
        for name, image in files.items()
    ]


def resembled(entries: list[Entry], before: list[Entry] | None = None) -> dict[str, str]:
    return {entry.path: entry.duplicate_of for entry in index.find_near_duplicates(entries, before or [])}


def test_each_image_names_the_first_that_it_resembles() -> None:
    one, other = (Image.fromarray(demo.paint(name, 1, 96)) for name in ("painting", "engraving"))
    entries = hashed(a=one, b=other, bad=None, c=ImageOps.mirror(one), d=other.resize((70, 70)), worse=None)
    assert resembled(entries) == {"a": "", "b": "", "bad": "", "c": "a", "d": "b", "worse": ""}
    assert [entry.group for entry in index.find_near_duplicates(entries, [])] == ["a", "b", "bad", "a", "b", "worse"]


def test_what_is_known_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Image.fromarray(demo.paint("painting", 1, 96))
    before = index.find_near_duplicates(hashed(a=one, b=one), [])
    monkeypatch.setattr(index, "groups", lambda hashes: pytest.fail("compared again"))
    assert resembled(hashed(bad=None, a=one, b=one), before) == {"bad": "", "a": "", "b": "a"}


def test_another_image_is_compared() -> None:
    one, other = (Image.fromarray(demo.paint(name, 1, 96)) for name in ("painting", "engraving"))
    before = index.find_near_duplicates(hashed(a=one, b=one), [])
    assert resembled(hashed(b=one), before) == {"b": ""}
    assert resembled(hashed(a=one, b=other), before) == {"a": "", "b": ""}
    assert resembled(hashed(a=one, b=one, c=one), before) == {"a": "", "b": "a", "c": "a"}
