"""From a checkpoint and noise to images."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from artart import ArtError
from artart.diffusion.sampling import sample_steps
from artart.generation import plan
from artart.generation.labels import labels_for
from artart.io.files import sha256
from artart.io.images import to_pixels
from artart.io.provenance import provenance_of
from artart.models.vit import ViT

FAST, FIVE = "sampler.num_steps=3", "sampler.num_steps=5"
CLASSES = ["drawing", "engraving", "iconography", "painting", "sculpture"]


@pytest.fixture
def best(diffusion_run) -> Path:
    return diffusion_run / "checkpoints" / "best.ckpt"


@pytest.fixture
def changed(best, tmp_path):
    """A checkpoint like the best, but for what a function does to its content."""

    def changed(change) -> Path:
        content = torch.load(best, weights_only=True)
        change(content)
        torch.save(content, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return changed


def louder(content) -> None:
    """As if it had been trained for long: what it is given, and what it answers, is large."""
    for number, (name, value) in enumerate(content["state_dict"].items()):
        if "scale_shift" in name or "label" in name or "dec3.out" in name:
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
            value.add_(noise * (1 if "label" in name else 0.05))


def found(path: str | Path) -> Path:
    """The file of that name, or of that number and any label."""
    path = Path(path)
    return path if path.exists() else next(path.parent.glob(f"{path.stem}_*{path.suffix}"))


def tile(sheet: np.ndarray, row: int, column: int, side: int = 16) -> np.ndarray:
    """An image of that side in a contact sheet that was written with resample=nearest."""
    top, left = 2 + (98 + 15) * row, 2 + 98 * column
    return sheet[top : top + 96, left : left + 96][:: 96 // side, :: 96 // side]


def in_frame(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    """An image of 16 px in a strip or animation that was written with resample=nearest."""
    return sheet[2 + 98 * row : 98 + 98 * row, 2 + 98 * column : 98 + 98 * column][::6, ::6]


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(found(path)).convert("RGB")).astype(int)


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def packet(image: Image.Image) -> str:
    text = image.info.get("xmp") or image.text["XML:com.adobe.xmp"]
    return text if isinstance(text, str) else text.decode()


def settings(path: str | Path) -> dict[str, str]:
    """What an image says of how it was made."""
    with Image.open(found(path)) as image:
        described = re.search(r'x-default">(.*?)</rdf:li>', packet(image), re.DOTALL)[1]
    return dict(part.split("=", 1) for part in described.split("; "))


# --- images and seeds


def test_noise_becomes_images_and_a_grid_of_them(generate, best, capsys):
    assert generate(f"checkpoint={best}", "num_images=7", FAST, "resample=nearest", "out=made") == 0
    assert names("made") == [f"0000{k}_{CLASSES[k % 5]}.png" for k in range(7)] + ["grid.png"]
    grid = pixels("made/grid.png")
    assert grid.shape == (2 * 113 + 2, 5 * 98 + 2, 3)  # a column for each class, and captions
    for k in range(7):
        row, column = divmod(k, 5)
        assert (tile(grid, row, column) == pixels(f"made/0000{k}.png")).all()
        caption = grid[98 + 113 * row : 113 + 113 * row, 2 + 98 * column : 98 + 98 * column]
        assert caption.min() < 100
    assert (grid[115:, 2 * 98 + 2 :] == 255).all()
    assert "8 files in made: grid.png ..." in capsys.readouterr().out


@pytest.mark.parametrize(("num_images", "shape"), [(1, (115, 100)), (3, (228, 198)), (5, (228, 296))])
def test_a_single_class_is_a_square_grid(generate, best, num_images, shape):
    assert generate(f"checkpoint={best}", "label=painting", f"num_images={num_images}", FAST, "out=made") == 0
    assert pixels("made/grid.png").shape[:2] == shape


@pytest.mark.slow
def test_an_image_belongs_to_its_seed(generate, best):
    same = ("label=engraving", FAST)
    assert generate(f"checkpoint={best}", "num_images=4", "seed=0", "out=zero", *same) == 0
    assert generate(f"checkpoint={best}", "num_images=4", "seed=3", "out=three", *same) == 0
    assert np.abs(pixels("zero/00003.png") - pixels("three/00000.png")).max() <= 1
    assert np.abs(pixels("zero/00000.png") - pixels("three/00000.png")).max() > 10


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddpm", "unipc"])
def test_a_sampler_makes_the_same_images_in_any_batch(generate, changed, sampler):
    checkpoint = changed(louder)  # so that labels show
    for batch_size in (1, 3, 5):
        arguments = (f"sampler={sampler}", FAST, "num_images=5", f"batch_size={batch_size}", f"out={batch_size}")
        assert generate(f"checkpoint={checkpoint}", *arguments) == 0
    assert len(names("5")) == 6
    for name in names("5"):
        for other in ("1", "3"):
            assert np.abs(pixels(f"5/{name}") - pixels(f"{other}/{name}")).max() <= 1  # rounding


@pytest.mark.slow
def test_the_sampler_may_be_changed(generate, changed):
    checkpoint = changed(louder)
    samplers = {"ddim": "DDIM", "ddpm": "DDIM", "dpmpp_2m": "DPMpp2M", "heun": "Heun", "unipc": "UniPC"}
    for sampler, options in (*((name, ()) for name in samplers), ("ddim", ("sampler.eta=1",))):
        out = f"out={sampler}{len(options)}"
        assert generate(f"checkpoint={checkpoint}", f"sampler={sampler}", FIVE, "num_images=2", out, *options) == 0
    assert (pixels("ddpm0/00000.png") == pixels("ddim1/00000.png")).all()  # which differ in eta alone
    others = [pixels(f"{name}0/00000.png") for name in samplers]
    assert len({one.tobytes() for one in others}) == len(samplers)
    assert {name: settings(f"{name}0/00000.png")["sampler"] for name in samplers} == samplers


@pytest.mark.slow
def test_guidance_changes_images_within_its_interval(generate, best):
    calls = {
        "learnt": ("guidance.weight=1",),
        "more": ("guidance.weight=8",),
        "nowhere": ("guidance.weight=8", "guidance.interval=[0.45,0.55]"),
        "everywhere": ("guidance.weight=8", "guidance.interval=[0,1]"),
    }
    for out, options in calls.items():
        assert generate(f"checkpoint={best}", "num_images=2", "sampler=ddim", FAST, f"out={out}", *options) == 0
    made = {out: pixels(f"{out}/00000.png") for out in calls}
    assert (made["learnt"] == made["nowhere"]).all()  # its steps are at r = 1, 2/3 and 1/3
    assert (made["learnt"] != made["more"]).any()
    assert (made["more"] != made["everywhere"]).any()


@pytest.fixture
def guide(best, tmp_path):
    """The same network with other weights, or what a function makes of it, in a file of its own."""

    def guide(change=louder) -> Path:
        content = torch.load(best, weights_only=True)
        change(content)
        torch.save(content, tmp_path / "guide.ckpt")
        return tmp_path / "guide.ckpt"

    return guide


@pytest.mark.slow
def test_another_network_guides_also_without_labels_and_is_named_in_the_marks(generate, best, guide):
    other = guide()
    for out, options in {
        "alone": ("guidance.weight=1",),
        "itself": ("guidance.weight=3", f"guidance.network={best}"),
        "guided": ("guidance.weight=3", f"guidance.network={other}"),
    }.items():
        arguments = ("label=none", "num_images=2", "sampler=ddim", FAST, f"out={out}", *options)
        assert generate(f"checkpoint={best}", *arguments) == 0
    made = {out: pixels(f"{out}/00000.png") for out in ("alone", "itself", "guided")}
    assert np.abs(made["alone"] - made["itself"]).max() <= 1  # this one stays within what is clamped
    assert np.abs(made["alone"] - made["guided"]).max() > 5
    assert settings("guided/00000.png")["guidance_network_sha256"] == sha256(other)
    assert settings("guided/grid.png")["guidance_network_sha256"] == sha256(other)
    assert settings("guided/00000.png")["checkpoint_sha256"] == sha256(best)
    assert "guidance_network_sha256" not in settings("alone/00000.png")


def test_a_guide_without_effect_is_reported_in_one_line(generate, best, capsys):
    assert generate(f"checkpoint={best}", "guidance.weight=1", f"guidance.network={best}") == 2
    wanted = f"guidance.network={best}: has no effect with guidance.weight=1; set guidance.weight=1.5\n"
    assert capsys.readouterr().err == wanted


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(generate, best, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert generate(f"checkpoint={best}", "out=file/sub") == 2
    assert capsys.readouterr().err == f"out={tmp_path}/file/sub: cannot be written; name another folder\n"


@pytest.mark.slow
def test_a_guide_may_be_smaller_and_of_another_kind(generate, best, guide):
    def smaller(content) -> None:
        torch.manual_seed(0)
        settings = {"image_size": 16, "num_classes": 5, "patch_size": 8, "hidden_size": 24, "depth": 1, "num_heads": 1}
        net = ViT(**settings)
        torch.nn.init.normal_(net.out.weight, std=0.1)
        content["config"]["model"] = {"_target_": "artart.models.vit.ViT", **settings}
        content["state_dict"] = {f"net.{name}": value for name, value in net.state_dict().items()}

    for out, options in {"alone": (), "guided": (f"guidance.network={guide(smaller)}",)}.items():
        assert generate(f"checkpoint={best}", "num_images=1", FAST, f"out={out}", *options) == 0
    assert np.abs(pixels("alone/00000.png") - pixels("guided/00000.png")).max() > 5


def of_another_size(content) -> None:
    content["config"]["image_size"] = content["config"]["model"]["image_size"] = 24


WRONG_GUIDES = {
    "objective.parameterization=v, not x0": lambda content: content["config"]["objective"].update(parameterization="v"),
    "objective.schedule={'_target_': 'artart.diffusion.schedule.Cosine'}, not": lambda content: content["config"][
        "objective"
    ].update(schedule={"_target_": "artart.diffusion.schedule.Cosine"}),
    "image_size=24, not 16": of_another_size,
    "has other labels; name an earlier checkpoint of the same run": lambda content: content.update(
        labels={"class": list("abcde")}
    ),
    "wants to build os.system, not a class of artart": lambda content: content["config"]["loss"].update(
        mse={"_target_": "os.system"}
    ),
    "not a checkpoint of artart": lambda content: content.pop("config"),
    "weights and network do not fit": lambda content: content["state_dict"].pop("net.enc1.0.bias"),
}


@pytest.mark.parametrize(
    "sentence",
    [*list(WRONG_GUIDES)[:2], *(pytest.param(one, marks=pytest.mark.slow) for one in list(WRONG_GUIDES)[2:])],
)
def test_a_guide_that_does_not_fit_is_reported_in_one_line(generate, best, guide, capsys, sentence):
    path = guide(WRONG_GUIDES[sentence])
    assert generate(f"checkpoint={best}", f"guidance.network={path}", FAST) == 2
    assert sentence in (error := capsys.readouterr().err)
    assert str(path) in error
    assert error.count("\n") == 1
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_guide_that_reconstructs_or_is_no_file_is_reported_in_one_line(generate, best, finished_run, capsys):
    reconstructs = finished_run / "checkpoints" / "best.ckpt"
    Path("text.ckpt").write_text("no checkpoint")
    for path, sentence in {
        reconstructs: "was trained with objective.parameterization=None, not x0",
        Path("text.ckpt"): "holds Python objects, not plain weights, or is no weights file",
        Path("nowhere.ckpt"): "nowhere.ckpt: must be a file that exists",
    }.items():
        assert generate(f"checkpoint={best}", f"guidance.network={path}", FAST) == 2
        assert sentence in (error := capsys.readouterr().err)
        assert error.count("\n") == 1
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_no_file_is_overwritten(generate, best):
    Path("made").mkdir()
    Path("made/grid.png").write_text("mine")
    for _ in range(2):
        assert generate(f"checkpoint={best}", "num_images=1", FAST, "save_trajectory=true", "out=made") == 0
    assert Path("made/grid.png").read_text() == "mine"
    drawn = ["00000_drawing-2.png", "00000_drawing.png"]
    assert names("made") == [*drawn, "grid-2.png", "grid-3.png", "grid.png",
                             "trajectory-2.png", "trajectory-2.webp", "trajectory.png", "trajectory.webp"]  # fmt: skip


def test_the_same_command_makes_only_the_images_that_are_not_there(generate, best, monkeypatch, capsys):
    """Bitwise the same ones, and the grid that an uninterrupted command would have written."""
    seeds, sample = [], plan.sample_images
    monkeypatch.setattr(plan, "sample_images", lambda *of: seeds.extend(of[4]) or sample(*of))
    call = (f"checkpoint={best}", "num_images=6", "batch_size=2", "label=drawing", FAST)
    assert generate(*call, "out=whole") == 0
    shutil.copytree("whole", "made")
    for name in ("00003_drawing.png", "00005_drawing.png", "grid.png"):
        Path("made", name).unlink()
    del seeds[:]
    capsys.readouterr()
    for wanted in ([3, 5], [3, 5]):  # the second time there is nothing left to do
        assert generate(*call, "out=made") == 0
        assert seeds == wanted
        assert names("made") == names("whole")
    assert "4 of 6 images were there already" in capsys.readouterr().out
    for name in names("whole"):
        assert_close(pixels(f"made/{name}"), pixels(f"whole/{name}"), rtol=0, atol=1)


@pytest.mark.parametrize("other", ["seed=1", "guidance.weight=3", "sampler.num_steps=4", "scale=2"])
def test_images_of_other_settings_are_written_beside_those_that_are_there(generate, best, other):
    call = (f"checkpoint={best}", "num_images=1", "label=drawing", FAST, "out=made")
    assert generate(*call) == 0
    assert generate(*call, other) == 0
    assert names("made") == ["00000_drawing-2.png", "00000_drawing.png", "grid-2.png", "grid.png"]


@pytest.mark.slow
def test_the_checkpoint_alone_is_enough_to_sample(generate, best, tmp_path, monkeypatch):
    """It may have been moved; nothing is loaded for the loss, and no mode has to be named."""
    monkeypatch.setattr("artart.objectives.losses.vgg16", None)
    monkeypatch.setattr("artart.objectives.losses.vgg16_on", None)
    shutil.copy(best, tmp_path / "moved.ckpt")
    assert generate("checkpoint=moved.ckpt", "num_images=2", FAST) == 0
    assert len(list(Path("outputs/samples").rglob("*.png"))) == 3
    assert generate("checkpoint=moved.ckpt", "num_images=1", FAST, "mode=sample", "out=made") == 0


@pytest.mark.slow
def test_it_is_the_average_of_the_weights_that_draws(generate, best, changed):
    """Which lies in state_dict; what lies beside it does not matter."""
    spoiled = changed(lambda content: [value.fill_(torch.nan) for value in content["current_model_state"].values()])
    for out, checkpoint in (("one", best), ("two", spoiled)):
        assert generate(f"checkpoint={checkpoint}", "num_images=1", FAST, f"out={out}") == 0
    assert (pixels("one/00000.png") == pixels("two/00000.png")).all()


# --- labels


@pytest.mark.parametrize(
    ("label", "class_names", "labels"),
    [
        ("all", ["a", "b"], [0, 1, 0, 1, 0]),
        ("b", ["a", "b"], [1] * 5),
        ("none", ["a", "b"], [2] * 5),
        (None, ["a", "b"], [2] * 5),
        ("all", [], [0] * 5),
        ("none", [], [0] * 5),
        ("all", ["a", "all"], [1] * 5),  # a folder may be called so
        ("none", ["none", "b"], [0] * 5),
    ],
)
def test_a_label_is_a_class_all_in_turn_or_none(label, class_names, labels):
    assert list(labels_for(label, 5, {"class": class_names})) == [(one,) for one in labels]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("painting", ["painting"] * 6),
        ("all", [*CLASSES, "drawing"]),
        ("none", ["none"] * 6),
        ("null", [*CLASSES, "drawing"]),
    ],
)
def test_each_image_says_its_label_and_seed(generate, best, label, words):
    assert generate(f"checkpoint={best}", f"label={label}", "num_images=6", "seed=5", FAST, "out=made") == 0
    message = [settings(f"made/0000{k}.png") for k in range(6)]
    assert [one["label"] for one in message] == words
    assert [one["seed"] for one in message] == [str(5 + k) for k in range(6)]


@pytest.mark.slow
def test_a_label_reaches_the_network(generate, changed):
    checkpoint = changed(louder)
    for label in ("drawing", "painting", "none"):
        assert generate(f"checkpoint={checkpoint}", f"label={label}", "num_images=1", FAST, "out=made") == 0
    assert generate(f"checkpoint={checkpoint}", "label=all", "num_images=5", "out=all", FAST) == 0
    one, two, three = (pixels(f"made/{name}.png") for name in ("00000_drawing", "00000_painting", "00000"))
    assert np.abs(one - pixels("all/00000.png")).max() <= 1
    assert min(np.abs(one - two).max(), np.abs(two - three).max(), np.abs(one - three).max()) > 5


ODD = ["art déco, 1920", "1900", "true", "it's (new)", "日本 = 画"]


@pytest.mark.parametrize("name", [ODD[0], *(pytest.param(name, marks=pytest.mark.slow) for name in ODD[1:])])
def test_a_class_is_named_as_its_folder(generate, changed, name):
    checkpoint = changed(lambda content: content.update(labels={"class": ODD}))
    assert generate(f"checkpoint={checkpoint}", f"label={name}", "num_images=1", FAST, "out=made") == 0
    assert settings("made/00000.png")["label"] == name.replace("&", "&amp;")


@pytest.mark.slow
def test_folders_with_odd_names_become_classes_that_can_be_asked_for(train, generate, art_folder):
    for old, new in zip(sorted(art_folder.iterdir()), ("art déco, 1920", "1900", "true"), strict=True):
        old.rename(art_folder / new)
    small = ("objective=diffusion", "loss=mse_diffusion", "callbacks.grid=null", "trainer.max_epochs=1", "run_dir=run")
    assert train(*small, f"data.root={art_folder}") == 0
    content = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert content["config"]["model"]["num_classes"] == 3
    for name in content["labels"]["class"]:
        arguments = ("checkpoint=run/checkpoints/last.ckpt", f"label={name}", "num_images=1", FAST, f"out={name} made")
        assert generate(*arguments) == 0
        assert settings(f"{name} made/00000.png")["label"] == name


def without_classes(content) -> None:
    """As if it had been trained on a folder without sub-folders."""
    content["config"]["model"]["num_classes"] = 0
    content["labels"] = {"class": []}
    content["state_dict"] = {
        name: value for name, value in content["state_dict"].items() if "condition.label" not in name
    }


@pytest.mark.parametrize("label", ["all", "none"])
def test_without_classes_images_are_of_none(generate, changed, label):
    assert generate(f"checkpoint={changed(without_classes)}", f"label={label}", "num_images=2", FAST, "out=made") == 0
    assert settings("made/00001.png")["label"] == "none"


# --- trajectories


def test_a_trajectory_shows_every_step_and_ends_with_the_grid(generate, best):
    arguments = ("num_images=7", "sampler=ddim", "sampler.num_steps=6", "save_trajectory=true", "out=made")
    assert generate(f"checkpoint={best}", "resample=nearest", *arguments) == 0
    with Image.open("made/trajectory.webp") as trajectory:
        assert trajectory.n_frames == 6
        frames = []
        for k in range(6):
            trajectory.seek(k)
            frames.append(np.asarray(trajectory.convert("RGB")).astype(int))
    images = np.stack([pixels(f"made/0000{k}.png") for k in range(7)])
    shown = [np.stack([in_frame(frame, *divmod(k, 5)) for k in range(7)]) for frame in frames]
    assert (shown[-1] == images).all()
    distances = [np.abs(frame - images).mean() for frame in shown]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 5
    strip = pixels("made/trajectory.png")
    assert strip.shape == (7 * 98 + 2, 8 * 98 + 2, 3)  # a row for each image, eight moments
    for k in range(7):
        assert (in_frame(strip, k, 7) == images[k]).all()
        assert (in_frame(strip, k, 0) == shown[0][k]).all()


@pytest.mark.slow
def test_a_trajectory_is_the_same_in_any_batch(generate, best):
    for batch_size in (2, 5):
        arguments = ("num_images=5", f"batch_size={batch_size}", FAST, "save_trajectory=true", f"out={batch_size}")
        assert generate(f"checkpoint={best}", *arguments) == 0
    for name in ("trajectory.png", "grid.png"):
        assert np.abs(pixels(f"2/{name}") - pixels(f"5/{name}")).max() <= 1


@pytest.mark.slow
def test_a_trajectory_has_no_more_than_16_images_and_a_grid_no_more_than_256(generate, best, monkeypatch):
    monkeypatch.setattr("artart.io.contact_sheet.MAX_IN_SHEET", 18)
    arguments = (
        "num_images=20",
        "batch_size=17",
        "sampler.num_steps=1",
        "label=none",
        "save_trajectory=true",
        "out=made",
    )
    assert generate(f"checkpoint={best}", *arguments) == 0
    assert pixels("made/trajectory.png").shape == (16 * 98 + 2, 8 * 98 + 2, 3)
    grid = pixels("made/grid.png")
    assert grid.shape == (4 * 113 + 2, 5 * 98 + 2, 3)
    assert (grid[3 * 113 + 2 :, 3 * 98 + 2 :] == 255).all()  # 18 images, in rows of five
    assert (grid[3 * 113 + 2 :, : 3 * 98] != 255).any()
    assert len(names("made")) == 20 + 3


# --- provenance


def test_every_file_says_that_a_network_made_it_and_how(generate, best):
    arguments = (
        "num_images=2",
        "seed=9",
        "guidance.weight=2.5",
        "sampler=dpmpp_2m",
        FAST,
        "save_trajectory=true",
        "label=all",
        "out=made",
    )
    assert generate(f"checkpoint={best}", *arguments) == 0
    shared = {
        "mode": "sample",
        "checkpoint": "best.ckpt",
        "checkpoint_sha256": sha256(best),
        "sampler": "DPMpp2M",
        "num_steps": "3",
        "spacing": "r",
        "guidance": "2.5",
        "guidance_interval": "0.1-0.9",
    }
    for name, own in {
        "00000.png": {"seed": "9", "label": "drawing"},
        "00001.png": {"seed": "10", "label": "engraving"},
        "grid.png": {"seed": "9", "label": "all"},
        "trajectory.png": {"seed": "9", "label": "all"},
        "trajectory.webp": {"seed": "9", "label": "all"},
    }.items():
        with Image.open(found(Path("made", name))) as image:
            image.load()
            assert provenance_of(image).source == "trainedAlgorithmicMedia"
        message = settings(Path("made", name))
        assert (shared | own).items() <= message.items()


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["label=paintings"], "label=paintings: no such class; did you mean painting?"),
        (["label=xyz"], "label=xyz: no such class; choose all, none, drawing, engraving, iconography, painting or"),
    ],
)
def test_mistakes_are_reported_in_a_line_and_nothing_is_written(generate, best, capsys, arguments, sentence):
    assert generate(f"checkpoint={best}", *arguments) == 2
    assert sentence in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert not Path("outputs").exists()


def test_a_label_where_there_are_no_classes_is_reported_in_one_line(generate, changed, capsys):
    assert generate(f"checkpoint={changed(without_classes)}", "label=painting") == 2
    assert capsys.readouterr().err == "label=painting: no such class; choose all or none\n"
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_weights_that_are_no_numbers_are_reported_in_one_line(generate, changed, capsys):
    checkpoint = changed(lambda content: content["state_dict"]["net.enc2.0.weight"].fill_(torch.nan))
    assert generate(f"checkpoint={checkpoint}", FAST, "out=made") == 1
    error = capsys.readouterr().err
    assert f"{checkpoint}: its outputs are not finite; take an earlier checkpoint\n" in error
    assert error.count("\n") == 1
    assert not Path("made").exists()


@pytest.mark.parametrize("place", ["schedule", "noise_levels"])
@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "artart.diffusion.schedule.math.sqrt",
                "artart.diffusion.schedule.per_image",
                "pathlib.Path",
            )
        ),
    ],
)
def test_a_checkpoint_builds_only_our_schedules_and_draws(generate, changed, capsys, place, target):
    checkpoint = changed(lambda content: content["config"]["objective"].update({place: {"_target_": target}}))
    assert generate(f"checkpoint={checkpoint}", "out=made") == 2
    assert f"wants to build {target}, not a class of artart" in capsys.readouterr().err
    assert not Path("made").exists()


@pytest.mark.parametrize(
    "name", ["Cosine", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Flow", "Linear"))]
)
def test_the_schedule_of_the_checkpoint_is_the_one_that_is_used(generate, changed, name):
    target = f"artart.diffusion.schedule.{name}"
    checkpoint = changed(lambda content: content["config"]["objective"].update(schedule={"_target_": target}))
    assert generate(f"checkpoint={checkpoint}", "num_images=1", FAST, "out=made") == 0
    from artart.checkpoints.load import load
    from artart.diffusion.guidance import Guidance
    from artart.diffusion.samplers import UniPC

    loaded = load(checkpoint)
    assert type(loaded.objective.schedule).__name__ == name
    with torch.inference_mode():
        steps = list(sample_steps(loaded.net, loaded.objective, UniPC(3), torch.tensor([0]), [0], Guidance()))
    wanted = to_pixels(steps[-1].x_t[0]).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(pixels("made/00000.png") - wanted).max() <= 1


# --- labels of several columns

ARTISTS = {"class": ["drawing", "print", "both"], "artist": ["Ada", "Bo", "both", "none"]}


@pytest.mark.parametrize(
    ("label", "labels"),
    [
        ("print", [(1, 4)] * 4),
        ("Bo", [(3, 1)] * 4),
        ("none", [(3, 3)] * 4),  # an artist is called so
        (None, [(3, 4)] * 4),
        ("all", [(0, 4), (1, 4), (2, 4), (0, 4)]),
        ({"class": "print", "artist": "Bo"}, [(1, 1)] * 4),
        ({"artist": "both"}, [(3, 2)] * 4),
        ({"artist": "Bo", "class": "all"}, [(0, 1), (1, 1), (2, 1), (0, 1)]),
        ({"class": None, "artist": "none"}, [(3, 3)] * 4),
        ({}, [(3, 4)] * 4),
    ],
)
def test_labels_of_several_columns(label, labels):
    assert list(labels_for(label, 4, ARTISTS)) == labels


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("both", "label=both: is in class and artist; name the column: label={class: ...}"),
        ("drawin", "label=drawin: no such class or artist; did you mean drawing?"),
        ("Adda", "label=Adda: no such class or artist; did you mean Ada?"),
        ({"class": "Ada"}, "label.class=Ada: no such class; choose all, none, drawing, print or both"),
        ({"artst": "Ada"}, "label.artst=Ada: no such column; did you mean artist?"),
        ({"year": 1900}, "label.year=1900: no such column; choose class or artist"),
    ],
)
def test_labels_that_are_not_known_are_reported(label, message):
    with pytest.raises(ArtError) as error:
        labels_for(label, 4, ARTISTS)
    assert str(error.value) == message


def of_two_columns(content) -> None:
    """As if it had been trained on classes and artists; its table has six rows either way."""
    louder(content)
    content["config"]["model"]["num_classes"] = [2, 2]
    content["labels"] = {"class": ["oil", "ink"], "artist": ["Hélène, O'Hara", "Bo"]}


@pytest.mark.slow
def test_another_artist_makes_another_image_and_the_same_one_the_same(generate, changed):
    checkpoint = changed(of_two_columns)
    asked = {
        "helene": '{class: ink, artist: "Hélène, O\'Hara"}',
        "again": "{artist: 'Hélène, O\\'Hara', class: ink}",
        "bo": "{class: ink, artist: Bo}",
        "oil": "{class: oil, artist: Bo}",
        "alone": "Bo",
        "in_braces": "{artist: Bo}",
    }
    for out, label in asked.items():
        assert generate(f"checkpoint={checkpoint}", f"label={label}", "num_images=1", FAST, f"out={out}") == 0
    made = {out: pixels(f"{out}/00000.png") for out in asked}
    for one, same in (("helene", "again"), ("alone", "in_braces")):
        assert np.array_equal(made[one], made[same])
    different = ("helene", "bo", "oil", "alone")
    assert min(np.abs(made[a] - made[b]).max() for a, b in itertools.combinations(different, 2)) > 5
    assert settings("again/00000.png")["label"] == "class: ink, artist: Hélène, O'Hara"
    assert settings("alone/00000.png")["label"] == "class: none, artist: Bo"


def test_all_are_those_of_the_first_column(generate, changed):
    assert generate(f"checkpoint={changed(of_two_columns)}", "num_images=3", FAST, "out=made") == 0
    message = [settings(f"made/0000{k}.png")["label"] for k in range(3)]
    assert message == ["class: oil, artist: none", "class: ink, artist: none", "class: oil, artist: none"]


def test_braces_that_cannot_be_read_are_reported_with_the_remedy(generate, best, capsys):
    assert generate(f"checkpoint={best}", "label={artist: Hélène}", "out=made") == 2
    message = "label={artist: Hélène}: cannot be read as key=value; put names into quotes: "
    assert capsys.readouterr().err.startswith(message)
