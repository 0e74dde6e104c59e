"""From a checkpoint to files that are shared."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

import artart.export
from artart.checkpoints.load import load
from artart.checkpoints.safetensors import to_share
from artart.checkpoints.validate import finished_epochs
from artart.io import files
from artart.io.weights import load_shared, save_shared
from artart.models.conv_diffusion import ConvDiffusionModel

SECRET = "/home/somebody/secret"
FORMATS = ("safetensors", pytest.param("onnx", marks=pytest.mark.slow))


def trained_for_long(run_dir: Path, folder: Path) -> None:
    """best.ckpt with paths wherever a user may have set one, and as if what the network is given weighed much."""
    content = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    config = content["config"]
    config["run_dir"] = f"{SECRET}/run"
    config["data"] |= {"root": f"{SECRET}/art", "metadata": f"{SECRET}/table.csv", "cache_dir": f"{SECRET}/cache"}
    if "perceptual" in config["loss"]:
        config["loss"]["perceptual"]["weights"] = f"{SECRET}/vgg.pth"
    content["metrics"]["val/odd"] = float("nan")
    for number, (name, value) in enumerate(content["state_dict"].items()):
        if "scale_shift" in name or "label" in name or "dec3.out" in name:
            value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number)))
    path = folder / "secret run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(content, path)


@pytest.fixture(scope="module")
def checkpoints(finished_run, diffusion_run, once) -> dict[str, Path]:
    runs = {"reconstruct": finished_run, "sample": diffusion_run}
    folders = {mode: once(f"to_export_{mode}", partial(trained_for_long, run)) for mode, run in runs.items()}
    return {mode: folder / "secret run" / "checkpoints" / "best.ckpt" for mode, folder in folders.items()}


class Exported(dict[tuple[str, str], Path]):
    """By mode and format; each is made when it is asked for."""

    def __init__(self, make: Callable[[str, str], Path]) -> None:
        self.make = make

    def __missing__(self, key: tuple[str, str]) -> Path:
        return self.setdefault(key, self.make(*key))


@pytest.fixture(scope="module")
def exported(checkpoints, export, once) -> Exported:
    def make(mode: str, kind: str) -> Path:
        def fill(folder: Path) -> None:
            assert export(f"checkpoint={checkpoints[mode]}", f"format={kind}", f"out={folder}/net.{kind}") == 0

        return once(f"exported_{mode}_{kind}", fill) / f"net.{kind}"

    return Exported(make)


def facts_in(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return {key: value for key, value in load_shared(path).items() if key != "state_dict"}
    (entry,) = onnx.load(path).metadata_props
    assert entry.key == "artart"
    return json.loads(entry.value)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["reconstruct", "sample"])
def test_weights_classes_and_size_survive_exactly(checkpoints, exported, mode):
    before, after = load(checkpoints[mode]), load(exported[mode, "safetensors"])
    assert_close(after.net.state_dict(), before.net.state_dict(), rtol=0, atol=0)
    assert after.label_names == before.label_names
    assert after.config["image_size"] == before.config["image_size"]
    assert after.config["trainer"] == {"precision": before.config["trainer"]["precision"]}
    del before.facts["metrics"]["val/odd"]  # NaN, which JSON has not
    assert after.facts == before.facts
    assert vars(after.objective).keys() == vars(before.objective).keys()


def test_names_are_those_of_the_bare_network_and_weights_those_of_the_average(checkpoints, exported):
    content = torch.load(checkpoints["sample"], weights_only=True)
    weights = load_shared(exported["sample", "safetensors"])["state_dict"]
    assert weights.keys() == ConvDiffusionModel(16, num_classes=5, conditioned=True).state_dict().keys()
    assert_close(weights["enc1.0.weight"], content["state_dict"]["net.enc1.0.weight"], rtol=0, atol=0)
    assert not torch.equal(weights["enc1.0.weight"], content["current_model_state"]["net.enc1.0.weight"])


@pytest.mark.parametrize("mode", ["reconstruct", "sample"])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_file_says_what_it_is(checkpoints, exported, mode, kind):
    content = torch.load(checkpoints[mode], weights_only=True)
    facts = facts_in(exported[mode, kind])
    for key in ("artart", "labels", "data", "epoch", "global_step", "images_seen"):
        assert facts[key] == content[key], key
    assert facts["metrics"] == {key: value for key, value in content["metrics"].items() if key != "val/odd"}
    config = facts["config"]
    assert config.keys() == {"image_size", "model", "objective", "loss", "data", "trainer"}
    of_data = ("resize_mode", "background", "random_flip", "val_fraction", "min_size", "exclude")
    of_data += ("labels", "class_level", "min_per_label")
    assert config["data"] == {key: content["config"]["data"][key] for key in of_data}
    for key in ("image_size", "model", "objective"):
        assert config[key] == content["config"][key], key


@pytest.mark.parametrize("mode", ["reconstruct", "sample"])
@pytest.mark.parametrize("kind", FORMATS)
def test_no_path_survives(checkpoints, exported, mode, kind):
    content = exported[mode, kind].read_bytes()
    places = [
        SECRET,
        Path.home(),
        checkpoints[mode].parents[1],
        Path(artart.__file__).parent,
        Path(torch.__file__).parent,
    ]
    assert [place for place in map(str, places) if place.encode() in content] == []
    assert b"secret" not in content
    assert b".py" not in content
    for text in texts(facts_in(exported[mode, kind])["config"]):
        assert "/" not in text


def texts(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for pair in node.items() for one in pair for text in texts(one)]
    if isinstance(node, list):
        return [text for one in node for text in texts(one)]
    return [node] if isinstance(node, str) else []


def test_a_path_in_an_unforeseen_place_goes_too(checkpoints):
    loaded = load(checkpoints["reconstruct"])
    config = loaded.config
    config["loss"]["perceptual"]["weights"] = "vgg.pth"  # in the folder of the day
    config["model"] |= {"pretrained": "C:\\weights", "more": [{"from": "~/weights", "width": 3}, "a/b"]}
    config["objective"]["~/key"] = 1
    shared = to_share(loaded)["config"]
    assert shared["loss"]["perceptual"] == {**config["loss"]["perceptual"], "weights": "auto"}
    assert "pretrained" not in shared["model"]
    assert shared["model"]["more"] == [{"width": 3}]
    assert shared["objective"] == {
        "_target_": "artart.objectives.reconstruction.Reconstruction",
        "regularizer": None,
    }
    assert config["loss"]["perceptual"]["weights"] == "vgg.pth"  # what was given is as it was


@pytest.mark.parametrize("word", ["auto", "imagenet", "random"])
def test_words_that_are_no_paths_stay(checkpoints, word):
    loaded = load(checkpoints["reconstruct"])
    loaded.config["loss"]["perceptual"]["weights"] = word
    assert to_share(loaded)["config"]["loss"] == loaded.config["loss"]


def test_an_unfinished_epoch_does_not_count(checkpoints, tmp_path):
    content = torch.load(checkpoints["reconstruct"], weights_only=True)
    before = finished_epochs(content)
    content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] = before - 1
    torch.save(content, tmp_path / "within.ckpt")
    assert finished_epochs(to_share(load(tmp_path / "within.ckpt"))) == before - 1


def made_by(generate, checkpoint: Path, *arguments: str) -> list[np.ndarray]:
    assert generate(f"checkpoint={checkpoint}", "out=made", *arguments) == 0
    images = [np.asarray(Image.open(path)) for path in sorted(Path("made").rglob("*.png"))]
    shutil.rmtree("made")
    return images


@pytest.mark.slow
def test_noise_becomes_the_same_images(generate, checkpoints, exported):
    options = ("num_images=2", "sampler.num_steps=2", "device=cpu")
    wanted = made_by(generate, checkpoints["sample"], *options)
    made = made_by(generate, exported["sample", "safetensors"], *options)
    assert len(made) == len(wanted) == 3  # with the grid
    assert all(np.array_equal(one, other) for one, other in zip(made, wanted, strict=True))


@pytest.mark.slow
def test_an_image_becomes_the_same_image(generate, checkpoints, exported, art_folder):
    options = (f"input={art_folder}", "device=cpu")
    wanted = made_by(generate, checkpoints["reconstruct"], *options)
    made = made_by(generate, exported["reconstruct", "safetensors"], *options)
    assert len(made) == len(wanted) == 13  # with the contact sheet
    assert all(np.array_equal(one, other) for one, other in zip(made, wanted, strict=True))


INPUTS = {"reconstruct": ["x"], "sample": ["x_t", "t", "y"]}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("mode", ["reconstruct", "sample"])
def test_onnx_does_what_the_network_does_with_any_batch(checkpoints, exported, mode, batch_size):
    B, C, S = batch_size, 3, 16  # noqa: N806
    net = load(checkpoints[mode]).net
    session = onnxruntime.InferenceSession(exported[mode, "onnx"])
    assert [one.name for one in session.get_inputs()] == INPUTS[mode]
    assert [(one.name, one.shape) for one in session.get_outputs()] == [("x0_hat", ["batch", C, S, S])]
    values = (torch.randn(B, C, S, S), torch.linspace(0, 1, B), torch.arange(B)[:, None] % 6)[: len(INPUTS[mode])]
    (made,) = session.run(None, {name: value.numpy() for name, value in zip(INPUTS[mode], values, strict=True)})
    with torch.inference_mode():
        wanted = net(*values)
    assert (torch.from_numpy(made) - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.slow
def test_onnx_is_reported_time_and_class(exported):
    session = onnxruntime.InferenceSession(exported["sample", "onnx"])
    x_t = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32).repeat(3, axis=0)
    t, y = np.array([0.2, 0.9, 0.2], np.float32), np.array([[0], [0], [5]])
    (made,) = session.run(None, {"x_t": x_t, "t": t, "y": y})
    assert np.abs(made[0] - made[1]).max() > 1e-3
    assert np.abs(made[0] - made[2]).max() > 1e-3


@pytest.mark.slow
def test_a_network_without_classes_is_asked_in_the_same_way_and_named_by_what_it_predicts(
    export, checkpoints, exported, tmp_path
):
    """And files that were exported can be exported."""
    content = load_shared(exported["sample", "safetensors"])
    content["config"]["objective"]["parameterization"] = "v"
    content["config"]["model"]["num_classes"] = 0
    content["labels"] = {"class": []}
    weights = {name: value for name, value in content.pop("state_dict").items() if name != "condition.label.weight"}
    save_shared(tmp_path / "bare.safetensors", weights, content)
    out = tmp_path / "bare.onnx"
    assert export(f"checkpoint={tmp_path / 'bare.safetensors'}", "format=onnx", f"out={out}") == 0
    session = onnxruntime.InferenceSession(out)
    assert [one.name for one in session.get_inputs()] == INPUTS["sample"]
    assert [one.name for one in session.get_outputs()] == ["v_hat"]
    onnx.checker.check_model(onnx.load(out), full_check=True)


@pytest.mark.slow
def test_a_model_that_differs_from_the_network_is_not_written(export, checkpoints, tmp_path, monkeypatch, capsys):
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *given: [run(*given)[0] + 2e-4])
    arguments = (f"checkpoint={checkpoints['reconstruct']}", "format=onnx", f"out={tmp_path}/new/net.onnx")
    assert export(*arguments) == 1
    assert "format=onnx: its outputs are 0.0002 from those of torch" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_only_its_own_line_is_reported(checkpoints, tmp_path):
    """In a process of its own, where every library is imported for the first time."""
    command = [sys.executable, "-m", "artart.export", f"checkpoint={checkpoints['reconstruct']}", "format=onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (written,) = (path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert written.match("outputs/exports/*/*/secret run_best.onnx")
    size = (tmp_path / written).stat().st_size / 1e6
    out = done.stdout.removeprefix("generated new fontManager\n")  # matplotlib, once for each user
    assert out.startswith(f"{written}, {size:.1f} MB; greatest difference to torch ")
    assert out.count("\n") == 1


@pytest.mark.parametrize(("mode", "rest"), [("reconstruct", "input=FILE_OR_FOLDER"), ("sample", "num_images=16")])
def test_what_to_do_next_is_reported(export, checkpoints, tmp_path, monkeypatch, capsys, mode, rest):
    monkeypatch.chdir(tmp_path)
    assert export(f"checkpoint={checkpoints[mode]}") == 0
    (written,) = Path().rglob("*.safetensors")
    assert written.match("outputs/exports/*/*/secret run_best.safetensors")
    out = capsys.readouterr().out
    assert out.startswith(f"{written}, ")
    assert f"python -m artart.generate checkpoint='{written}' {rest}" in out


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_there_is_not_replaced(export, checkpoints, tmp_path, capsys, kind):
    out = tmp_path / f"mine.{kind}"
    out.write_text("mine")
    assert export(f"checkpoint={checkpoints['sample']}", f"format={kind}", f"out={out}") == 2
    assert capsys.readouterr().err == f"out={out}: exists and is not replaced; name another\n"
    assert out.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_comes_meanwhile_is_not_replaced(export, checkpoints, tmp_path, monkeypatch, capsys, kind):
    out, fsync = tmp_path / f"net.{kind}", os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), out.write_text("theirs")))
    assert export(f"checkpoint={checkpoints['sample']}", f"format={kind}", f"out={out}") == 2
    assert capsys.readouterr().err == f"out={out}: exists and is not replaced; name another\n"
    assert out.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_two_exports_in_the_same_second_have_two_folders(export, checkpoints, tmp_path, monkeypatch):
    class Noon(files.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, 12)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "datetime", Noon)
    for _ in range(2):
        assert export(f"checkpoint={checkpoints['sample']}") == 0
    made = {str(path) for path in Path("outputs").rglob("*.safetensors")}
    folders = [f"outputs/exports/2026-01-01/{time}" for time in ("12-00-00", "12-00-00-2")]
    assert made == {f"{folder}/secret run_best.safetensors" for folder in folders}


def test_the_name_of_a_long_run_is_shortened(export, checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / ("é" * 125) / "checkpoints" / "best.ckpt"
    source.parent.mkdir(parents=True)
    shutil.copy(checkpoints["sample"], source)
    assert export(f"checkpoint={source}") == 0
    (written,) = Path("outputs").rglob("*.safetensors")
    assert written.name.startswith("éééé")
    assert written.name.endswith("_best.safetensors")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["out=net.onnx"], "net.onnx: format=safetensors needs a name that ends in .safetensors"),
        (["out=net.safetensors", "format=onnx"], "net.safetensors: format=onnx needs a name that ends in .onnx"),
        (["out=."], "format=safetensors needs a name that ends in .safetensors"),
        (["format=pickle"], "format=pickle: must be safetensors, onnx or hub"),
        (["format=null"], "format=null: must be safetensors, onnx or hub"),
        ([], "text.ckpt: holds Python objects, not plain weights, or is no weights file"),
        (["checkpoint=nowhere.ckpt"], "nowhere.ckpt: must be a file that exists"),
    ],
)
def test_mistakes_are_reported_in_a_line(export, tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    Path("text.ckpt").write_text("no checkpoint")
    assert export("checkpoint=text.ckpt", *arguments) == 2
    assert sentence in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.ckpt"]


def test_missing_packages_are_named_before_any_work(export, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    assert export(f"checkpoint={tmp_path / 'text.ckpt'}", "format=onnx", f"out={tmp_path / 'net.onnx'}") == 2
    assert capsys.readouterr().err == "format=onnx: needs onnxscript and onnxruntime: pip install 'artart[export]'\n"


class Mine(ConvDiffusionModel):
    """A network that is not artart's, and that cannot be expressed as a graph."""

    def forward(self, x, t=None, y=None):
        return super().forward(x) if x.sum() > 0 else nn.functional.relu(x)


@pytest.mark.slow
def test_a_class_of_the_users_must_be_allowed(export, checkpoints, tmp_path, monkeypatch, capsys):
    module = type(sys)("mine")
    module.Mine = Mine
    monkeypatch.setitem(sys.modules, "mine", module)
    content = torch.load(checkpoints["reconstruct"], weights_only=True)
    content["config"]["model"]["_target_"] = "mine.Mine"
    torch.save(content, tmp_path / "mine.ckpt")
    arguments = (f"checkpoint={tmp_path}/mine.ckpt", f"out={tmp_path}/mine.safetensors")
    assert export(*arguments) == 2
    assert "if you trust it: trusted_classes=[mine.Mine]" in capsys.readouterr().err
    assert export(*arguments, "trusted_classes=[mine.Mine]") == 0
    assert load_shared(tmp_path / "mine.safetensors")["config"]["model"]["_target_"] == "mine.Mine"
    capsys.readouterr()
    arguments = (
        f"checkpoint={tmp_path}/mine.ckpt",
        "format=onnx",
        f"out={tmp_path}/mine.onnx",
        "trusted_classes=[mine.Mine]",
    )
    assert export(*arguments) == 2
    captured = capsys.readouterr()
    assert "format=onnx: cannot export this network (" in captured.err
    assert (captured.err.count("\n"), captured.out) == (1, "")
    assert not (tmp_path / "mine.onnx").exists()


def test_simple_mistakes_do_not_wait_for_torch():
    script = "import sys, artart.export; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.slow
def test_settings_that_decide_pixels_and_labels_are_shared(export, finished_run, tmp_path):
    content = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)
    own = {"background": "black", "class_level": 2, "min_size": 4, "exclude": {"duplicate": False}}
    content["config"]["data"] |= own
    torch.save(content, source := tmp_path / "own.ckpt")
    assert export(f"checkpoint={source}", f"out={tmp_path / 'shared.safetensors'}") == 0
    shared = load(tmp_path / "shared.safetensors").config["data"]
    assert {key: shared[key] for key in own} == own


@pytest.mark.slow
def test_labels_of_several_columns_are_shared(export, artists_run, tmp_path):
    source, out = artists_run / "checkpoints" / "last.ckpt", tmp_path / "shared.safetensors"
    assert export(f"checkpoint={source}", f"out={out}") == 0
    before, after = load(source), load(out)
    assert list(after.label_names.items()) == list(before.label_names.items())
    assert after.config["data"]["labels"] == ["class", "artist"]
    assert after.config["model"]["num_classes"] == [3, 2]
