"""Fixtures that many tests share.

They import PyTorch where they need it: the process that hands out tests to the workers of pytest-xdist does not.
"""

import gc
import importlib.metadata
import io
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO
from urllib.error import URLError

import pytest
from filelock import FileLock
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import DefaultsList
from hydra._internal.hydra import Hydra
from hydra.core.default_element import ResultDefault
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf import base as omegaconf_base
from PIL import Image

import artart.evaluate
import artart.export
import artart.generate
import artart.inspect
import artart.prepare
import artart.train
from artart.config.build import CONF_DIR
from artart.data import demo, scan
from tests.forking import Forking

gc.disable()  # until tests are collected, of which nothing is garbage
importlib.metadata.entry_points = cache(importlib.metadata.entry_points)  # Lightning reads them twice for each run

ART = Path(__file__).parent / "data" / "art"  # small images of works in the public domain; sources.csv says which
SMALL = (
    "image_size=16",
    "data.num_demo_images=40",
    "data.batch_size=8",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
)
SUB_FOLDERS_AND_SUFFIXES = [("", ".png"), ("1900", ".JPG"), ("1900/spring", ".Jpeg"), ("", ".PNG")]


def pytest_collection_finish() -> None:
    gc.enable()


OF_SLOW_TESTS = {  # trainings that the fast tier does without
    *("artists_run", "autoencoder_run", "distilled_run", "gan_run", "hybrid_diffusion_run", "judgeable_run"),
    *("latent_run", "teacher_run", "text_run"),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of such a training is slow."""
    for item in items:
        if OF_SLOW_TESTS & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the user's cache, nor does a process that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The networks here are too small for more."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A command that ran within a test has given up its handlers; pytest keeps its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """No option of pytest, such as -m, counts as one of a command."""
    monkeypatch.setattr(sys, "argv", sys.argv[:1])


class Unpickler(pickle.Unpickler):
    """Without the audit event by which benchmarks/watch.py knows that a checkpoint names a class."""

    def find_class(self, module_name: str, name: str) -> Any:
        return attrgetter(name)(sys.modules[module_name])


def copy_of(pickled: bytes) -> Any:
    return Unpickler(io.BytesIO(pickled)).load()


@pytest.fixture(scope="session", autouse=True)
def conf_is_parsed_once() -> Iterator[None]:
    """Many tests compose a configuration, of twenty files each."""
    load, known = OmegaConf.load, dict[Path, bytes]()

    def load_once(file: Path | TextIO) -> Any:
        path = Path(file) if isinstance(file, str | Path) else Path(file.name)
        if CONF_DIR not in path.parents:
            return load(file)
        if path not in known:
            known[path] = pickle.dumps(load(file))
        return copy_of(known[path])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load_once)
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)  # composes too, for hydra.mode, which artart refuses
        yield


@pytest.fixture(scope="session", autouse=True)
def conf_is_composed_once() -> Iterator[None]:
    """Options of groups make the same configuration in every test, in a copy of which keys are then set."""
    choose, merge = config_loader_impl.create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list
    chosen, merged = dict[object, DefaultsList](), dict[object, bytes]()

    def is_ours(repo: IConfigRepository) -> bool:
        return {source.path for source in repo.get_sources() if source.scheme() == "file"} == {str(CONF_DIR)}

    def choose_once(repo: IConfigRepository, config_name: str, overrides_list: list[Override], **more: bool) -> Any:
        def is_of_group(one: Override) -> bool:
            return repo.group_exists(one.key_or_group) and not isinstance(one.value(), dict)

        of_groups = [one.input_line for one in overrides_list if is_of_group(one)]
        key = (config_name, *of_groups, *more.items())
        if not is_ours(repo) or any(one.is_sweep_override() for one in overrides_list):
            return choose(repo, config_name, overrides_list, **more)
        if key not in chosen:
            chosen[key] = choose(repo, config_name, overrides_list, **more)
        return replace(chosen[key], config_overrides=[one for one in overrides_list if not is_of_group(one)])

    def merge_once(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        if not is_ours(repo):
            return merge(loader, defaults, repo)
        if (key := repr(defaults)) not in merged:
            merged[key] = pickle.dumps(merge(loader, defaults, repo))
        return copy_of(merged[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_loader_impl, "create_defaults_list", choose_once)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def interpolations_are_parsed_once() -> Iterator[None]:
    """A configuration has dozens, the same in each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omegaconf_base, "parse", cache(omegaconf_base.parse))
        yield


@pytest.fixture(scope="session", autouse=True)
def a_step_is_timed_once() -> Iterator[None]:
    """A run times one step, and does not repeat it."""
    from artart.training import cost

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "MAX_REPEATS", 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def demo_art_is_painted_once() -> Iterator[None]:
    """Nearly every run paints the same images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "paint", cache(demo.paint))
        yield


MAX_IN_PROCESS = 32


@pytest.fixture(scope="session", autouse=True)
def few_files_need_no_process() -> Iterator[int]:
    """Tests are quicker so, and none of their files crashes a decoder. Outside of tests it is this number of files."""
    outside = scan.MAX_IN_PROCESS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "MAX_IN_PROCESS", MAX_IN_PROCESS)
        yield outside


@pytest.fixture(scope="session", autouse=True)
def forking(
    own_cache: None,
    one_thread: None,
    conf_is_composed_once: None,
    interpolations_are_parsed_once: None,
    a_step_is_timed_once: None,
    demo_art_is_painted_once: None,
) -> Iterator[Forking]:
    """Begins before any test, as it must."""
    forking = Forking()
    yield forking
    forking.close()


Fill = Callable[[Path], None]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Fill], Path]:
    """`once(name, fill)`: a folder that `fill` writes into, once for all workers of pytest-xdist; then only read it."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    shared.mkdir(exist_ok=True)

    def once(name: str, fill: Fill) -> Path:
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not (shared / f"{name}.done").exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                fill(folder)
                (shared / f"{name}.done").touch()
        return folder

    return once


@pytest.fixture(scope="session")
def art_files() -> list[Path]:
    """Forty real works, at most 96 px long."""
    return sorted(ART.rglob("*.jpg"))


def icc_profile(space: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2 for a display (ICC.1:2001-04)."""
    text = name.encode("ascii") + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        **tags,
    }
    start, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, data in tags.items():
        table += key + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, b"mntr", space, b"XYZ ") + bytes(12)
    header += b"acsp" + bytes(28) + xyz(0.9642, 1.0, 0.8249)[8:] + bytes(48)
    return header + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def curve(*values: int) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *values)


@pytest.fixture(scope="session")
def adobe_rgb() -> bytes:
    """The profile Adobe RGB (1998): its primaries, brought to D50, and a gamma of 563/256."""
    primaries = {
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
    }
    return icc_profile(b"RGB ", "Adobe RGB (1998)", primaries | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(563)))


@pytest.fixture(scope="session")
def linear_profile() -> bytes:
    """The primaries of sRGB, brought to D50, and linear light."""
    primaries = {
        b"rXYZ": xyz(0.43607, 0.22249, 0.01392),
        b"gXYZ": xyz(0.38515, 0.71687, 0.09708),
        b"bXYZ": xyz(0.14307, 0.06061, 0.71410),
    }
    return icc_profile(b"RGB ", "Linear sRGB", primaries | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(256)))


@pytest.fixture(scope="session")
def dot_gain() -> bytes:
    """A profile of grey in print: a table, for ink that spreads."""
    levels = [round(65535 * (i / 255) ** 1.7) for i in range(256)]
    return icc_profile(b"GRAY", "Dot Gain 15%", {b"kTRC": curve(*levels)})


@pytest.fixture(scope="session")
def odd_files(once: Callable[[str, Fill], Path], adobe_rgb: bytes, dot_gain: bytes) -> Path:
    """A folder of files as they are met in the wild."""

    def fill(folder: Path) -> None:
        def painted(width: int, height: int, mode: str = "RGB") -> Image.Image:
            return Image.fromarray(demo.paint("painting", 3, 96)).resize((width, height)).convert(mode)

        painted(40, 40, "LA").save(folder / "LA_Vol10_CésarBirotteau_IC.png", icc_profile=dot_gain)
        painted(135, 200, "L").save(folder / "L_grey_Vol10_CésarBirotteau.jpg", icc_profile=dot_gain)
        painted(149, 102, "P").save(folder / "P_palette_artic_24645.png")
        painted(34, 38, "RGBA").save(folder / "RGBA_sharaku1.png")
        frames = [painted(80, 46, "RGBA").rotate(20 * k + 20) for k in range(6)]  # with corners that are seen through
        frames[0].save(folder / "animated_recording.gif", save_all=True, append_images=frames[1:])
        (folder / "empty_00001229.jpg").touch()
        painted(1207, 1642, "L").save(folder / "huge_espinasse.jpg")
        painted(180, 126).save(folder / "icc_gm_00848101.jpg", icc_profile=adobe_rgb)
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 51723\n"
        (folder / "lfs_pointer_POM00007429.jpg").write_text(pointer)
        painted(48, 199).save(folder / "narrow_Belated.jpg")
        painted(94, 94, "RGBA").save(folder / "png_named_jpg_Figur2@A Gentleman of France.jpg", format="PNG")
        painted(42, 63).save(folder / "quote_a' plum park in Kameido Utagawa Hiroshige.jpeg")
        painted(26, 52, "P").save(folder / "tiny_palette_transparent_fullscreen.png", transparency=0)
        painted(90, 90).save(whole := folder / "truncated_rare_domains_commoner_kaokore.png")
        whole.write_bytes(whole.read_bytes()[:-2000])
        painted(107, 67, "L").save(folder / "webp_grey_met-436965.webp")

    return once("odd", fill)


@pytest.fixture(scope="session")
def alexnet_weights(once: Callable[[str, Fill], Path]) -> Path:
    """A folder with AlexNet's layers of filters, drawn at random, and the heads of LPIPS, which torchmetrics has."""
    import torch
    import torchmetrics
    from safetensors.torch import save_file
    from torch import nn
    from torchvision.models import alexnet

    from artart.features.alexnet import CHANNELS
    from artart.io.weights import load

    def fill(folder: Path) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.device("meta"):
            shapes = {name: value.shape for name, value in alexnet().features.state_dict().items()}
        state = {f"features.{name}": torch.zeros(shape) for name, shape in shapes.items()}
        for weight in state.values():
            if weight.ndim > 1:
                nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        save_file(state, folder / "alexnet.safetensors")
        heads = load(Path(torchmetrics.__path__[0], "functional", "image", "lpips_models", "alex.pth"))
        names = {f"alex.lin{k}.weight": f"lin{k}.model.1.weight" for k in range(len(CHANNELS))}
        save_file({ours: heads[theirs].contiguous() for ours, theirs in names.items()}, folder / "lpips.safetensors")

    return once("weights", fill)


@pytest.fixture(scope="session")
def dinov2_weights(once: Callable[[str, Fill], Path]) -> Path:
    """A folder of transformers with a tiny DINOv2, drawn at random."""

    def fill(folder: Path) -> None:
        import torch
        from transformers import Dinov2Config, Dinov2Model  # which takes seconds

        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = Dinov2Config(
                hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=56
            )
            Dinov2Model(config).save_pretrained(folder)

    return once("dinov2", fill)


@pytest.fixture(scope="session")
def true_weights() -> Path:
    """AlexNet's own, which no repository carries: of the folder that ARTART_TEST_WEIGHTS names."""
    if not (folder := os.environ.get("ARTART_TEST_WEIGHTS")):
        pytest.skip("ARTART_TEST_WEIGHTS=DIR names no weights")
    return Path(folder)


@pytest.fixture
def as_nobody(tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
    """Root may read and write everything; so be somebody else for a while: `with as_nobody():`."""

    @contextmanager
    def as_nobody() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        for folder in (tmp_path, *tmp_path.parents[:3]):  # which pytest makes for root alone
            folder.chmod(folder.stat().st_mode | 0o055)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return as_nobody


@pytest.fixture
def art_folder(tmp_path: Path) -> Path:
    """Three classes of four images at 32 x 32, in nested folders, with suffixes in mixed case."""
    root = tmp_path / "art"
    for name in demo.CLASS_NAMES[:3]:
        for seed, (sub_folder, suffix) in enumerate(SUB_FOLDERS_AND_SUFFIXES):
            path = root / name / sub_folder / f"{name}_{seed}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(demo.paint(name, seed, 32)).save(path)
    return root


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """A machine without ImageNet's weights and without a network; notes the time-out it was asked to keep."""
    from torchvision.models import WeightsEnum

    timeouts: list[float | None] = []

    def get_state_dict(*_: object, **__: object) -> None:
        timeouts.append(socket.getdefaulttimeout())
        raise URLError("no network")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    return timeouts


RANDOM = "loss.perceptual.weights=random"
# no filters, so none to choose
PIXELS_ALONE = {
    "loss=mse",
    "loss=mse_diffusion",
    "experiment=art",
    "experiment=auto",
    "experiment=denoise",
    "experiment=distill",
    "experiment=gan",
    "objective=gan",
    "experiment=diffusion_cpu",
    "experiment=latent",
    "experiment=quickstart_diffusion",
}

Run = Callable[..., int]


def run_command(module: ModuleType, *arguments: str) -> int:
    """What the command would do in a process of its own; returns its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        patch.setattr(logging.getLogger(), "handlers", [])  # as Python begins; pytest's would hide early errors
        try:
            module.run()
        except SystemExit as stop:
            return int(stop.code or 0)
        finally:
            HydraConfig.instance().cfg = None  # as Python begins; --cfg and multiruns leave theirs
        return 0


@pytest.fixture(scope="session")
def call() -> Run:
    """`call(module, *arguments)`: a command, which returns its exit code."""
    return run_command


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python -m artart.train` in an empty folder, small and offline: 16 px, random filters, 2 epochs on the CPU."""
    monkeypatch.chdir(tmp_path)

    def train(*arguments: str) -> int:
        filters = () if PIXELS_ALONE & set(arguments) else (RANDOM,)
        return run_command(artart.train, *SMALL, *filters, *arguments)

    return train


@pytest.fixture
def train_by_pixels(train: Run) -> Run:
    """As `train`, and with loss=mse unless the words have another: it takes half the time of filters."""
    choosing = ("loss", "objective", "experiment", "resume=/", "init_from=")

    def train_by_pixels(*arguments: str) -> int:
        is_chosen = any(str(word).lstrip("+~").startswith(choosing) for word in arguments)
        return train(*arguments, *() if is_chosen else ("loss=mse",))

    return train_by_pixels


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python -m artart.generate` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_command(artart.generate, *arguments)


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """`python -m artart.inspect --json`: what it prints."""

    def inspect(*arguments: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert run_command(artart.inspect, *arguments, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return inspect


@pytest.fixture(scope="session")
def export() -> Run:
    """`python -m artart.export`."""
    return lambda *arguments: run_command(artart.export, *arguments)


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python -m artart.evaluate` in an empty folder, into its sub-folder `judged`, without AlexNet."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_command(artart.evaluate, "out=judged", "metrics.weights=null", *arguments)


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python -m artart.prepare` in an empty folder, at 16 px."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_command(artart.prepare, "image_size=16", *arguments)


def small_run(folder: Path, *options: str) -> None:
    """Train, and let go of the folder's lock: other workers look into it too."""
    from artart.training import run_dir as run_dirs

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_command(artart.train, *SMALL, *options, f"run_dir={folder / 'run'}") == 0
    while run_dirs._locks:
        run_dirs._locks.pop().release()


def small_diffusion(folder: Path, *options: str) -> None:
    small_run(folder, "objective=diffusion", "sampler.num_steps=2", *options)


@pytest.fixture(scope="session")
def finished_run(once: Callable[[str, Fill], Path]) -> Path:
    """The folder of a run of 3 epochs on 40 images of demo art; read it, do not write into it."""
    every_2 = ("callbacks.grid.every_n_epochs=2", "callbacks.checkpoints.every_n_epochs=2")
    return once("finished", lambda folder: small_run(folder, RANDOM, "trainer.max_epochs=3", *every_2)) / "run"


@pytest.fixture(scope="session")
def diffusion_run(once: Callable[[str, Fill], Path]) -> Path:
    """The folder of a diffusion of 3 epochs on 40 images of demo art; read it, do not write into it."""
    options = ("loss=mse_diffusion", "trainer.max_epochs=3", "callbacks.grid.every_n_epochs=2")
    return once("diffusion", lambda folder: small_diffusion(folder, *options)) / "run"


@pytest.fixture(scope="session")
def gan_run(once: Callable[[str, Fill], Path]) -> Path:
    """The folder of a GAN of 2 epochs, with more than half of its 60 images held out."""
    options = ("experiment=gan", "model.model_channels=8", "model.channel_mult=[1,2]", "callbacks.grid.num_images=4")
    held_out = ("data.num_demo_images=60", "data.val_fraction=0.6")
    tested = ("callbacks.memorization.every_n_images=24", "callbacks.memorization.num_images=20")
    return once("gan", lambda folder: small_run(folder, *options, *held_out, *tested)) / "run"


@pytest.fixture(scope="session")
def teacher_run(once: Callable[[str, Fill], Path]) -> Path:
    """The folder of a diffusion of an epoch by v, with more than half of its 60 images held out."""
    options = ("objective.parameterization=v", "model=unet_tiny", "model.model_channels=8", "loss=mse_diffusion")
    held_out = (
        "model.channel_mult=[1,2]",
        "callbacks.grid.num_images=4",
        "trainer.max_epochs=1",
        "data.num_demo_images=60",
        "data.val_fraction=0.6",
    )
    return once("teacher", lambda folder: small_diffusion(folder, *options, *held_out)) / "run"


@pytest.fixture(scope="session")
def distillation(teacher_run: Path) -> tuple[str, ...]:
    """Settings of a small distillation of `teacher_run`."""
    teacher = f"init_from={teacher_run / 'checkpoints' / 'last.ckpt'}"
    return "experiment=distill", teacher, "trainer.max_epochs=2", "data.num_demo_images=60", "data.val_fraction=0.6"


@pytest.fixture(scope="session")
def distilled_run(once: Callable[[str, Fill], Path], distillation: tuple[str, ...]) -> Path:
    """The folder of a distillation of 2 epochs."""
    tested = ("callbacks.memorization.every_n_images=24", "callbacks.memorization.num_images=20")
    few = ("callbacks.grid.num_images=4", "data.batch_size=8", "objective.guidance=1.5")
    return once("distilled", lambda folder: small_run(folder, *distillation, *few, *tested)) / "run"


AUTOENCODER = (
    "experiment=autoencoder",
    "model.model_channels=8",
    "model.channel_mult=[1]",
    "loss.weights.perceptual=0",
)


@pytest.fixture(scope="session")
def autoencoder_run(once: Callable[[str, Fill], Path]) -> Path:
    """The folder of an autoencoder of 2 epochs with noise on its latents, with a third of its 40 images held out."""
    return once("autoencoder", lambda folder: small_run(folder, *AUTOENCODER, "data.val_fraction=0.4")) / "run"


@pytest.fixture(scope="session")
def judgeable_run(once: Callable[[str, Fill], Path]) -> Path:
    """The folder of a diffusion of an epoch, with more than half of its 60 images held out."""
    options = ("loss=mse_diffusion", "trainer.max_epochs=1", "data.num_demo_images=60", "data.val_fraction=0.6")
    return once("judgeable", lambda folder: small_diffusion(folder, *options)) / "run"


ARTISTS = ("Hélène O'Hara", "Bo, the elder", "Ada")  # of 21, 21 and 18 images


@pytest.fixture(scope="session")
def artists_run(once: Callable[[str, Fill], Path]) -> Path:
    """The folder of a diffusion of an epoch on the labels class and artist of 60 images, half of them held out.

    The images, `art`, and their table, `art.csv`, lie beside it; `data.min_per_label=20` leaves two of the artists.
    """

    def fill(folder: Path) -> None:
        rows = ["path,class,artist"]
        for name in demo.CLASS_NAMES[:3]:
            (folder / "art" / name).mkdir(parents=True)
            for k in range(20):
                Image.fromarray(demo.paint(name, k, 16)).save(folder / "art" / name / f"{k}.png")
                rows.append(f'{name}/{k}.png,{name},"{ARTISTS[k % 3]}"')
        (folder / "art.csv").write_text("\n".join(rows))
        options = ("loss=mse_diffusion", "trainer.max_epochs=1", "data.val_fraction=0.5", "callbacks.grid.num_images=4")
        labels = ("data.labels=[class,artist]", "data.min_per_label=20")
        places = (f"data.root={folder / 'art'}", f"data.metadata={folder / 'art.csv'}")
        small_diffusion(folder, *options, *labels, *places)

    return once("artists", fill) / "run"


@pytest.fixture(scope="session")
def text_run(once: Callable[[str, Fill], Path]) -> Path:
    """The folder of a diffusion of an epoch on two captions each of 40 images, more than half of them held out.

    In last.ckpt prompts have an influence.

    The images, `art`, lie beside it with their captions, NAME.txt.
    """

    def fill(folder: Path) -> None:
        import torch
        from torch import nn

        for name in demo.CLASS_NAMES[:2]:
            (folder / "art" / name).mkdir(parents=True)
            for k in range(20):
                Image.fromarray(demo.paint(name, k, 16)).save(folder / "art" / name / f"{k}.png")
                (folder / "art" / name / f"{k}.txt").write_text(f"{name} by hand\nart: {name}\n")
        options = ("loss=mse_diffusion", "trainer.max_epochs=1", "data.val_fraction=0.6", "callbacks.grid.num_images=4")
        small_diffusion(folder, *options, f"data.root={folder / 'art'}", "data.captions=auto")
        checkpoint = folder / "run" / "checkpoints" / "last.ckpt"
        content = torch.load(checkpoint, weights_only=True)
        for name, value in content["state_dict"].items():
            if "scale_shift" in name:  # begins with zeros, so that prompts hardly had an influence yet
                nn.init.normal_(value, std=0.3, generator=torch.Generator().manual_seed(len(name)))
        torch.save(content, checkpoint)

    return once("text", fill) / "run"


@pytest.fixture(scope="session")
def latent(autoencoder_run: Path) -> tuple[str, ...]:
    """Settings of a small latent diffusion on the latents of `autoencoder_run`."""
    small = ("model.model_channels=8", "model.channel_mult=[1,2]", "sampler.num_steps=2", "callbacks.grid.num_images=4")
    return ("experiment=latent", f"first_stage={autoencoder_run / 'checkpoints' / 'last.ckpt'}", *small)


@pytest.fixture(scope="session")
def latent_run(once: Callable[[str, Fill], Path], latent: tuple[str, ...]) -> Path:
    """The folder of a latent diffusion of 2 epochs, with more than half of its 60 images held out."""
    options = ("data.num_demo_images=60", "data.val_fraction=0.6", "callbacks.grid.every_n_epochs=2")
    tested = ("callbacks.memorization.every_n_images=24", "callbacks.memorization.num_images=20")
    return once("latent", lambda folder: small_run(folder, *latent, *options, *tested)) / "run"


@pytest.fixture(scope="session")
def hybrid_diffusion_run(once: Callable[[str, Fill], Path]) -> Path:
    """The same of 2 epochs with the hybrid loss."""
    return once("hybrid", lambda folder: small_diffusion(folder, RANDOM)) / "run"
