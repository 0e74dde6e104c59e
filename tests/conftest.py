"""Fixtures that many tests share."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from torchvision.models import WeightsEnum

import artart.evaluate
import artart.export
import artart.generate
import artart.prepare
import artart.train
from artart.data import demo, scan

torch.set_num_threads(1)  # the networks here are too small for more

ROOT = Path(__file__).parents[1]
SMALL = (
    "image_size=16",
    "data.num_demo_pictures=40",
    "data.batch_size=8",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
)
SUB_FOLDERS_AND_SUFFIXES = [("", ".png"), ("1900", ".JPG"), ("1900/spring", ".Jpeg"), ("", ".PNG")]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the user's cache, nor does a process that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A command that ran within a test has given up its handlers; pytest keeps its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


FEW = 32


@pytest.fixture(scope="session", autouse=True)
def few_files_need_no_process() -> Iterator[None]:
    """Tests are quicker so, and none of their files crashes a decoder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "IN_PROCESS", FEW)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real art and odd files, which lie beside the repository where the project is developed."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        message = f"{folder}: not here"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return folder


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
    """Three classes of four pictures at 32 x 32, in nested folders, with suffixes in mixed case."""
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
    "experiment=denoise",
    "experiment=diffusion_cpu",
    "experiment=quickstart_diffusion",
}

Run = Callable[..., int]


def run_command(module: ModuleType, *arguments: str) -> int:
    """What the command would do in a process of its own; returns its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        try:
            module.run()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python -m artart.train` in an empty folder, small and offline: 16 px, random filters, 2 epochs on the CPU."""
    monkeypatch.chdir(tmp_path)

    def train(*arguments: str) -> int:
        filters = () if PIXELS_ALONE & set(arguments) else (RANDOM,)
        return run_command(artart.train, *SMALL, *filters, *arguments)

    return train


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python -m artart.generate` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_command(artart.generate, *arguments)


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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 3 epochs on 40 pictures of demo art; read it, do not write into it."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run_dir.parent)
        every_2 = ("callbacks.grid.every_n_epochs=2", "callbacks.checkpoints.every_n_epochs=2")
        assert run_command(artart.train, *SMALL, RANDOM, "trainer.max_epochs=3", *every_2, f"run_dir={run_dir}") == 0
    return run_dir


def small_diffusion(folder: Path, *options: str) -> Path:
    run_dir = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        few_steps = ("objective=diffusion", "sampler.num_steps=2", f"run_dir={run_dir}")
        assert run_command(artart.train, *SMALL, *few_steps, *options) == 0
    return run_dir


@pytest.fixture(scope="session")
def diffusion_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a diffusion of 3 epochs on 40 pictures of demo art; read it, do not write into it."""
    options = ("loss=mse_diffusion", "trainer.max_epochs=3", "callbacks.grid.every_n_epochs=2")
    return small_diffusion(tmp_path_factory.mktemp("diffusion"), *options)


@pytest.fixture(scope="session")
def judgeable_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a diffusion of an epoch, with more than half of its 60 pictures held out."""
    options = ("loss=mse_diffusion", "trainer.max_epochs=1", "data.num_demo_pictures=60", "data.val_fraction=0.6")
    return small_diffusion(tmp_path_factory.mktemp("judgeable"), *options)


ARTISTS = ("Hélène O'Hara", "Bo, the elder", "Ada")  # of 21, 21 and 18 pictures


@pytest.fixture(scope="session")
def artists_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a diffusion of an epoch on the labels class and artist of 60 pictures, half of them held out.

    The pictures, `art`, and their table, `art.csv`, lie beside it; `data.min_per_label=20` leaves two of the artists.
    """
    folder = tmp_path_factory.mktemp("artists")
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
    return small_diffusion(folder, *options, *labels, *places)


@pytest.fixture(scope="session")
def hybrid_diffusion_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of 2 epochs with the hybrid loss."""
    return small_diffusion(tmp_path_factory.mktemp("hybrid"), RANDOM)
