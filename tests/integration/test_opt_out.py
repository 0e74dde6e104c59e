"""Opt-outs: files beside images, and a list of paths, artists and hashes."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from artart.data.find import find_all


@pytest.fixture
def art(art_folder: Path) -> Path:
    """A folder of 12 images, with a table beside it that names an artist of some."""
    rows = [
        f"{path.relative_to(art_folder)},{'Ann Õ' if k < 3 else ''}"
        for k, path in enumerate(find_all(art_folder).images)
    ]
    (art_folder.parent / "art.csv").write_text("\n".join(["path,artist", *rows]), encoding="utf-8")
    return art_folder


def reasons(folder: str) -> dict[str, int]:
    return json.loads(Path(folder, "report.json").read_text())["reasons"]["excluded"]


@pytest.mark.slow
def test_files_beside_images_are_honoured_and_counted(prepare, art):
    first, second, *_ = find_all(art).images
    first.with_suffix(".optout").touch()
    second.with_name(f"{second.name}.optout").touch()
    assert prepare(f"data.root={art}", "run_dir=report") == 0
    assert reasons("report") == {"opted out of data mining": 2}
    found = json.loads(Path("report/report.json").read_text())
    assert found["opt_outs"] == {first.with_suffix(".optout").name: 1, f"{second.name}.optout": 1}
    assert prepare(f"data.root={art}", "data.exclude.opt_out=false", "run_dir=all") == 0
    assert reasons("all") == {}
    first.with_suffix(".optout").unlink()  # the index is not what decides
    assert prepare(f"data.root={art}", "run_dir=again") == 0
    assert reasons("again") == {"opted out of data mining": 1}


@pytest.mark.slow
def test_a_list_names_paths_folders_artists_and_hashes(prepare, art, capsys):
    images = find_all(art).images
    content = sha256(images[-1].read_bytes()).hexdigest().upper()
    shutil.copy(images[-1], art / "renamed.png")
    path = images[5].relative_to(art).as_posix()
    lines = ["# from letters", "ann õ", f"./{path}", content, "", "nobody/at all.png"]
    Path("list.txt").write_text("\n".join(lines), encoding="utf-8")
    words = (f"data.root={art}", "data.opt_out=list.txt")
    assert prepare(*words, f"data.metadata={art.parent / 'art.csv'}", "run_dir=report") == 0
    assert reasons("report")["opted out of data mining"] == 3 + 1 + 1
    assert "1 of 4 lines name no image, artist or SHA-256 here, such as 'nobody/at all.png'" in capsys.readouterr().out
    Path("list.txt").write_text("drawing\n")
    assert prepare(*words, "run_dir=folder") == 0
    assert reasons("folder")["opted out of data mining"] == 4


@pytest.mark.slow
def test_a_checkpoint_says_how_many_were_honoured(train, evaluate, art, alexnet_weights, capsys):
    Path("list.txt").write_text("drawing/drawing_0.png\n")
    words = (f"data.root={art}", "data.opt_out=list.txt", "data.batch_size=4", "trainer.max_epochs=1", "run_dir=run")
    assert train(*words) == 0
    content = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert content["data"]["num_opted_out"] == 1
    assert content["data"]["num_train"] + content["data"]["num_val"] == 11
    Path("list.txt").rename("moved.txt")
    assert evaluate("checkpoint=run", f"metrics.weights={alexnet_weights}") == 2
    assert capsys.readouterr().err.rstrip().endswith("is not here; name it: data.opt_out=FILE")
    few = ("num_images=12", "sampler.num_steps=1", "device=cpu")
    assert evaluate("checkpoint=run", "data.opt_out=moved.txt", *few, f"metrics.weights={alexnet_weights}") == 0
    assert "differs from the images" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_list_that_is_missing_or_without_a_folder_is_a_line(prepare, train, art, capsys):
    assert prepare(f"data.root={art}", "data.opt_out=none.txt") == 2
    assert train("data.opt_out=pyproject.toml") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "data.opt_out" in lines[0]
