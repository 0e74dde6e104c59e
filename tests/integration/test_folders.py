"""Folders as people have them, from the first reading to the last command."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from artart.checkpoints.load import load
from artart.data import demo

DIFFUSION = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2", "trainer.max_epochs=1")


def fill(folder: Path, *seeds: int, name: str = "painting") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        Image.fromarray(demo.paint(name, seed, 32)).save(folder / f"{seed}.png")


def test_prepare_counts_and_names_every_image_file(prepare, capsys):
    fill(Path("art"), *range(6))
    Path("art/a.psd").write_bytes(b"8BPS")
    Path("art/gone.png").symlink_to("nowhere.png")
    Path("art/notes.txt").write_text("text")
    fill(Path("art/@eaDir/0.png"), 7)
    assert prepare("data.root=art", "run_dir=report") == 0
    report = json.loads(Path("report/report.json").read_text())
    assert report["counts"] == {"found": 8, "ok": 6, "rejected": 0, "excluded": 0, "other": 2}
    link, photoshop = "link to nothing (restore its target or remove it)", "Photoshop (convert it to PNG)"
    assert report["reasons"]["other"] == {link: 1, photoshop: 1}
    assert report["ignored"] == {".txt": 1, "of other programs": 1}
    assert {line.split(",")[1] for line in Path("report/other.csv").read_text().splitlines()[1:]} == {link, photoshop}
    assert "2 of 8 files are of kinds that are not read" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 2])
def test_prepare_warns_of_parts_as_classes(prepare, level: int, capsys):
    for seed, folder in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        fill(Path("art", folder), *range(9 * seed, 9 * seed + 3), name=demo.CLASS_NAMES[seed])
    assert prepare("data.root=art", "run_dir=report", f"data.class_level={level}") == 0
    classes = {"train", "test"} if level == 1 else {"cat", "dog"}
    assert json.loads(Path("report/report.json").read_text())["classes"].keys() == classes
    assert ("data.class_level=2, or data.root=" in capsys.readouterr().out) == (level == 1)


@pytest.mark.slow
def test_prepare_says_what_train_says(prepare, train, capsys):
    Path("art").mkdir()
    for k in range(36):
        icon = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
        icon.paste((90 + k, 90, 90, 255), (4, 4, 20, 20))
        icon.save(f"art/{k}.png")
    assert train("data.root=art", "loss=mse") == 2
    refusal = capsys.readouterr().err.strip().splitlines()[-1]
    assert "near-duplicates" in refusal
    assert prepare("data.root=art", "run_dir=report") == 0
    assert f"training would refuse this folder: {refusal}" in capsys.readouterr().out
    assert json.loads(Path("report/report.json").read_text())["refusal"] == refusal


@pytest.mark.slow
def test_labels_without_a_training_image_are_left_out_of_all(train, generate, capsys):
    fill(Path("art/many"), *range(12))
    fill(Path("art/one"), 50, name="drawing")
    Path("art/zz").mkdir()
    shutil.copy("art/many/0.png", "art/zz/copy.png")  # of exact duplicates the first is used
    assert train("data.root=art", *DIFFUSION, "data.val_fraction=0.5", "run_dir=run") == 0
    assert "class: no training image has zz; label=all leaves that out" in capsys.readouterr().out
    loaded = load(Path("run/checkpoints/last.ckpt"))
    assert loaded.label_names == {"class": ["many", "one", "zz"]}
    assert loaded.untrained_labels == {"class": ["zz"]}
    assert generate("checkpoint=run/checkpoints/last.ckpt", "num_images=4", "out=made") == 0
    assert not any(b"label=zz" in path.read_bytes() for path in Path("made").iterdir())


@pytest.mark.slow
def test_names_that_are_not_utf_8_work_to_the_end(train, evaluate):
    root = Path(os.fsdecode(b"r\xf6t"))
    for k, name in enumerate((os.fsdecode(b"caf\xe9"), "b")):
        fill(root / name, *range(30), name=demo.CLASS_NAMES[k])
    run_dir = Path(os.fsdecode(b"\xe9t\xe9"))
    words = (f"data.root={root}", *DIFFUSION, "data.val_fraction=0.6", f"run_dir={run_dir}", "logger=[tensorboard,csv]")
    assert train(*words) == 0
    assert [path.name for path in run_dir.rglob("*.csv") if path.name == "metrics.csv"]
    assert load(run_dir / "checkpoints/last.ckpt").label_names == {"class": ["b", "caf\\xe9"]}
    assert evaluate(f"checkpoint={run_dir}/checkpoints/last.ckpt", "num_images=20") == 0
    assert "caf\\xe9" in Path("judged/report.html").read_text()
