"""From a checkpoint and images to images."""

import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import artart.generate
from artart.checkpoints.load import load
from artart.data.decode import decode, resize
from artart.data.scan import examine
from artart.io import files
from artart.io.files import sha256
from artart.io.images import to_model, to_pixels
from tests.forking import command


@pytest.fixture
def best(finished_run) -> Path:
    return finished_run / "checkpoints" / "best.ckpt"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_an_image_goes_through_the_transform_of_training_and_the_network(generate, best, art_folder):
    source = next(art_folder.rglob("*.png"))
    assert generate(f"checkpoint={best}", f"input={source}", "out=made") == 0
    x0 = to_model(torch.tensor(resize(decode(source), 16, "stretch")).permute(2, 0, 1))[None]
    with torch.inference_mode():
        wanted = to_pixels(load(best).net(x0))[0].permute(1, 2, 0)
    difference = pixels(Path("made", source.stem + ".png")).astype(int) - wanted.numpy()
    assert np.abs(difference).max() <= 1  # a rounding, where memory layouts differ


@pytest.mark.slow
def test_compare_puts_the_input_beside_the_output(generate, best, art_folder):
    source = next(art_folder.rglob("*.png"))
    assert generate(f"checkpoint={best}", f"input={source}", "out=plain") == 0
    assert generate(f"checkpoint={best}", f"input={source}", "out=both", "side_by_side=true") == 0
    both = pixels(Path("both", source.stem + ".png"))
    assert (both[:, :16] == resize(decode(source), 16, "stretch")).all()
    assert (both[:, 16:] == pixels(Path("plain", source.stem + ".png"))).all()


@pytest.mark.slow
def test_a_folder_keeps_its_sub_folders_and_a_batch_size_changes_nothing(generate, best, art_folder):
    assert generate(f"checkpoint={best}", f"input={art_folder}", "out=one", "batch_size=1") == 0
    assert generate(f"checkpoint={best}", f"input={art_folder}", "out=five", "batch_size=5") == 0
    made = sorted(path.relative_to("one") for path in Path("one").rglob("*.png") if path.name != "grid.png")
    assert made == sorted(path.relative_to(art_folder).with_suffix(".png") for path in art_folder.rglob("*.*"))
    for name in made:
        assert np.abs(pixels("one" / name).astype(int) - pixels("five" / name)).max() <= 1


@pytest.mark.slow
def test_equal_stems_and_earlier_results_are_not_overwritten(generate, best, tmp_path):
    for name, level in (("a.png", 0), ("a.bmp", 255)):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (level,) * 3).save(tmp_path / "in" / name)
    for _ in range(2):
        assert generate(f"checkpoint={best}", "input=in", "out=out", "side_by_side=true") == 0
    levels = {path.name: int(pixels(path)[0, 0, 0]) for path in Path("out").glob("a*")}
    assert levels == {"a.png": 255, "a-2.png": 0, "a-3.png": 255, "a-4.png": 0}  # .bmp comes before .png


def test_every_image_says_how_it_was_made(generate, best, art_folder):
    source = next(art_folder.rglob("*.png"))
    assert generate(f"checkpoint={best}", f"input={source}", "out=made") == 0
    packet = Image.open(Path("made", source.stem + ".png")).text["XML:com.adobe.xmp"]
    text = " ".join(ElementTree.fromstring(packet).itertext())
    assert "compositeWithTrainedAlgorithmicMedia" in text
    assert f"checkpoint_sha256={sha256(best)}" in text
    assert f"input={source.name}" in text


def test_the_checkpoint_alone_is_enough(generate, best, art_folder, tmp_path, monkeypatch):
    """It may have been moved; nothing is loaded for the loss."""
    monkeypatch.setattr("artart.objectives.losses.vgg16", None)
    monkeypatch.setattr("artart.objectives.losses.vgg16_on", None)
    shutil.copy(best, tmp_path / "moved.ckpt")
    assert generate("checkpoint=moved.ckpt", f"input={next(art_folder.rglob('*.png'))}") == 0
    assert len(list(Path("outputs/samples").rglob("*.png"))) == 1


@pytest.mark.slow
def test_odd_names_and_formats_are_read_as_they_are_typed(generate, best, odd_files):
    usable = [path for path in odd_files.iterdir() if examine(path, 16).pixels is not None]
    assert len(usable) == 12
    for path in usable:
        assert generate(f"checkpoint={best}", f"input={path}", "out=made") == 0
    assert {path.stem for path in Path("made").iterdir()} == {path.stem for path in usable}


def test_unusable_files_of_a_folder_are_listed_and_the_others_used(generate, best, art_folder, capsys):
    (art_folder / "broken.jpg").write_bytes(b"no image")
    assert generate(f"checkpoint={best}", f"input={art_folder}", "out=made") == 0
    assert "1 of 13 files cannot be used: see made/rejected.csv" in capsys.readouterr().out
    assert 'broken.jpg,"not an image' in Path("made/rejected.csv").read_text()
    assert len(list(Path("made").rglob("*.png"))) == 12 + 1


def test_a_single_unusable_file_is_reported_in_one_line(generate, best, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert generate(f"checkpoint={best}", "input=broken.jpg") == 2
    assert "broken.jpg: not an image" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["input=."], "checkpoint: needs a value"),
        (["checkpoint=nowhere.ckpt", "input=."], "nowhere.ckpt: must be a file that exists"),
        (["checkpoint=text.ckpt", "input=."], "text.ckpt"),
        (["checkpoint=text.ckpt", "input=nowhere"], "nowhere: must be a file that exists, a folder that exists or"),
    ],
)
def test_mistakes_are_reported_in_a_line(generate, tmp_path, capsys, arguments, sentence):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    assert generate(*arguments) == 2
    assert sentence in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_results_do_not_go_among_the_inputs(generate, best, art_folder, capsys):
    assert generate(f"checkpoint={best}", f"input={art_folder}", f"out={art_folder}") == 2
    assert "must be a folder, and not the one that holds the input" in capsys.readouterr().err


def test_results_do_not_go_into_a_file(generate, best, art_folder, capsys):
    (art_folder / "file").write_text("in the way")
    assert generate(f"checkpoint={best}", f"input={art_folder}", f"out={art_folder}/file") == 2
    assert capsys.readouterr().err == f"out={art_folder}/file: is a file; name a folder\n"
    assert (art_folder / "file").read_text() == "in the way"


def test_an_image_to_begin_with_is_asked_for(generate, best, capsys):
    assert generate(f"checkpoint={best}") == 2
    line = f"input: needs a value: input=FILE_OR_FOLDER; {best} reproduces images and makes no new ones\n"
    assert capsys.readouterr().err == line
    assert not Path("outputs").exists()


@pytest.mark.parametrize("word", ["num_images=4", "seed=7", "guidance.weight=2", "sampler=ddim"])
def test_what_is_of_samples_is_refused_for_an_autoencoder(generate, best, art_folder, capsys, word):
    assert generate(f"checkpoint={best}", f"input={art_folder}", word) == 2
    assert capsys.readouterr().err == f"{word}: {best} reproduces images and makes no new ones; leave it out\n"


def test_the_mode_may_be_named(generate, best, art_folder):
    source = next(art_folder.rglob("*.png"))
    assert generate(f"checkpoint={best}", f"input={source}", "out=made", "mode=reconstruct") == 0
    assert Path("made", source.stem + ".png").is_file()


@pytest.mark.slow
def test_show_opens_the_grid(generate, best, art_folder, monkeypatch):
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image.size))
    assert generate(f"checkpoint={best}", f"input={art_folder}", "out=made", "show=true") == 0
    assert shown == [(8 * 98 + 2, 3 * 113 + 2)]  # twelve pairs


@pytest.mark.slow
def test_what_an_earlier_call_wrote_into_the_input_is_not_read(generate, best, art_folder):
    out = art_folder / "made"
    for number in (13, 26):
        assert generate(f"checkpoint={best}", f"input={art_folder}", f"out={out}") == 0
        assert len(list(out.rglob("*.png"))) == number


# --- beside others' files and other commands


FAST = ("sampler.num_steps=2", "num_images=2")
TAKEN = {  # by mode, what somebody puts there while the command works
    "sample": ("00000_drawing.png", "00001_engraving.png", "grid.png", "trajectory.png", "trajectory.webp"),
    "img2img": ("one_00000.png", "one_00001.png", "grid.png", "rejected.csv"),
    "interpolate": ("00000.png", "00001.png", "strip.png", "trajectory.webp"),
    "reconstruct": ("one.png", "grid.png", "rejected.csv"),
}


@pytest.fixture
def inputs(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "one.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("mode", TAKEN)
def test_names_that_are_taken_while_it_works_are_not_replaced(
    generate, finished_run, diffusion_run, inputs, mode, monkeypatch, capsys
):
    run = finished_run if mode == "reconstruct" else diffusion_run
    own = {
        "sample": (*FAST, "save_trajectory=true"),
        "img2img": (*FAST, f"input={inputs}"),
        "interpolate": (*FAST, "seeds=[1,2]"),
        "reconstruct": (f"input={inputs}",),
    }
    fsync = os.fsync

    def others_write(descriptor):
        fsync(descriptor)
        for name in TAKEN[mode]:
            Path("out", name).write_text("theirs")

    monkeypatch.setattr(os, "fsync", others_write)
    assert generate(f"checkpoint={run}/checkpoints/last.ckpt", f"mode={mode}", "out=out", *own[mode]) == 0
    numbered = {Path(name).with_stem(f"{Path(name).stem}-2").name for name in TAKEN[mode]}
    assert {path.name for path in Path("out").iterdir()} == {*TAKEN[mode], *numbered}
    for name in TAKEN[mode]:
        assert Path("out", name).read_text() == "theirs"
    if "rejected.csv" in TAKEN[mode]:
        assert "see out/rejected-2.csv" in capsys.readouterr().out
        assert "broken.jpg" in Path("out/rejected-2.csv").read_text()


@pytest.mark.slow
def test_files_of_the_users_in_its_folder_are_left_alone(generate, best, inputs):
    mine = {"rejected.csv": "path,reason,bytes\nmine", ".probe": "mine", "one.png": "mine"}
    Path("out").mkdir()
    for name, content in mine.items():
        Path("out", name).write_text(content)
    for _ in range(2):
        assert generate(f"checkpoint={best}", f"input={inputs}", "out=out") == 0
    assert {name: Path("out", name).read_text() for name in mine} == mine
    made = {"one-2.png", "one-3.png", "grid.png", "grid-2.png", "rejected-2.csv", "rejected-3.csv"}
    assert {path.name for path in Path("out").iterdir()} == mine.keys() | made


@pytest.mark.slow
def test_two_calls_in_the_same_second_have_two_folders(generate, best, inputs, monkeypatch):
    class Noon(files.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, 12)

    monkeypatch.setattr(files, "datetime", Noon)
    for _ in range(2):
        assert generate(f"checkpoint={best}", f"input={inputs}/one.jpg") == 0
    made = {str(path) for path in Path("outputs").rglob("*.png")}
    assert made == {f"outputs/samples/2026-01-01/{time}/one.png" for time in ("12-00-00", "12-00-00-2")}


@pytest.mark.slow
def test_commands_at_once_lose_no_file(diffusion_run, forking, tmp_path):
    words = (f"checkpoint={diffusion_run}/checkpoints/last.ckpt", "sampler.num_steps=1", "num_images=6", "out=out")
    started = [
        forking.start(
            command,
            "artart.generate",
            *words,
            f"seed={seed}",
            output=tmp_path / "said",
            folder=tmp_path,
        )
        for seed in (0, 1000, 2000)
    ]
    assert [process.wait() for process in started] == [0, 0, 0]
    made = [path.name for path in (tmp_path / "out").iterdir()]
    assert len([name for name in made if name.startswith("grid")]) == 3
    assert len(made) == 3 * 7
    seeds = [Image.open(path).text["XML:com.adobe.xmp"] for path in (tmp_path / "out").glob("0*.png")]
    assert len(set(seeds)) == 3 * 6


@pytest.mark.slow
@pytest.mark.parametrize("character", ["x", "é", "北"])
def test_inputs_with_names_of_250_bytes_are_all_used(generate, finished_run, diffusion_run, tmp_path, character):
    (tmp_path / "in").mkdir()
    long = character * (246 // len(character.encode()))
    for name in (f"{long}.bmp", f"{long}.jpg", "short.png"):
        Image.new("RGB", (16, 16), "red").save(tmp_path / "in" / name)
    for _ in range(2):
        assert generate(f"checkpoint={finished_run}/checkpoints/last.ckpt", "input=in", "out=one") == 0
        arguments = ("mode=img2img", "input=in", "out=two", *FAST)
        assert generate(f"checkpoint={diffusion_run}/checkpoints/last.ckpt", *arguments) == 0
    assert len(list(Path("one").iterdir())) == 2 * (3 + 1)
    assert len(list(Path("two").glob("*_0000[01]*.png"))) == 2 * 2 * 3


@pytest.mark.slow
def test_inputs_have_the_background_of_training(train, generate, tmp_path):
    (tmp_path / "icons").mkdir()
    for side in range(4, 16):
        icon = Image.new("RGBA", (16, 16))
        icon.paste("white", (0, 0, side, side))
        icon.save(tmp_path / "icons" / f"{side}.png")
    options = ("loss=mse", "data.root=icons", "data.background=#203040", "trainer.max_epochs=1", "run_dir=run")
    assert train(*options) == 0
    assert generate("checkpoint=run", "input=icons/8.png", "side_by_side=true", "out=made") == 0
    assert pixels(Path("made/8.png"))[15, 15].tolist() == [0x20, 0x30, 0x40]
    with Image.open("icons/8.png") as image:
        beside = artart.load("run").reconstruct(image)[0]
    assert np.abs(pixels(Path("made/8.png"))[:, 16:].astype(int) - np.asarray(beside)).max() <= 1
