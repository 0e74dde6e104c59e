"""The store of latents, and batches of them."""

import logging
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from artart import ArtError
from artart.data import cache, demo, latents, store
from artart.data.datamodule import ArtDataModule
from artart.data.dataset import ImageSet, images_of
from artart.data.folder import ArtFolder
from artart.data.latents import latents_of
from artart.data.loader import Loader
from artart.data.settings import DataSettings
from artart.io.images import to_model

SIZE, MEAN, STD = 16, 0.25, 3.0
HALF_ULP = 2**-11  # of float16, relative
CPU = torch.device("cpu")


class Encoder:
    """Not the same for mirror images; remembers how many images it was asked for, and stops at the `last` of them."""

    shape = (2, SIZE // 2, SIZE // 2)

    def __init__(self, scale: float = 3.0, last: int = 10**9) -> None:
        self.scale, self.last, self.asked = scale, last, 0
        self.sha256 = sha256(str(scale).encode()).hexdigest()

    def latents(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        if self.asked > self.last:
            raise KeyboardInterrupt
        return torch.cat([images[:, :1, ::2, ::2], self.scale * images[:, 1:2, ::2, 1::2] + 0.1], dim=1)

    def normalize(self, values: Tensor) -> Tensor:
        return (values - MEAN) / STD


@pytest.fixture
def opened(art_folder: Path, tmp_path: Path) -> Callable[[], tuple[ArtFolder, ImageSet]]:
    """The folder and its images anew, as another process would see them."""

    def opened() -> tuple[ArtFolder, ImageSet]:
        one = ArtFolder(DataSettings(art_folder, SIZE, cache_dir=tmp_path / "cache"))
        return one, images_of(one, one.read(), {})

    return opened


@pytest.fixture
def of(opened: Any) -> Callable[..., latents.Latents]:
    """The latents of the folder's images."""

    def of(encoder: Encoder, flips: bool = True) -> latents.Latents:
        one, images = opened()
        return latents_of(images, encoder, one, CPU, flips)

    return of


def stores(cache: Path) -> dict[Path, int]:
    """When each store of latents was written; and what an interrupted process left."""
    (root,) = cache.iterdir()
    return {path: path.stat().st_mtime_ns for path in (*root.glob("*-16-stretch"), *root.glob(".*"))}


def assert_are_latents(found: latents.Latents, images: ImageSet, encoder: Encoder) -> None:
    """Those of the images, and of their mirror images if there are any, rounded to float16."""
    x = to_model(images.pixels[images.rows])
    sides = (x, x.flip(-1))[: len(found.values) // len(set(images.digests))]
    for flipped, wanted in enumerate(map(encoder.latents, sides)):
        values = found.values[found.rows + flipped]
        assert values.dtype == torch.float16
        assert_close(values.float(), wanted, rtol=HALF_ULP, atol=0)


# --- the store


def test_latents_are_those_of_both_flips_and_encoded_once(of, opened, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "CHUNK", 5)
    encoder = Encoder()
    first = of(encoder)
    assert encoder.asked == 2 * 12
    assert_are_latents(first, opened()[1], Encoder())
    before = stores(tmp_path / "cache")
    assert_close(of(encoder).values, first.values, rtol=0, atol=0)
    assert encoder.asked == 2 * 12
    assert stores(tmp_path / "cache") == before
    assert len(before) == 1


def test_latents_without_flips_are_half_as_many(of, opened, tmp_path):
    of(both := Encoder())
    found = of(encoder := Encoder(), flips=False)
    assert (both.asked, encoder.asked, len(found.values)) == (24, 12, 12)
    assert_are_latents(found, opened()[1], Encoder())
    assert len(stores(tmp_path / "cache")) == 2
    of(both)
    assert both.asked == 24


def test_only_new_images_are_encoded_and_removed_ones_forgotten(of, opened, art_folder, tmp_path):
    of(Encoder())
    (gone,) = art_folder.glob("drawing/drawing_0.png")
    gone.unlink()
    for seed in range(3):
        Image.fromarray(demo.paint("sculpture", 90 + seed, 32)).save(art_folder / f"new_{seed}.png")
    encoder = Encoder()
    found = of(encoder)
    assert encoder.asked == 2 * 3
    assert len(found.values) == 2 * 15
    assert_are_latents(found, opened()[1], Encoder())
    assert len(stores(tmp_path / "cache")) == 1


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("values.bin", lambda x: b""),
        ("values.bin", lambda x: bytes(byte ^ 1 for byte in x)),
        ("rows.bin", lambda x: x[::-1]),
    ],
)
def test_a_damaged_store_is_encoded_anew(of, opened, tmp_path, name, damage):
    of(Encoder())
    (path,) = stores(tmp_path / "cache")
    (path / name).write_bytes(damage((path / name).read_bytes()))
    encoder = Encoder()
    assert_are_latents(of(encoder), opened()[1], Encoder())
    assert encoder.asked == 2 * 12


def test_another_first_stage_has_another_store(of, opened, tmp_path):
    one, other = Encoder(), Encoder(scale=2.0)
    of(one)
    assert_are_latents(of(other), opened()[1], Encoder(scale=2.0))
    of(one)
    assert (one.asked, other.asked) == (24, 24)
    assert len(stores(tmp_path / "cache")) == 2


def test_too_little_disk_is_one_line_before_anything_is_encoded(of, opened, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    opened()
    need, encoder = 12 * 2 * 2 * 8 * 8 * 2, Encoder()  # images, flips, shape, bytes
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=need - 1))
        with pytest.raises(ArtError, match=r"data\.cache_dir: the latents of 12 images need 6\.1 kB and ") as error:
            of(encoder)
        assert "\n" not in str(error.value)
        assert encoder.asked == 0
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=need))
        of(encoder)
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        of(encoder)  # what is known needs no room
    assert "the latents of 12 images take at most 6.1 kB in " in caplog.text


def test_ctrl_c_loses_no_latents(of, opened, monkeypatch):
    monkeypatch.setattr(latents, "CHUNK", 5)
    with pytest.raises(KeyboardInterrupt):
        of(Encoder(last=14))
    assert_are_latents(of(encoder := Encoder()), opened()[1], Encoder())
    assert encoder.asked == 2 * 7


def test_demo_art_has_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = ArtDataModule(image_size=SIZE, num_demo_images=8, random_flip=True, cache_dir=tmp_path)
    data.load()
    data.encode(Encoder(), CPU)
    assert data.latents is not None
    assert_are_latents(data.latents, data.images, Encoder())
    assert list(tmp_path.iterdir()) == []


def test_latents_of_another_version_are_cleared_and_the_lock_stays(of, opened, tmp_path, monkeypatch):
    of(Encoder())
    (root,) = (tmp_path / "cache").iterdir()
    lock = (root / "lock").stat().st_ino
    monkeypatch.setattr(cache, "MADE_BY", "artart 0, Pillow 1.0")
    opened()
    assert stores(tmp_path / "cache") == {}
    assert (root / "lock").stat().st_ino == lock
    of(encoder := Encoder())
    assert encoder.asked == 2 * 12


def test_images_of_equal_content_share_their_latents(tmp_path):
    """Of which `exclude` may leave several."""
    pixels = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    digests = [64 * "a", 64 * "b", 64 * "a"]
    images = ImageSet(pixels, torch.tensor([0, 1, 0]), torch.zeros(3, 1).long(), digests, digests)
    one = ArtFolder(DataSettings(tmp_path, SIZE, cache_dir=tmp_path / "cache", exclude={"duplicate": False}))
    found = latents_of(images, Encoder(), one, CPU, flips=True)
    assert found.rows.tolist() == [0, 2, 0]
    assert_are_latents(found, images, Encoder())
    assert store.find(one.cache, store.Kind(f"flips-{Encoder().sha256[:16]}-16-stretch", (2, 2, 8, 8), "f2"))


# --- batches


@pytest.mark.parametrize(
    "options",
    [{"shuffle": True, "random_flip": True}, {"shuffle": True, "class_balanced": True}, {"shuffle": False}],
    ids=["flips", "balanced", "validation"],
)
@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_are_the_latents_of_the_loaders_own_images(options, world_size):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (30, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    rows = torch.randperm(30, generator=generator)[:23]
    labels = (rows % 3)[:, None]
    images = ImageSet(pixels, rows, labels, [""] * 23, [""] * 23)
    values, places, normalize = latents_of(images, encoder := Encoder(), None, CPU, "random_flip" in options)
    ids = torch.arange(23)[3:]
    for rank in range(world_size):
        more = {"batch_size": 4, "seed": 5, "rank": rank, "world_size": world_size, **options}
        wanted = Loader(pixels, labels[ids], rows[ids], **more)
        found = Loader(values, labels[ids], places[ids], normalize=normalize, **more)
        for epoch in range(2):
            for loader in (wanted, found):
                loader.set_epoch(epoch)
            for batch, of_images in zip(found, wanted, strict=True):
                on_the_fly = encoder.latents(of_images.x0)
                assert_close(batch.x0 * STD + MEAN, on_the_fly, rtol=HALF_ULP, atol=1e-6, check_stride=False)
                assert batch.x0.is_contiguous(memory_format=torch.channels_last)
                assert torch.equal(batch.y, of_images.y)
