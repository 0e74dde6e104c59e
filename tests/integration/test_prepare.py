"""From a folder to a report of what is usable."""

import base64
import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from artart.data import demo
from artart.data.find import find_all


def report(folder: str = "report") -> dict:
    return json.loads(Path(folder, "report.json").read_text())


def rows(file: str) -> dict[str, str]:
    with Path("report", file).open(newline="") as table:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(table)}


@pytest.fixture
def mixed_folder(art_folder: Path) -> Path:
    """12 good images, an empty file, half a JPEG, a copy, and an image that calls itself AI-made."""
    (art_folder / "empty.png").touch()
    large = Image.fromarray(demo.paint("painting", 0, 256))
    large.save(art_folder / "half.jpg")
    content = (art_folder / "half.jpg").read_bytes()
    (art_folder / "half.jpg").write_bytes(content[: len(content) // 2])
    shutil.copy(art_folder / "drawing" / "drawing_0.png", art_folder / "drawing" / "z_copy.png")
    source = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    xmp = b'<x Iptc4xmpExt:DigitalSourceType="' + source + b'"/>'
    large.save(art_folder / "engraving" / "made.webp", xmp=xmp)
    return art_folder


@pytest.mark.slow
def test_the_report_counts_what_is_usable(prepare, mixed_folder):
    assert prepare(f"data.root={mixed_folder}", "run_dir=report") == 0
    found = report()
    assert found["counts"] == {"found": 16, "ok": 12, "rejected": 2, "excluded": 2, "other": 0}
    assert found["reasons"] == {
        "rejected": {"empty file": 1, "cut off or damaged": 1},
        "excluded": {"exact duplicate": 1, "AI-made": 1},
        "other": {},
    }
    assert found["classes"]["drawing"] == {"found": 5, "ok": 4, "rejected": 0, "excluded": 1, "other": 0}
    assert found["classes"]["(no class)"] == {"found": 2, "ok": 0, "rejected": 2, "excluded": 0, "other": 0}
    assert sum(found["split"].values()) == 12
    rejected = rows("rejected.csv")
    assert rejected.pop("half.jpg").startswith("cut off or damaged: ")
    assert rejected == {"empty.png": "empty file"}
    assert rows("excluded.csv") == {
        "z_copy.png": "exact duplicate: of drawing/drawing_0.png",
        "made.webp": "AI-made: trainedAlgorithmicMedia",
    }


@pytest.mark.slow
def test_the_terminal_shows_classes_and_reasons(prepare, mixed_folder, capsys):
    assert prepare(f"data.root={mixed_folder}", "run_dir=report") == 0
    out = capsys.readouterr().out
    for word in ("drawing", "(no class)", "empty file", "AI-made", "exact duplicate", "index.csv"):
        assert word in out


@pytest.mark.slow
def test_the_report_and_the_training_see_the_same_images(prepare, train, mixed_folder, capsys):
    assert prepare(f"data.root={mixed_folder}", "run_dir=report") == 0
    sides = report()["split"]
    assert "reading 16 of 16 files" in capsys.readouterr().out
    assert train(f"data.root={mixed_folder}", "loss=mse", "data.batch_size=4", "run_dir=run") == 0
    out = capsys.readouterr().out
    assert "reading" not in out  # all is known
    assert f"12 images: {sides['train']} for training, {sides['val']} held out" in out
    for name in ("rejected.csv", "excluded.csv"):
        assert Path("run", name).read_text() == Path("report", name).read_text()


@pytest.mark.slow
def test_every_file_of_the_folder_stands_in_the_index(prepare, mixed_folder):
    assert prepare(f"data.root={mixed_folder}", "run_dir=report") == 0
    with Path(report()["index"]).open(newline="") as table:
        index = list(csv.DictReader(table))
    assert [row["path"] for row in index] == [
        str(path.relative_to(mixed_folder)) for path in find_all(mixed_folder).images
    ]
    assert {"path", "class", "bytes", "mtime", "sha256", "format", "width", "height", "mode"} <= index[0].keys()
    assert {"icc", "orientation", "perceptual_hash", "status", "reason"} <= index[0].keys()


def test_a_folder_where_nothing_is_usable_has_a_report_too(prepare, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"<html>404</html>")
    assert prepare("data.root=bad", "run_dir=report") == 0
    assert report()["counts"] == {"found": 1, "ok": 0, "rejected": 1, "excluded": 0, "other": 0}
    assert report()["split"] == {"train": 0, "val": 0}


def test_the_users_table_is_held_against_the_folder(prepare, art_folder):
    Path("art.csv").write_text("path,class,licence\ndrawing/drawing_0.png,mine,CC0\nlost.png,mine,CC0\n")
    assert prepare(f"data.root={art_folder}", "data.metadata=art.csv", "run_dir=report") == 0
    assert report()["metadata"] == {"only_in_file": ["lost.png"], "only_in_folder": 11}
    assert report()["counts"] == {"found": 12, "ok": 1, "rejected": 0, "excluded": 11, "other": 0}
    assert report()["classes"]["mine"]["ok"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "data.root=null: name the folder to prepare: data.root=DIR"),
        (("data.root=nowhere",), "data.root="),
        (("data.root=.",), "no image below this folder"),
        (("data.root=.", "data.resize_mode=fill"), "data.resize_mode=fill: must be stretch, center_crop or pad"),
        (("data.root=.", "data.max_pixels=0"), "data.max_pixels=0: must be a whole number, at least 1"),
        (("data.root=.", "data.metadata=nowhere.csv"), "must be a file that exists"),
        (("data.root=.", "data.exclude.copies=true"), "data.exclude.copies=true: no such key"),
        (("data.root=.", "data.licences=CC0"), "data.licences=CC0: must be"),
    ],
)
def test_a_mistake_is_reported_in_a_line_and_leaves_nothing(prepare, tmp_path, capsys, arguments, message):
    assert prepare(*arguments, "run_dir=report") == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("report").exists()


def test_an_error_while_images_are_read_leaves_no_folder(prepare, art_folder, capsys):
    Path("file").touch()
    assert prepare(f"data.root={art_folder}", "data.cache_dir=file/cache", "run_dir=report") == 2
    assert capsys.readouterr().err.startswith("data.cache_dir: ")
    assert not Path("report").exists()


def test_the_folder_of_a_training_is_not_touched(prepare, finished_run, art_folder, capsys):
    assert prepare(f"data.root={art_folder}", f"run_dir={finished_run}") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert not (finished_run / "report.json").exists()


def test_any_name_can_be_shown(prepare, tmp_path, monkeypatch):
    """Of a class in brackets, which the table must not take for a style, and of one in bytes that are no text."""
    for name in ("[bold] sketches", os.fsdecode(b"caf\xe9"), ":art:"):
        folder = tmp_path / "art" / name
        folder.mkdir(parents=True)
        Image.fromarray(demo.paint("drawing", len(name), 32)).save(folder / "a.png")
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="utf-8", errors="strict", write_through=True))
    assert prepare("data.root=art", "run_dir=report") == 0
    for name in ("[bold] sketches", "caf\\xe9", ":art:"):
        assert name in shown.getvalue().decode()


def test_names_cannot_move_the_cursor(prepare, tmp_path, capsys):
    name = "\x1b[2Jred\x9b31m\u202e"
    (tmp_path / "art" / name).mkdir(parents=True)
    image = Image.fromarray(demo.paint("drawing", 1, 32))
    image.save(tmp_path / "art" / name / "a.png")
    Path("art.csv").write_text(f"path,licence\n{name}/a.png,no\x1b[1A\n")
    arguments = ("data.root=art", "data.metadata=art.csv", "data.licences=['CC0']", "run_dir=report")
    assert prepare(*arguments) == 0
    out, err = capsys.readouterr()
    assert r"\x1b[2Jred\x9b31m\u202e" in out
    assert "data.licences leaves out 1 of 1, most often: no\\x1b[1A (1)" in out
    assert {char for char in out + err if not char.isprintable()} == {"\n"}
    assert name in report()["classes"]


@pytest.mark.slow
def test_the_folder_of_a_run_below_the_root_is_passed_over(prepare, train, art_folder, monkeypatch):
    monkeypatch.chdir(art_folder)
    assert train("data.root=.", "loss=mse", "data.batch_size=4", "trainer.max_epochs=1", "data.val_fraction=0.3") == 0
    assert list(Path("outputs").rglob("*.png"))
    assert prepare("data.root=.", "run_dir=../report") == 0
    assert json.loads(Path("../report/report.json").read_text())["counts"]["found"] == 12


def test_what_training_would_refuse_is_said(prepare, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"<html>404</html>")
    assert prepare("data.root=bad", "run_dir=report") == 0
    assert "training would refuse this folder: data.root=" in capsys.readouterr().out


def test_the_folder_of_the_images_is_only_read(prepare, art_folder, capsys):
    before = sorted(art_folder.rglob("*"))
    assert prepare(f"data.root={art_folder}", f"run_dir={art_folder}") == 2
    assert "is the folder of your images, which is only read" in capsys.readouterr().err
    assert sorted(art_folder.rglob("*")) == before


@pytest.mark.slow
def test_a_hydra_folder_of_somebody_else_hides_nothing(prepare, art_folder):
    (art_folder / ".hydra").mkdir()
    (art_folder / "drawing" / ".hydra").mkdir()
    assert prepare(f"data.root={art_folder}", "run_dir=report") == 0
    assert report()["counts"]["found"] == 12


@pytest.mark.slow
def test_licences_that_are_left_out_are_named(prepare, art_folder, capsys):
    rows = [
        f"{path.relative_to(art_folder)},{'CC BY' if 'drawing' in path.parts else 'CC0'}"
        for path in find_all(art_folder).images
    ]
    Path("art.csv").write_text("\n".join(["path,licence", *rows]))
    arguments = (f"data.root={art_folder}", "data.metadata=art.csv", "data.licences=['CC0']", "run_dir=report")
    assert prepare(*arguments) == 0
    assert "data.licences leaves out 4 of 12, most often: CC BY (4)" in capsys.readouterr().out


def test_an_empty_path_is_refused(prepare, capsys):
    assert prepare("data.root=", "run_dir=report") == 2
    assert capsys.readouterr().err == "data.root=: is empty; set a path, or null\n"


@pytest.mark.slow
def test_a_lock_that_is_a_link_empties_nothing(prepare, art_folder, capsys):
    assert prepare(f"data.root={art_folder}", "data.cache_dir=cache", "run_dir=report") == 0
    (lock,) = Path("cache").rglob("lock")
    lock.unlink()
    lock.symlink_to(Path("mine").absolute())
    Path("mine").write_text("mine")
    assert prepare(f"data.root={art_folder}", "data.cache_dir=cache", "run_dir=report") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"data.cache_dir: {lock.absolute()}: ")
    assert Path("mine").read_text() == "mine"


@pytest.mark.slow
def test_a_refused_preparation_leaves_what_is_there(prepare, art_folder, capsys):
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

    Path("mine").mkdir()
    Path("mine/rejected.csv").write_text("mine")
    before = files()
    assert prepare(f"data.root={art_folder}", "run_dir=mine") == 2
    assert "mine is not the folder of a run" in capsys.readouterr().err
    assert files() == before
    assert prepare(f"data.root={art_folder}", "run_dir=report") == 0
    before = files()
    assert prepare(f"data.root={art_folder}", "run_dir=report", "data.cache_dir=mine/rejected.csv") == 2
    assert "data.cache_dir: " in capsys.readouterr().err
    assert files() == before
    assert "reading 12 of 12 files" in Path("report/prepare.log").read_text()


@pytest.mark.slow
def test_the_page_shows_what_is_left_out_and_who_is_represented(prepare, mixed_folder):
    paths = [path.relative_to(mixed_folder) for path in find_all(mixed_folder).images]
    table = [f"{path},{'Ann <b>' if k % 3 else ''},{1890 + k}" for k, path in enumerate(paths)]
    (mixed_folder.parent / "art.csv").write_text("\n".join(["path,artist,year", *table]))
    metadata = f"data.metadata={mixed_folder.parent / 'art.csv'}"
    assert prepare(f"data.root={mixed_folder}", metadata, "run_dir=report") == 0
    found, page = report(), Path("report/report.html").read_text()
    used = found["counts"]["ok"]
    artist, year = found["representation"]["artist"], found["representation"]["year, by decade"]
    assert artist["known"] + artist["unknown"] == used
    assert artist["most"] == {"Ann <b>": artist["known"]}
    assert year["known"] == used
    assert found["ai_marks"] == {"trainedAlgorithmicMedia": 1}
    assert "Ann &lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("data:image/jpeg") >= 3  # classes, and what is left out
    assert "exact duplicate" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "https://matplotlib.org", ""
    )  # nothing is fetched


@pytest.mark.slow
def test_near_duplicates_in_folders_of_several_parts_are_counted(prepare, art_folder):
    for part in ("train", "test"):
        (art_folder / part).mkdir()
    image = Image.fromarray(demo.paint("painting", 0, 256))
    image.save(art_folder / "train" / "one.png")
    image.resize((250, 250)).save(art_folder / "test" / "again.png")
    assert prepare(f"data.root={art_folder}", "run_dir=report") == 0
    assert report()["near_duplicates"] == {"groups": 1, "images": 2, "in_several_parts": 1}


@pytest.mark.slow
def test_thumbnails_of_what_is_left_out_lie_on_the_background(prepare, art_folder):
    """White lines that are transparent elsewhere, which nobody sees on white."""
    drawing = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    drawing.paste("white", (8, 8, 56, 56))
    for name in ("one.png", "again.png"):
        drawing.save(art_folder / "drawing" / name)
    assert prepare(f"data.root={art_folder}", "data.background=black", "run_dir=report") == 0
    left_out = Path("report/report.html").read_text().partition("Left out</h2>")[2]
    image = left_out.partition("data:image/jpeg;base64,")[2].partition('"')[0]
    row = Image.open(io.BytesIO(base64.b64decode(image))).convert("L")
    assert row.getpixel((50, 50)) > 200
    assert row.getpixel((6, 50)) < 50
