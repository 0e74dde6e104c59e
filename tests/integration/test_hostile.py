"""Files made to do harm: nothing in them runs, each is a sentence, nothing is written.

All commands read a checkpoint by `checkpoints.load.read`, most of them by `load`, so most tests call these; one test
sees that each command does.
"""

import json
import os
import pickle
import pickletools
import random
import shutil
import struct
import sys
import time
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from artart import ArtError
from artart.checkpoints.load import load, load_first_stage, read
from artart.config.cli import compose_config
from artart.data.decode import MAX_PIXELS
from artart.evaluation.held_out import held_out_data
from artart.inspect import describe, run
from artart.io import weights as weights_files
from artart.io.weights import save_shared
from artart.models.autoencoder import Autoencoder
from artart.training import finetune, stages
from artart.training.callbacks.checkpoints import EpochCheckpoint
from artart.training.resume import load_resume_state
from benchmarks import mutations

Content = dict[str, Any]
COMMANDS = ("generate", "evaluate", "export", "train", "inspect")
MEMORY = 400 * 2**20  # bytes that a reader may take beyond what the process has
SECONDS = 20  # of the processor
HARM = "harm"  # a folder in the test's own that a payload would make
BOMB = {"_target_": "os.mkdir", "_args_": [HARM]}


class Call:
    """Unpickling this calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def peak() -> int:
    """Bytes of its own that the process held at most since its last `forget_peak`.

    Pages of files, such as torch's library, do not count: where memory is scarce they come and go.
    """
    status = Path("/proc/self/status").read_text()
    most, of_files = (int(status.partition(f"{name}:")[2].split()[0]) for name in ("VmHWM", "RssFile"))
    return 1024 * (most - of_files)


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def whole(run_dir: Path) -> Content:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


def light(run_dir: Path) -> Content:
    """A checkpoint without the many numbers by which Adam goes on, so that a test takes milliseconds."""
    content = whole(run_dir)
    content["optimizer_states"][0]["state"] = {}
    if "current_model_state" in content:
        content["current_model_state"] = {}
    return content


@pytest.fixture
def content(finished_run: Path) -> Content:
    return light(finished_run)


@pytest.fixture
def of_diffusion(diffusion_run: Path) -> Content:
    return light(diffusion_run)


@pytest.fixture
def of_latents(latent_run: Path) -> Content:
    return light(latent_run)


@pytest.fixture(scope="module")
def known(finished_run: Path) -> Content:
    return read(finished_run / "checkpoints" / "last.ckpt")


@pytest.fixture
def readers(known: Content) -> dict[str, Callable[[Path], object]]:
    """What commands do with a file before they work: generate and export load it, evaluate makes its data of it."""
    return {
        "load": load,
        "evaluate": lambda path: held_out_data(load(path)),
        "resume": lambda path: load_resume_state(path, known["config"], known["labels"]),
        "inspect": describe,
        "first_stage": lambda path: load_first_stage(path, 16),
        "init_from": initialise,
    }


@cache
def latent_settings() -> DictConfig:
    return compose_config("train", ["experiment=latent", "first_stage=null", "image_size=16"])


def initialise(path: Path) -> None:
    """What artart.train does with a file that init_from= names."""
    cfg = latent_settings().copy()
    cfg.init_from = str(path)
    finetune.adopt_config(cfg, [])
    stages.first_stage_for(cfg, [])


@pytest.fixture
def refused(readers, tmp_path, monkeypatch) -> Callable[..., None]:
    """A file is refused by `load` or the readers named: a line that names it, no harm, no file, little memory, soon."""
    monkeypatch.chdir(tmp_path)  # where harm would be done

    def refused(path: Path, *names: str, saying: str = "") -> None:
        before = sorted(tmp_path.rglob("*"))
        for name in names or ("load",):
            forget_peak()
            memory, began = peak(), time.process_time()
            with pytest.raises(ArtError) as error:
                readers[name](path)
            message = str(error.value)
            assert "\n" not in message, name
            assert str(path) in message, name
            assert "\x1b" not in message, name
            assert saying in message, name
            assert time.process_time() - began < SECONDS, name
            assert peak() - memory < MEMORY, name
            assert sorted(tmp_path.rglob("*")) == before, name

    return refused


@pytest.fixture
def commands(train, generate, evaluate, export, monkeypatch) -> dict[str, Callable[[Path], int]]:
    def look_inside(path: Path) -> int:
        monkeypatch.setattr(sys, "argv", ["artart.inspect", str(path)])
        try:
            run()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return {
        "generate": lambda path: generate(f"checkpoint={path}", "out=out", "num_images=1", "sampler.num_steps=1"),
        "evaluate": lambda path: evaluate(f"checkpoint={path}"),
        "export": lambda path: export(f"checkpoint={path}", "out=out.safetensors"),
        "train": lambda path: train(f"resume={path}", "run_dir=run", "trainer.max_epochs=9"),
        "inspect": look_inside,
    }


@pytest.fixture
def save(tmp_path) -> Callable[[object], Path]:
    def save(content: object) -> Path:
        torch.save(content, tmp_path / "hostile.ckpt")
        return tmp_path / "hostile.ckpt"

    return save


def put(content: Content, place: str, value: object) -> None:
    *path, last = place.split("/")
    for name in path:
        content = content[int(name) if name.isdigit() else name]
    content[int(last) if last.isdigit() else last] = value


# --- commands


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_refuses_a_hostile_file_in_a_line(content, commands, save, tmp_path, capsys, name):
    put(content, "state_dict/bomb", Call(os.mkdir, HARM))
    path = save(content)
    assert commands[name](path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert str(path) in error
    assert "holds Python objects" in error
    assert list(tmp_path.iterdir()) == [path]


# --- pickles


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "place", ["state_dict/bomb", "config", "callbacks/bomb", "loops/fit_loop/bomb", "optimizer_states", "bomb"]
)
def test_a_pickle_bomb_is_refused_wherever_it_lies(content, refused, tmp_path, place, new_format):
    put(content, place, Call(os.mkdir, HARM))
    torch.save(content, path := tmp_path / "hostile.ckpt", _use_new_zipfile_serialization=new_format)
    refused(path, saying="holds Python objects")


def test_a_bare_pickle_is_refused(refused, tmp_path):
    for protocol in (0, 2, 4):
        (path := tmp_path / "hostile.ckpt").write_bytes(pickle.dumps(Call(os.mkdir, HARM), protocol))
        refused(path)
        assert pickle.loads(path.read_bytes()) is None  # it was a live one
        (tmp_path / HARM).rmdir()


WIDE = torch.ones(1)
ODD = {
    "memory from a view": lambda: Call(
        torch._utils._rebuild_device_tensor_from_cpu_tensor, WIDE.expand(4 * 10**8), torch.float64, "cpu", False
    ),
    "bytes": lambda: Call(bytearray, 10**9),
    "a tensor by its size": lambda: Call(torch.Tensor, 10**5, 10**5),
    "meta": lambda: torch.ones(64, device="meta"),
    "sparse": lambda: torch.eye(64).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8),
    "an enormous view": lambda: WIDE.expand(10**15),
    "complex": lambda: torch.ones(64, dtype=torch.complex64),
}


@pytest.mark.filterwarnings("ignore:torch.quantize")
@pytest.mark.parametrize("name", ODD)
def test_odd_tensors_are_refused(content, refused, save, name):
    put(content, "state_dict/net.enc1.0.bias", ODD[name]())
    refused(save(content))


@pytest.mark.slow
def test_weights_of_an_absurd_shape_that_the_settings_ask_for_are_refused(of_diffusion, refused, save):
    of_diffusion["config"]["model"]["num_classes"] = 10**9
    put(of_diffusion, "state_dict/net.condition.label.weight", WIDE.expand(10**9 + 1, 256))
    refused(save(of_diffusion))


@pytest.mark.slow
def test_a_weight_for_each_of_many_classes_is_held_or_refused(of_diffusion, refused, save):
    """Also where the names of the classes are as many."""
    num = 90_000
    of_diffusion["config"]["model"]["num_classes"] = num
    of_diffusion["labels"] = {"class": [str(k) for k in range(num)]}
    put(of_diffusion, "state_dict/net.condition.label.weight", WIDE.expand(num + 1, 256))
    refused(save(of_diffusion), saying="more numbers than the file holds")


def of_view(function: Callable[..., Any], *shape: int) -> Call:
    """A call with a tensor of any size on a number, which it would take apart."""
    return Call(function, WIDE.expand(*shape))


@pytest.mark.parametrize("function", [Counter, OrderedDict], ids=lambda function: function.__name__)
def test_views_are_not_taken_apart(content, refused, save, function):
    put(content, "state_dict/net.enc1.0.bias", of_view(function, 2 * 10**6, *[2] * (function is OrderedDict)))
    refused(save(content), saying="holds Python objects")


def test_a_view_as_the_state_of_a_dict_is_not_taken_apart(content, refused, save):
    class Odd(OrderedDict[str, int]):
        def __reduce__(self) -> tuple[Any, ...]:
            return OrderedDict, (), WIDE.expand(2 * 10**6, 2)

    put(content, "state_dict/net.enc1.0.bias", Odd())
    refused(save(content), saying="holds Python objects")


def old_format(path: Path, content: object) -> tuple[bytes, bytes]:
    """A file of torch's old format: what is before the names of the storages, and the rest."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    with path.open("rb") as file:
        for _ in range(4):
            list(pickletools.genops(file))
        before = file.tell()
    return path.read_bytes()[:before], path.read_bytes()[before:]


def test_a_tensor_whose_numbers_the_old_format_leaves_out_is_refused(content, refused, tmp_path):
    path = tmp_path / "hostile.ckpt"
    put(content, "state_dict/net.enc1.0.bias", torch.ones(10**6))
    path.write_bytes(old_format(path, content)[0] + pickle.dumps([], 2))
    refused(path, saying="more numbers than the file holds")


def test_nothing_is_called_for_the_names_of_storages(content, refused, tmp_path):
    path = tmp_path / "hostile.ckpt"
    path.write_bytes(old_format(path, content)[0] + pickle.dumps(Call(bytearray, "a" * 100, "utf-32"), 2))
    refused(path, saying="holds Python objects")


# --- objects that answer for themselves


class Answering(OrderedDict[str, Any]):
    """Is read as an OrderedDict with attributes that calls on it find before its class's own methods."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return OrderedDict, (), vars(self), None, iter(dict.items(self))


def answering(node: Content, **attributes: object) -> Answering:
    disguised = Answering(node)
    disguised.__dict__.update(attributes)
    return disguised


@pytest.mark.parametrize("method", ["items", "values", "get", "keys", "__iter__"])
@pytest.mark.parametrize("place", ["model", "objective", "loss", "data"])
def test_a_dict_that_hides_what_it_holds_hides_nothing(of_diffusion, refused, save, tmp_path, place, method):
    node = of_diffusion["config"][place]
    of_diffusion["config"][place] = answering({**node, "deep": BOMB}, **{method: OrderedDict})
    path = save(of_diffusion)
    read = torch.load(path, weights_only=True)["config"][place]
    assert vars(read) == {method: OrderedDict}  # the disguise is live
    refused(path, "load", saying="wants to build os.mkdir")


def test_what_is_read_is_of_exact_types(of_diffusion, save):
    of_diffusion["config"] = answering(of_diffusion["config"], values=OrderedDict)
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.register_hook(print)
    content = weights_files.load(save(of_diffusion | {"more": [parameter, (1, None), 2.5, True, Counter("aab")]}))
    assert type(content["config"]) is dict
    assert vars(torch.load(tmp := save(of_diffusion), weights_only=True)["config"])
    assert not hasattr(weights_files.load(tmp)["state_dict"], "_metadata")
    more = content["more"]
    assert [type(one) for one in more] == [torch.Tensor, tuple, float, bool, dict]
    assert not more[0].requires_grad
    assert more[1:] == [(1, None), 2.5, True, {"a": 2, "b": 1}]


def test_a_single_name_that_is_allowed_is_no_pattern(of_diffusion, save):
    """Every text is `in` a longer one."""
    of_diffusion["config"]["objective"]["deep"] = {**BOMB, "_target_": "os.system"}
    with pytest.raises(ArtError, match=r"wants to build os\.system"):
        load(save(of_diffusion), trusted_classes="posixpath.os.system_and_more")


@pytest.mark.slow
@pytest.mark.parametrize(
    "word", ["${oc.env:HOME}", "${oc.create:'{_target_: os.mkdir}'}", {"_partial_": True}, {"_args_": [HARM]}]
)
def test_settings_that_a_run_takes_over_say_nothing_to_hydra(of_diffusion, train, save, capsys, tmp_path, word):
    of_diffusion["config"]["objective"]["schedule"] |= word if isinstance(word, dict) else {"name": word}
    path = save(of_diffusion)
    assert train("objective=diffusion", "loss=mse_diffusion", "run_dir=run", f"init_from={path}") == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), "which no checkpoint of artart does" in error) == (1, True), error
    assert list(tmp_path.iterdir()) == [path]


# --- settings

TARGETS = [
    "os.mkdir",
    "os.system",
    "builtins.exec",
    "hydra.utils.get_method",
    "hydra.utils.instantiate",
    "artart.models.conv_diffusion.torch.hub.load",
    "artart.data.datamodule.Path",
    "artart.diffusion.schedule.ABC",
]
PLACES = ["model", "objective", "loss", "loss/mse", "objective/noise_levels", "objective/schedule", "objective/deep"]


def test_the_bombs_of_settings_are_live_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    instantiate({"deep": BOMB})
    assert (tmp_path / HARM).is_dir()


@pytest.mark.parametrize(
    ("place", "target"), [(place, "os.mkdir") for place in PLACES] + [("objective/deep", target) for target in TARGETS]
)
def test_nothing_is_built_but_classes_of_ours(of_diffusion, refused, save, target, place):
    put(of_diffusion["config"], place, {"image_size": 16, **BOMB, "_target_": target})
    refused(save(of_diffusion), "load", saying=f"wants to build {target}")


NETWORK = {"_target_": "artart.models.vit.ViT", "image_size": 16, "hidden_size": 4096, "depth": 24, "num_heads": 8}


@pytest.mark.parametrize("place", ["loss/mse", "objective", "objective/noise_levels", "objective/augment"])
def test_no_network_is_built_but_that_of_the_weights(of_diffusion, refused, save, place):
    put(of_diffusion["config"], place, NETWORK)
    refused(save(of_diffusion), "load", saying="wants to build artart.models.vit.ViT")


@pytest.mark.parametrize(
    "place",
    [
        "model/dropout",
        *(pytest.param(f"objective/{key}", marks=pytest.mark.slow) for key in ("schedule", "parameterization")),
    ],
)
def test_no_run_takes_over_a_network_but_that_of_the_weights(of_diffusion, train, save, capsys, tmp_path, place):
    put(of_diffusion["config"], place, NETWORK)
    path = save(of_diffusion)
    forget_peak()
    memory = peak()
    assert train("objective=diffusion", "loss=mse_diffusion", "run_dir=run", f"init_from={path}") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert peak() - memory < MEMORY
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("more", [{"_partial_": True}, {"_recursive_": False}, {"_convert_": "none"}])
def test_hydras_own_words_open_no_door(of_diffusion, refused, save, more):
    of_diffusion["config"]["objective"]["schedule"] = {**BOMB, **more}
    refused(save(of_diffusion), "load", saying="wants to build os.mkdir")


def test_looking_inside_runs_nothing_and_says_what_it_wants(content, commands, save, tmp_path, capsys):
    content["config"]["model"] = {"image_size": 16, **BOMB}
    path = save(content)
    assert commands["inspect"](path) == 0
    assert "os.mkdir" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["root", "_target_", "deep"])
def test_no_class_is_built_for_the_data(content, refused, save, place):
    content["config"]["data"][place] = "os.mkdir" if place == "_target_" else BOMB
    refused(save(content), "load", saying="wants to build os.mkdir")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache_dir", {"a": 1}),
        ("cache_dir", 3),
        ("root", 3),
        ("root", ["a"]),
        ("root", {"_target_": "artart.objectives.losses.MSE"}),
        ("metadata", {}),
        ("exclude", 3),
        ("resize_mode", "fill"),
        ("val_fraction", "half"),
        ("val_fraction", 7),
        ("min_size", -1),
        ("num_workers", 1.5),
        ("image_size", "16"),
        ("seed", -1),
    ],
)
def test_settings_of_the_data_of_a_wrong_kind_are_refused(content, refused, save, name, value):
    content["config"]["data"][name] = value
    refused(save(content), "evaluate", saying=f"data.{name}")


@pytest.mark.parametrize("place", [{"root": "/proc"}, {"root": "/proc", "metadata": "/etc/passwd"}])
def test_a_place_that_only_the_file_names_is_not_read(content, refused, save, place):
    content["config"]["data"].update(place)
    refused(
        save(content), "evaluate", saying="and it does not lie in the folder of a run that does; if that is what it"
    )


def test_a_place_that_the_run_names_too_is_read_and_limits_are_ours(content, art_folder, tmp_path):
    content["config"]["data"].update(root=str(art_folder), max_pixels=10**12)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / ".hydra").mkdir()
    torch.save(content, path := tmp_path / "run" / "checkpoints" / "last.ckpt")
    others = "image_size: 16\nrun_dir: null\nseed: 0\n"
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text(f"data: {{root: '{art_folder}'}}\n{others}")
    data = held_out_data(load(path))
    assert data.folder.root == art_folder
    assert data.max_pixels == MAX_PIXELS
    named = f"data: {{root: '{art_folder}', max_pixels: {10**12}}}\n"
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text(named + others)
    assert held_out_data(load(path)).max_pixels == 10**12
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("data: {root: /home}\n" + others)
    with pytest.raises(ArtError, match=f"if that is what it was trained with: data.root={art_folder}"):
        held_out_data(load(path))
    assert held_out_data(load(path), root=str(art_folder)).folder.root == art_folder


def test_more_demo_art_than_memory_holds_is_refused(content, refused, save):
    content["config"]["data"]["num_demo_images"] = 10**8
    refused(save(content), "evaluate", saying="its 100000000 images of demo art are more than memory holds")


def test_a_place_of_the_data_that_can_be_no_name_is_not_here(content, refused, save):
    content["config"]["data"]["root"] = "\x1b[2J" * 300
    refused(save(content), "evaluate", saying="is not here")


def test_a_key_that_the_data_does_not_have_is_refused_where_data_is_made(content, refused, save):
    content["config"]["data"]["_args_"] = [HARM]
    refused(save(content), "evaluate", saying="its settings of data are not artart's")


@pytest.mark.parametrize("size", [10**9, 10**30, 0, -8, 16.0, True, "16", None, [16], float("nan")])
def test_an_absurd_image_size_is_refused(content, refused, save, size):
    content["config"]["image_size"] = content["config"]["model"]["image_size"] = size
    refused(save(content), "load", "resume")


@pytest.mark.parametrize("num", [10**12, 10**18, 10**30, -1, 5.5, "5", [5], 4])
def test_an_absurd_number_of_classes_is_refused(of_diffusion, refused, save, num):
    of_diffusion["config"]["model"]["num_classes"] = num
    refused(save(of_diffusion), "load", "resume")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([str(k) for k in range(200_000)], marks=pytest.mark.slow),
        ["a"] * 5,
        list("abcd"),
        list("abcdef"),
        [1, 2, 3, 4, 5],
        [["a"], "b", "c", "d", "e"],
        "abcde",
        None,
    ],
    ids=["too many", "the same", "one too few", "one too many", "numbers", "lists", "a text", "none"],
)
def test_absurd_names_of_classes_are_refused(of_diffusion, refused, save, names):
    of_diffusion["labels"] = {"class": names}
    refused(save(of_diffusion), "load", "resume")


@pytest.mark.parametrize(
    ("labels", "num_classes"),
    [
        ({}, []),
        ({}, 0),
        (list("abcde"), 5),
        ({"class": list("ab"), "artist": list("xy")}, 4),
        ({"class": list("ab"), "artist": list("xy")}, [2, 3]),
        ({"class": list("ab"), "artist": list("xy")}, [3, 1]),
        ({"class": list("ab"), "artist": list("xy")}, [2, 2, 0]),
        ({"class": list("ab"), "artist": list("xx")}, [2, 2]),
        ({"class": list("ab"), "artist": {"x": 0, "y": 1}}, [2, 2]),
        ({"class": list("ab"), "artist": "xy"}, [2, 2]),
        ({"class": list("ab"), "artist": ["x", 1]}, [2, 2]),
        ({"class": list("ab"), "\x1b[2J": list("xy")}, [2, 2]),
        ({"class": list("ab"), 7: list("xy")}, [2, 2]),
        ({"class": list("ab"), "artist": None}, [2, 2]),
    ],
)
def test_absurd_labels_of_columns_are_refused(of_diffusion, refused, save, labels, num_classes):
    of_diffusion["labels"] = labels
    of_diffusion["config"]["model"]["num_classes"] = num_classes
    refused(save(of_diffusion), "load", "inspect", saying="not a checkpoint of artart")


def test_names_of_labels_and_columns_move_no_cursor(of_diffusion, refused, save, tmp_path):
    of_diffusion["labels"] = {"class": ["\x1b[2Ja", *"bcde"]}
    refused(save(of_diffusion), "resume")
    of_diffusion["config"]["model"]["num_classes"] = [2, 2]
    of_diffusion["labels"] = {"class": ["\x1b[2Ja", "b"], "artist": list("xy")}
    refused(save(of_diffusion), "resume")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model", {"_target_": "artart.diffusion.noise_levels.LogitNormal", "image_size": 16}),  # ours, and no network
        ("model/_partial_", True),
        ("model/channels", 1),
        ("model/channels", 10**12),
        ("model/attention", "yes"),
        ("objective/_partial_", True),
        ("objective", {"_target_": "artart.objectives.losses.WeightedSum", "weights": {"loss": 1.0}}),
        ("objective/schedule", {"_target_": "artart.objectives.losses.MSE"}),
        ("objective/schedule", "flow"),
        ("objective/noise_levels", 3),
        ("objective/parameterization", "nothing"),
        ("objective/unknown", 3),
        ("loss", {"_target_": "artart.objectives.losses.MSE"}),
        ("loss/weights", {"mse": "heavy"}),
        ("loss/mse", "???"),
    ],
)
def test_classes_of_ours_in_a_wrong_place_are_refused(of_diffusion, refused, save, place, value):
    put(of_diffusion["config"], place, value)
    refused(save(of_diffusion), "load")


VIT = {
    "_target_": "artart.models.vit.ViT",
    "image_size": 16,
    "num_classes": 5,
    "hidden_size": 16,
    "depth": 1,
    "num_heads": 1,
}
UNET = {
    "_target_": "artart.models.unet.UNet",
    "image_size": 16,
    "num_classes": 5,
    "model_channels": 16,
    "channel_mult": [1, 1],
}


@pytest.mark.parametrize(
    ("model", "saying"),
    [
        (VIT | {"depth": 10**9}, "model.depth=1000000000: "),
        (VIT | {"depth": 900}, "model.depth=900: is more than"),
        (VIT | {"depth": -1}, "model.depth=-1: must be"),
        (VIT | {"patch_size": -1}, "model.patch_size=-1: must be"),
        (VIT | {"num_heads": 0}, "model.num_heads=0: must be"),
        (VIT | {"hidden_size": 10**9}, "model"),
        (VIT | {"hidden_size": 10**30}, ""),
        (VIT | {"dropout": 7}, "model.dropout=7: must be"),
        (UNET | {"num_res_blocks": 10**9}, "model.num_res_blocks=1000000000: "),
        pytest.param(UNET | {"channel_mult": [1] * 90_000}, "model.channel_mult=[1, 1,", marks=pytest.mark.slow),
        (UNET | {"channel_mult": [10**12]}, ""),
        (UNET | {"channel_mult": 3}, "model.channel_mult=3"),
        (UNET | {"model_channels": 8 * 124_999_993}, ""),  # eight times a prime, of which heads are sought
        (UNET | {"patch_size": 0}, "model.patch_size=0: must be"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_an_absurd_network_is_refused(of_diffusion, refused, save, model, saying):
    of_diffusion["config"]["model"] = model
    refused(save(of_diffusion), "load", "resume", saying=saying)


@pytest.mark.parametrize(
    "model", [VIT | {"patch_size": 1, "hidden_size": 512}, UNET | {"attn_resolutions": []}], ids=["vit", "unet"]
)
def test_a_network_for_enormous_images_takes_no_more_memory_than_its_weights(of_diffusion, save, model):
    """Positions of 67 million places would be 64 GB."""
    config, large = of_diffusion["config"], {**model, "image_size": 8192}
    net = instantiate(model)  # whose weights are those of large images too
    config["image_size"], config["model"] = 8192, large
    of_diffusion["state_dict"] = {f"net.{name}": value for name, value in net.state_dict().items()}
    path = save(of_diffusion)
    forget_peak()
    memory = peak()
    assert load(path).net.image_size == 8192
    assert peak() - memory < MEMORY


def nested(depth: int) -> list[Any]:
    node: list[Any] = []
    for _ in range(depth):
        node = [node]
    return node


def of_itself() -> dict[str, Any]:
    node: dict[str, Any] = {}
    node["a"] = node
    return node


def many_times_the_same() -> list[Any]:
    node: list[Any] = ["laugh"] * 10
    for _ in range(40):
        node = [node] * 10
    return node


ENTANGLED = {"itself": of_itself, "laughs": many_times_the_same, "tensor": lambda: torch.ones(2), "set": lambda: {1}}


PLACES_OF_PLAIN_DATA = ("config/model/deep", "config/data/root", "metrics/x", "artart/version", "data/x")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        pytest.param(place, name, marks=pytest.mark.slow) if name == "laughs" else (place, name)
        for place in PLACES_OF_PLAIN_DATA
        for name in ENTANGLED
    ],
)
def test_settings_that_no_file_of_ours_holds_are_refused(content, refused, save, place, name):
    put(content, place, ENTANGLED[name]())
    if place == "artart/version":
        content["artart"]["format"] = 99  # which makes a line of it
    refused(save(content), "load", "inspect")


def as_zip(path: Path, body: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", body)
        archive.writestr("a/version", "3\n")
    return path


@pytest.mark.slow
def test_settings_a_hundred_thousand_levels_deep_are_refused(content, refused, save, tmp_path):
    depth = 100_000
    path = save(content)
    marker = b"X\x04\x00\x00\x00DEEP"
    put(content, "config/objective/deep", "DEEP")
    body = zipfile.ZipFile(save(content)).read("hostile/data.pkl")
    assert marker in body
    nest = b"]" * depth + b"a" * (depth - 1)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "deep", "w") as archive:
        for name in whole.namelist():
            changed = body.replace(marker, nest) if name.endswith("data.pkl") else whole.read(name)
            archive.writestr(name, changed)
    (tmp_path / "deep").replace(path)
    refused(path, saying="more than 50 levels")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("curves", {"../events": 0}),
        ("curves", {"/etc/events": 0}),
        ("curves", {"a/../b": 0}),
        ("curves", {"tensorboard/events": "0"}),
        ("curves", ["tensorboard"]),
        ("epoch", True),
        ("epoch", -1),
        ("global_step", 10**18 + 0.5),
        ("global_step", 1.5),
        ("loops/fit_loop/epoch_progress/current/processed", "3"),
        ("images_seen", "many"),
        ("images_seen", {}),
        ("images_seen", -0.0),
        ("metrics", {"val/psnr": "high"}),
        ("points", {"lr": {"/../../../harm": 1.0}}),  # TensorBoard would make a folder of that
        ("points", {"lr": "high"}),
        ("optimizer_states", 3),
        ("optimizer_states", [3]),
        ("optimizer_states", [{}]),
        ("lr_schedulers", None),
        ("callbacks", []),
        ("data", {}),
    ],
)
def test_a_state_of_training_that_is_none_is_refused(content, refused, save, place, value):
    put(content, place, value)
    refused(save(content), "resume", saying="not a checkpoint of artart")


FIT = "loops/fit_loop"
MOMENT = "optimizer_states/0/state/0/exp_avg"
RESTORED = [
    ("optimizer_states", []),
    ("optimizer_states/0/param_groups/0", None),
    ("optimizer_states/0/param_groups/0/lr", "fast"),
    ("optimizer_states/0/param_groups/0/params", [0]),
    (MOMENT, {"lerp_": 1}),
    (MOMENT, torch.ones(2)),
    ("lr_schedulers", [{}, {}]),
    ("lr_schedulers/0", [1]),
    ("lr_schedulers/0/_step_count", {}),
    ("lr_schedulers/0/get_lr", 3),
    (FIT, []),
    (f"{FIT}/epoch_loop.batch_progress", 3),
    (f"{FIT}/epoch_loop.batch_progress/current", {"reset": 3}),
    (f"{FIT}/epoch_loop.batch_progress/total/ready", "8"),
    (f"{FIT}/epoch_loop.batch_progress/is_last_batch", 1),
    (f"{FIT}/epoch_loop.state_dict/_batches_that_stepped", "8"),
    (f"{FIT}/epoch_progress/total", None),
    (f"{FIT}/state_dict/combined_loader", 3),
    (f"{FIT}/state_dict/combined_loader/0/epoch", 2**62),
    ("ArtDataModule/seed", 3),
    ("ArtDataModule/images", 36),
    ("callbacks/EpochCheckpoint_best", [1]),
    ("callbacks/EpochCheckpoint_best/best_k_models", {"a": 1}),
    ("pytorch-lightning_version", ["2.6.6"]),
    ("pytorch-lightning_version", "1.9.0"),
]


@pytest.mark.parametrize(("place", "value"), RESTORED, ids=[f"{place}={value}"[-60:] for place, value in RESTORED])
def test_a_state_of_training_that_does_not_fit_is_refused_before_anything_is_written(
    finished_run, refused, save, place, value
):
    """Lightning puts what stands there into its own objects, of which most are used only later."""
    put(content := whole(finished_run), place, value)
    refused(save(content), "resume", saying="its training state cannot be used")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("current_model_state/net.enc1.0.weight", torch.ones(3)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("current_model_state", {}),
                ("averaging_state", {}),
                ("averaging_state/n_averaged", torch.ones(4)),
                ("callbacks/EMA/latest_update_step", "8"),
                ("averaging_state/module.x", torch.ones(1)),
            )
        ),
        ("callbacks/MemorizationMonitor", {"kid_no_memorization": "good"}),
    ],
)
def test_a_state_of_averages_and_samples_that_does_not_fit_is_refused(
    diffusion_run, train, save, capsys, tmp_path, place, value
):
    put(content := whole(diffusion_run), place, value)
    path = save(content)
    more = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2", "trainer.max_epochs=9")
    assert train(*more, "run_dir=run", f"resume={path}") == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), "its training state cannot be used" in error) == (1, True), error
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_other_images_within_an_epoch_are_refused_before_a_folder_is_made(content, commands, save, capsys, tmp_path):
    content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] -= 1
    content["ArtDataModule"]["batches"] -= 1
    content["loops"]["fit_loop"]["state_dict"]["combined_loader"] = [content["ArtDataModule"]]
    content["data"]["sha256"] = "0"
    assert commands["train"](path := save(content)) == 2
    assert "lies within an epoch of other images" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("filename", "own"), [("best", "best.ckpt"), ("best_{epoch:04d}", "best_0001.ckpt")])
def test_no_file_but_its_own_is_given_to_a_callback_that_deletes_the_worst(tmp_path, filename, own):
    names = ("best.ckpt", "best_0001.ckpt", "last.ckpt", "best.txt", "notes")
    for name in names:
        (tmp_path / name).touch()
    callback = EpochCheckpoint(tmp_path, filename, save_top_k=9, monitor="val/psnr", mode="max")
    scores = {f"/elsewhere/{name}": torch.tensor(float(k)) for k, name in enumerate(names)}
    callback.load_state_dict({"monitor": "val/psnr", "best_k_models": scores})
    assert list(callback.best_k_models) == [str(tmp_path / own)]


@pytest.mark.parametrize(
    ("place", "value"),
    [(MOMENT, {"lerp_": 1}), pytest.param("lr_schedulers/0", [1], marks=pytest.mark.slow)],
    ids=["its first step", "before it"],
)
def test_a_state_that_fails_where_it_is_used_is_laid_to_the_checkpoint(
    finished_run, train, save, capsys, monkeypatch, place, value
):
    """Whatever was not seen before."""
    monkeypatch.setattr("artart.training.resume.check_state", lambda *_: None)
    put(content := whole(finished_run), place, value)
    assert train(f"resume={save(content)}", "run_dir=run", "trainer.max_epochs=9") == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), "its training state cannot be used (" in error) == (1, True), error


def test_a_line_cannot_be_broken_or_coloured_by_what_a_file_says(content, refused, save):
    bad = "a\nb\x1b[31m"
    content["state_dict"][bad] = torch.ones(1)
    refused(save(content))
    del content["state_dict"][bad]
    content["config"]["objective"]["_target_"] = bad
    refused(save(content), "load")
    content["artart"] = {"format": 99, "version": bad}
    refused(save(content), saying="a newer artart can read it")


# --- first stages

AUTOENCODER = {"_target_": "artart.models.autoencoder.Autoencoder", "image_size": 16, "model_channels": 8,
               "channel_mult": [1], "latent_channels": 4}  # fmt: skip
FIRST_STAGES = [
    *(("first_stage", value, "not a checkpoint of artart") for value in (None, [], 3, "a", {}, torch.ones(2))),
    *((f"first_stage/{key}", 3, "not a checkpoint of artart") for key in ("model", "state_dict", "moments")),
    ("first_stage/model/deep", torch.ones(2), "not a checkpoint of artart"),
    ("first_stage/model/_target_", "os.mkdir", "wants to build os.mkdir"),
    ("first_stage/model/channels", {"_target_": "os.mkdir"}, ""),
    ("first_stage/model", UNET, "is no autoencoder"),
    ("first_stage/model", VIT | {"depth": 10**9}, "model.depth=1000000000: is more than"),
    ("first_stage/model", VIT | {"hidden_size": 4096}, "is no autoencoder"),
    ("first_stage/model/latent_channels", 10**9, "do not fit"),
    ("first_stage/model/latent_channels", 8, "do not fit"),
    ("first_stage/model/latent_channels", -1, "model.latent_channels=-1: must be"),
    ("first_stage/model/latent_channels", "4", "model.latent_channels=4: must be"),
    ("first_stage/model/model_channels", 8 * 124_999_993, ""),
    ("first_stage/model/model_channels", 10**30, ""),
    ("first_stage/model/channel_mult", [10**12], ""),
    ("first_stage/model/channel_mult", [1] * 2000, "model.channel_mult=[1, 1, "),
    ("first_stage/model/channel_mult", [], ""),
    ("first_stage/model/num_res_blocks", 100, "model.num_res_blocks=100: is more than"),
    ("first_stage/model/num_res_blocks", 20, "do not fit"),
    ("first_stage/model/image_size", 32, "its first stage has image_size=32, not 16"),
    ("first_stage/model/channels", 1, "its first stage has channels=1, not 3"),
    ("first_stage/state_dict", {}, "is more than the 0 weights"),
    ("first_stage/state_dict/encoder.1.bias", torch.ones(3), "do not fit (encoder.1.bias)"),
    ("first_stage/state_dict/more", torch.ones(3), "do not fit (more)"),
    ("first_stage/state_dict/encoder.1.bias", 3, "not a checkpoint of artart"),
    ("first_stage/state_dict/encoder.1.bias", WIDE.expand(10**15), ""),
    *(
        ("first_stage/moments", value, "not a checkpoint of artart")
        for value in (
            [[0.0] * 4, [1.0] * 4], torch.ones(8), torch.ones(4, 2), torch.ones(2, 4, 1), torch.ones(0, 4),
            torch.full((2, 4), float("inf")), torch.full((2, 4), float("nan")), torch.zeros(2, 4), -torch.ones(2, 4),
            torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4).double(), torch.ones(2, 4).half(),
        )
    ),
    ("first_stage/moments", torch.ones(2, 3), "moments and latents of its first stage do not fit"),
    ("first_stage/moments", torch.ones(2, 0), "moments and latents of its first stage do not fit"),
    ("config/image_size", 32, "its first stage has image_size=16, not 32"),
    ("config/model/image_size", 16, "its network has image_size=16, not 8"),
    ("config/model/channels", 3, "its network has channels=3, not 4"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "value", "saying"), FIRST_STAGES, ids=[f"{k} {one[0]}" for k, one in enumerate(FIRST_STAGES)]
)
def test_a_first_stage_that_is_none_is_refused(of_latents, refused, save, place, value, saying):
    put(of_latents, place, value)
    refused(save(of_latents), "load", "first_stage", saying=saying)


@pytest.mark.slow
def test_the_first_stage_that_others_spoil_is_a_good_one(of_latents, readers, save):
    """`AUTOENCODER` describes it."""
    of_latents["first_stage"]["model"] = AUTOENCODER
    for name in ("load", "init_from", "first_stage", "inspect"):
        readers[name](save(of_latents))


@pytest.mark.slow
@pytest.mark.parametrize("key", ["model", "state_dict", "moments"])
def test_a_first_stage_without_a_part_is_refused(of_latents, refused, save, key):
    del of_latents["first_stage"][key]
    refused(save(of_latents), "load", "resume", "init_from", "first_stage", saying="not a checkpoint of artart")


@pytest.mark.slow
def test_latents_without_a_first_stage_and_images_with_one_are_refused(of_latents, of_diffusion, refused, save):
    held = of_latents.pop("first_stage")
    refused(save(of_latents), "load", "resume", "init_from", "first_stage", saying="not a checkpoint of artart")
    refused(save(of_diffusion | {"first_stage": held}), "load", "first_stage", saying="its network has image_size=16")


@pytest.mark.slow
def test_an_objective_that_takes_no_first_stage_is_refused(of_latents, content, refused, save):
    of_latents["config"]["objective"] = content["config"]["objective"]
    refused(save(of_latents), "load", saying="its objective takes no first stage")
    refused(save(of_latents), "init_from", "resume")


def test_a_first_stage_that_settings_describe_is_refused(of_latents, of_diffusion, refused, save):
    """Only an entry of its own, whose weights are checked, makes one."""
    for content in (of_latents, of_diffusion):
        content["config"]["objective"]["first_stage"] = 3
        refused(save(content), "load", saying="objective.first_stage=3: must be FirstStage")


class Own(Autoencoder):
    """A class of the user's."""


@pytest.mark.slow
def test_an_autoencoder_of_the_users_is_built_if_it_is_trusted(of_latents, refused, save, monkeypatch):
    own = f"{__name__}.Own"
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    before = load(save(of_latents)).process.first_stage
    of_latents["first_stage"]["model"]["_target_"] = own
    path = save(of_latents)
    assert isinstance(load(path, [own]).process.first_stage.net, Own)
    assert torch.equal(load(path, [own]).process.first_stage.encode(torch.ones(1, 3, 16, 16)), before.encode(
        torch.ones(1, 3, 16, 16)
    ))  # fmt: skip
    assert describe(path)["first stage"]["_target_"] == own
    refused(path, "load", "first_stage", "init_from", saying=f"wants to build {own}")
    put(of_latents, "first_stage/state_dict/more", torch.ones(1))
    with pytest.raises(ArtError, match=r"weights and network do not fit \(more\)$"):
        load(save(of_latents), [own])
    of_latents["config"]["model"] |= {"model_channels": 8 * 10**6}
    refused(save(of_latents), "load", saying="do not fit")  # not even what is beside a class to be trusted


@pytest.mark.slow
@pytest.mark.parametrize(
    "moments", [None, "a", [["a"]], [[10**18] * 4] * 2, [[1.0]], [[True] * 4] * 2, {}, [[1.0] * 4, [0.0] * 4], "no key"]
)
def test_moments_of_a_shared_file_that_are_none_are_refused(of_latents, refused, tmp_path, moments):
    held = of_latents["first_stage"]
    weights = {name.removeprefix("net."): one for name, one in of_latents["state_dict"].items()}
    weights |= {f"first_stage.{name}": one for name, one in held["state_dict"].items()}
    facts = {name: of_latents[name] for name in ("config", "labels", "epoch", "global_step")}
    path = tmp_path / "hostile.safetensors"
    save_shared(path, weights, facts | {"first_stage": {"model": held["model"], "moments": held["moments"].tolist()}})
    assert load(path).process.first_stage.content is not None
    path.unlink()
    own = {} if moments == "no key" else {"moments": moments}
    save_shared(path, weights, facts | {"first_stage": {"model": held["model"], **own}})
    refused(path, "load", "init_from", "first_stage", "inspect", saying="not a checkpoint of artart")
    path.unlink()
    save_shared(path, weights, facts | {"first_stage": 3})
    refused(path, "load", "first_stage", saying="not a checkpoint of artart")


@pytest.mark.parametrize("key", [pytest.param("resume", marks=pytest.mark.slow), "init_from", "first_stage"])
def test_train_refuses_a_hostile_first_stage_in_a_line(of_latents, train, save, latent, capsys, tmp_path, key):
    put(of_latents, "first_stage/moments", torch.zeros(2, 4))
    path = save(of_latents)
    more = (*latent, "first_stage=null") if key == "init_from" else latent
    assert train(*more, "run_dir=run", f"{key}={path}") == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), str(path) in error) == (1, True), error
    assert list(tmp_path.iterdir()) == [path]


# --- archives


@pytest.fixture
def good(finished_run, tmp_path) -> Path:
    return shutil.copy(finished_run / "checkpoints" / "last.ckpt", tmp_path / "hostile.ckpt")


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "last/../../x"])
def test_records_outside_of_the_archive_are_refused(good, refused, name):
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr(name, "x")
    refused(good, saying="several folders")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_that_is_there_twice_is_refused(good, refused):
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr(next(name for name in archive.namelist() if name.endswith("data.pkl")), b"\x80\x02}.")
    refused(good, saying="there twice")


@pytest.mark.parametrize("name", ["DATA.PKL", "Data.pkl"])
def test_a_record_that_differs_only_in_case_is_refused(good, refused, name):
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr(archive.namelist()[0].partition("/")[0] + "/" + name, b"\x80\x02}.")
    refused(good, saying="there twice")


def test_an_archive_in_front_of_another_is_refused(good, refused, tmp_path):
    """Readers would differ: one finds the directory by its place in the file, the other before the file's end."""
    front = as_zip(tmp_path / "front", b"\x80\x02}.").read_bytes()
    (tmp_path / "front").unlink()
    good.write_bytes(front + good.read_bytes())
    assert zipfile.ZipFile(good).namelist() != ["a/data.pkl", "a/version"]
    refused(good, saying="its directory is not where torch.save writes it")


def test_two_directories_are_refused(refused, tmp_path):
    """The end for large archives is said to be elsewhere than before the end, where zipfile takes it from."""
    path = as_zip(tmp_path / "hostile.ckpt", b"\x80\x02}.")
    whole = path.read_bytes()
    start = whole.index(b"PK\x01\x02")
    length = len(whole) - 22 - start
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, length, start)
    for place, is_good in ((len(whole) - 22, True), (0, False)):
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, place, 1)
        path.write_bytes(whole[:-22] + large + locator + whole[-22:])
        saying = "not a checkpoint of artart" if is_good else "its directory is not where torch.save writes it"
        refused(path, saying=saying)


def test_a_link_in_an_archive_is_not_followed(good, tmp_path):
    with zipfile.ZipFile(good, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        link = zipfile.ZipInfo(f"{folder}/link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert describe(good)["file"] == str(good)
    assert list(tmp_path.iterdir()) == [good]


@pytest.mark.slow
def test_a_compressed_bomb_is_refused(refused, tmp_path):
    path = tmp_path / "hostile.ckpt"
    deflated = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with deflated as archive, archive.open("a/data.pkl", "w") as record:
        for _ in range(600):
            record.write(bytes(2**20))
    refused(path, saying="compressed")


def test_records_that_share_their_bytes_are_refused(refused, tmp_path):
    """One record of a megabyte, named a thousand times in the archive's directory."""
    path = as_zip(tmp_path / "hostile.ckpt", b"\x80\x02}." + bytes(2**20))
    whole = path.read_bytes()
    start = whole.index(b"PK\x01\x02")
    entry = whole[start : start + 46 + len("a/data.pkl")]
    entries = b"".join(entry.replace(b"a/data.pkl", f"a/x{k:07}".encode()) for k in range(1000))
    assert len(entries) == 1000 * len(entry)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1000, 1000, len(entries), start, 0)
    path.write_bytes(whole[:start] + entries + end)
    refused(path, saying="larger than the file")


@pytest.mark.parametrize("place", ["config/model", "config/data", "labels"])
def test_a_text_that_is_there_3000_times_is_refused(content, refused, save, place):
    put(content, f"{place}/long", [6600 * "x"] * 3000)
    for name in ("load", "inspect"):
        refused(save(content), name, saying="more than 5,000,000 characters")


@pytest.mark.slow
@pytest.mark.parametrize("num_bytes", [15_000_000, 60_000_000])
@pytest.mark.parametrize("in_archive", [True, False])
def test_a_pickle_of_millions_of_steps_is_refused(refused, tmp_path, num_bytes, in_archive):
    steps = b"\x80\x02" + b"N0" * (num_bytes // 2) + b"}."
    path = tmp_path / "hostile.ckpt"
    path.write_bytes(steps)
    if in_archive:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", steps)
    refused(path)


def test_a_flipped_byte_in_a_weight_is_seen(good, refused):
    whole = bytearray(good.read_bytes())
    weight = zipfile.ZipFile(good).getinfo(next(n for n in zipfile.ZipFile(good).namelist() if n.endswith("/data/0")))
    whole[weight.header_offset + 200] ^= 1
    good.write_bytes(whole)
    refused(good, saying="is damaged")


def test_a_record_shorter_than_its_tensor_is_refused(good, refused, tmp_path):
    with zipfile.ZipFile(good) as whole, zipfile.ZipFile(tmp_path / "short", "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name)[:4] if name.endswith("/data/0") else whole.read(name))
    (tmp_path / "short").replace(good)
    refused(good)


@pytest.mark.parametrize("size", [0, 1, 30, 1000, 20_000, -1000, -1])
def test_a_cut_file_is_refused(good, refused, size):
    good.write_bytes(good.read_bytes()[:size])
    refused(good)


def test_noise_is_refused(refused, tmp_path):
    (path := tmp_path / "hostile.ckpt").write_bytes(torch.rand(3000, generator=torch.Generator()).numpy().tobytes())
    refused(path)
    path.write_bytes(b"PK\x03\x04" + path.read_bytes())
    refused(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_what_is_no_file_is_not_waited_for(refused, tmp_path, suffix):
    os.mkfifo(pipe := tmp_path / f"pipe{suffix}")
    (folder := tmp_path / f"folder{suffix}").mkdir()
    (loop := tmp_path / f"loop{suffix}").symlink_to(tmp_path / f"loop{suffix}")
    for path in (pipe, folder, loop):
        refused(path)


# --- .safetensors


def safetensors(path: Path, facts: str) -> Path:
    header = json.dumps({"__metadata__": {"artart": facts}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 0])
def test_a_header_of_absurd_length_is_refused(refused, tmp_path, length):
    (path := tmp_path / "hostile.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    refused(path)


@pytest.mark.parametrize(
    "facts", ["[" * 10**5, "[" * 10**5 + "]" * 10**5, "{", "9" * 5000, "NaN", "[]", '"text"', "{}"]
)
def test_facts_that_are_none_are_refused(refused, tmp_path, facts):
    refused(safetensors(tmp_path / "hostile.safetensors", facts), "load", "inspect")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", []),
        ("config", None),
        ("labels", {"a": 1}),
        ("epoch", float("nan")),
        ("epoch", "3"),
        ("global_step", None),
        ("metrics", [1]),
        ("artart", {"format": 10**9, "version": "9"}),
    ],
)
def test_facts_of_a_wrong_kind_are_refused(content, refused, tmp_path, key, value):
    weights = {name.removeprefix("net."): one for name, one in content.pop("state_dict").items()}
    facts = {name: content[name] for name in ("config", "labels", "epoch", "global_step", "metrics", "artart")}
    save_shared(tmp_path / "hostile.safetensors", weights, facts | {key: value})
    refused(tmp_path / "hostile.safetensors", "load", "inspect")


def test_no_run_resumes_from_facts_that_pretend_to_be_its_state(content, refused, tmp_path):
    weights = {name.removeprefix("net."): one for name, one in content.pop("state_dict").items()}
    names = ("config", "labels", "epoch", "global_step", "data", "images_seen")
    facts = {name: content[name] for name in names} | {"optimizer_states": [], "lr_schedulers": []}
    save_shared(tmp_path / "hostile.safetensors", weights, facts | {"loops": {}, "callbacks": {}})
    refused(tmp_path / "hostile.safetensors", "resume", saying="holds weights alone")


# --- beside good ones


@pytest.mark.parametrize("kind", ["cut", "foreign", "newer"])
def test_the_newest_good_one_beside_it_is_named(content, refused, good, tmp_path, kind):
    newest = shutil.copy(good, tmp_path / "newest.ckpt")
    os.utime(good, (1000, 1000))
    shutil.copy(good, tmp_path / "older.ckpt")
    os.utime(tmp_path / "older.ckpt", (2000, 2000))
    match kind:
        case "cut":
            good.write_bytes(good.read_bytes()[:9000])
        case "foreign":
            torch.save({"weights": torch.ones(3)}, good)
        case "newer":
            torch.save(content | {"artart": {"format": 99, "version": "9"}}, good)
    refused(good, saying=f"; the newest good one beside it is {newest}")


def test_a_folder_of_bad_ones_is_looked_through_once(refused, tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / f"{number}.ckpt").write_bytes(b"PK\x03\x04" + bytes(number))
    read: list[Path] = []
    monkeypatch.setattr(
        "artart.io.weights.load", lambda path, *more, load=weights_files.load: [read.append(path), load(path, *more)]
    )
    refused(tmp_path / "7.ckpt", "load")
    assert len(read) == len(set(read)) == 300


@pytest.mark.slow
def test_good_files_are_still_good(finished_run, diffusion_run, readers, tmp_path):
    for run_dir in (finished_run, diffusion_run):
        for name in ("load", "evaluate", "inspect"):
            assert readers[name](run_dir / "checkpoints" / "last.ckpt")
    alone = shutil.copy(finished_run / "checkpoints" / "last.ckpt", tmp_path)  # without the result of a finished run
    assert readers["resume"](Path(alone)).epochs == 3


# --- at random


@pytest.mark.parametrize("numbers", [range(8), pytest.param(range(8, 40), marks=pytest.mark.slow)])
def test_files_gone_bad_at_random_are_read_or_refused(finished_run, diffusion_run, tmp_path, monkeypatch, numbers):
    """As in benchmarks/fuzz_checkpoints.py, which gives them to all commands."""
    goods = [
        torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
        for run_dir in (finished_run, diffusion_run)
    ]
    monkeypatch.chdir(tmp_path)
    refusals = 0
    for number in numbers:
        path, _, done = mutations.mutated(goods, random.Random(number), tmp_path / "hostile")
        forget_peak()
        memory = peak()
        try:
            assert load(path).label_names, (number, done)
        except ArtError as error:
            assert str(error).isprintable(), (number, done)
            refusals += 1
        assert peak() - memory < MEMORY, (number, done)
        path.unlink()
        assert list(tmp_path.iterdir()) == [], (number, done)
    assert refusals > len(numbers) / 4
