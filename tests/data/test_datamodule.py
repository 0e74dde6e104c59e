import csv
import logging
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torch.utils.data import DataLoader, DistributedSampler

from artart import ArtError
from artart.data import demo
from artart.data.datamodule import ArtDataModule, Pictures, PictureSet, split
from artart.data.files import find
from artart.images import Batch, decode, squash, to_model

SIZE = 16
NUM_CLASSES = 3


def digests(num: int, start: int = 0) -> list[str]:
    return [sha256(str(i).encode()).hexdigest() for i in range(start, start + num)]


def held_out(names: list[str], val_fraction: float) -> set[str]:
    return {names[i] for i in split(names, val_fraction)}


Load = Callable[..., ArtDataModule]


@pytest.fixture
def load(art_folder: Path, tmp_path: Path) -> Load:
    """The pictures of art_folder, loaded; keywords are those of ArtDataModule."""

    def load(**options: Any) -> ArtDataModule:
        options = {"root": art_folder, "image_size": SIZE, "batch_size": 4, "val_fraction": 0.3, **options}
        data = ArtDataModule(**options)
        data.load(tmp_path / "run" / "rejected.csv")
        return data

    return load


def oracle(root: Path) -> dict[str, tuple[torch.Tensor, int]]:
    """What each file of a folder of three classes holds, by the hash of its content: pixels and label."""
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    return {
        sha256(path.read_bytes()).hexdigest(): (
            torch.tensor(squash(decode(path), SIZE)).permute(2, 0, 1),
            classes.index(path.relative_to(root).parts[0]) if path.parent != root else len(classes),
        )
        for path in find(root)
    }


def assert_holds_the_files(pictures: Pictures, root: Path) -> None:
    expected = oracle(root)
    for pixels, label, digest in zip(pictures.pixels, pictures.labels.tolist(), pictures.digests, strict=True):
        assert_close(pixels, expected[digest][0], rtol=0, atol=0)
        assert label == expected[digest][1]


def batches_of(loader: DataLoader[Batch], epoch: int = 0) -> list[Batch]:
    if isinstance(loader.sampler, DistributedSampler):
        loader.sampler.set_epoch(epoch)
    return list(loader)


def order_of(data: ArtDataModule, epoch: int) -> list[int]:
    """Where each picture of an epoch stands in the training set."""
    rows = {pixels.numpy().tobytes(): i for i, pixels in enumerate(data.train.pictures.pixels)}
    assert len(rows) == len(data.train)
    return [rows[x.numpy().tobytes()] for batch in batches_of(data.train_dataloader(), epoch) for x in batch.x0]


# --- split


@pytest.mark.parametrize("val_fraction", [0.05, 0.1, 0.5, 0.9])
def test_the_split_holds_out_about_the_fraction(val_fraction: float) -> None:
    assert len(split(digests(2000), val_fraction)) / 2000 == pytest.approx(val_fraction, abs=0.03)


@pytest.mark.parametrize("val_fraction", [0.1, 0.5])
def test_a_picture_keeps_its_side_when_others_are_added(val_fraction: float) -> None:
    few, many = digests(200), digests(1000)
    assert held_out(many, val_fraction) & set(few) == held_out(few, val_fraction)
    assert held_out(few[::-1], val_fraction) == held_out(few, val_fraction)


def test_copies_of_a_picture_share_a_side() -> None:
    names = digests(50)
    ids = set(split(names * 2, 0.3))
    assert 0 < len(ids) < 100
    assert {i % 50 for i in ids if i < 50} == {i % 50 for i in ids if i >= 50}


@pytest.mark.parametrize("val_fraction", [1e-9, 0.1, 0.5, 0.999999])
@pytest.mark.parametrize("num", [2, 4, 5, 20])
def test_no_side_is_ever_empty(num: int, val_fraction: float) -> None:
    for start in range(0, 1000, num):
        assert 0 < len(split(digests(num, start), val_fraction)) < num


def test_nothing_is_held_out_with_a_fraction_of_0() -> None:
    assert split(digests(20), 0) == []


# --- load


def test_every_picture_is_on_one_side_with_its_pixels_and_label(load: Load, art_folder: Path) -> None:
    data = load()
    train, val = data.train.pictures, data.val.pictures
    assert_holds_the_files(train, art_folder)
    assert_holds_the_files(val, art_folder)
    assert sorted(train.digests + val.digests) == sorted(oracle(art_folder))
    assert data.val_is_held_out
    assert len(val.digests) > 0


def test_real_files_of_a_folder_keep_their_side_when_files_are_added(load: Load, art_folder: Path) -> None:
    before = load(val_fraction=0.5)
    for seed in range(100, 110):
        Image.fromarray(demo.paint("painting", seed, 32)).save(art_folder / "drawing" / f"0_{seed}.png")
    after = load(val_fraction=0.5)
    assert len(after.train) + len(after.val) == 22
    assert set(before.train.pictures.digests) - set(after.train.pictures.digests) <= {
        max(before.train.pictures.digests)
    }
    assert set(before.val.pictures.digests) - set(after.val.pictures.digests) <= {min(before.val.pictures.digests)}


def test_the_order_in_memory_is_that_of_the_contents_not_of_the_names(load: Load) -> None:
    pictures = load(val_fraction=0).train.pictures
    assert pictures.digests == sorted(pictures.digests)


def test_copied_files_share_a_side(load: Load, art_folder: Path) -> None:
    shutil.copytree(art_folder / "drawing", art_folder / "copies")
    data = load(val_fraction=0.5)
    assert len(data.train) + len(data.val) == 16
    assert not set(data.train.pictures.digests) & set(data.val.pictures.digests)


def test_four_pictures_are_enough_for_both_sides(load: Load, art_folder: Path) -> None:
    data = load(root=art_folder / "drawing", val_fraction=0.01)
    assert (len(data.train), len(data.val)) == (3, 1)


def test_classes_are_known_without_decoding(art_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (art_folder / "broken").mkdir()
    (art_folder / "broken" / "a.jpg").write_bytes(b"no picture")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("a picture was decoded"))
    assert ArtDataModule(art_folder).class_names == ["broken", *demo.CLASS_NAMES[:3]]


def test_files_in_the_root_itself_have_no_class(load: Load, art_folder: Path) -> None:
    shutil.copy(art_folder / "drawing" / "drawing_0.png", art_folder / "loose.png")
    (art_folder / "drawing" / "drawing_0.png").unlink()
    data = load(val_fraction=0)
    assert_holds_the_files(data.train.pictures, art_folder)
    assert data.train.pictures.labels.bincount().tolist() == [3, 4, 4, 1]
    assert data.class_names == list(demo.CLASS_NAMES[:3])


def test_without_sub_folders_there_are_no_classes(load: Load, art_folder: Path) -> None:
    folder = art_folder / "drawing"
    shutil.move(folder / "1900" / "drawing_1.JPG", folder)
    shutil.move(folder / "1900" / "spring" / "drawing_2.Jpeg", folder)
    data = load(root=folder, val_fraction=0)
    assert data.class_names == []
    assert data.train.pictures.labels.tolist() == [0, 0, 0, 0]


def test_with_a_fraction_of_0_validation_previews_the_training_set(load: Load) -> None:
    data = load(val_fraction=0, batch_size=5)
    assert not data.val_is_held_out
    assert len(data.train) == 12
    assert data.val.pictures.digests == data.train.pictures.digests[:5]


def test_demo_art_is_painted_where_there_is_no_folder(load: Load) -> None:
    data = load(root=None, num_demo_pictures=10, seed=3, val_fraction=0)
    pixels, labels = zip(*demo.make(10, SIZE, 3), strict=True)
    assert data.class_names == list(demo.CLASS_NAMES)
    assert_close(data.train.pictures.pixels, torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2), rtol=0, atol=0)
    assert_close(data.train.pictures.labels, torch.tensor(labels), rtol=0, atol=0)
    assert len(set(data.train.pictures.digests)) == 10


# --- what is refused


def spoil(root: Path, num: int) -> list[Path]:
    paths = find(root)[:num]
    for path in paths:
        path.write_bytes(b"no picture")
    return paths


def test_unusable_files_are_listed_and_told_in_one_line(
    load: Load, art_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoiled = spoil(art_folder, 2)
    (art_folder / "empty.png").touch()
    data = load()
    assert len(data.train) + len(data.val) == 10
    table = tmp_path / "run" / "rejected.csv"
    with table.open(newline="") as file:
        rows = [(row["path"], row["reason"], row["bytes"]) for row in csv.DictReader(file)]
    reason = "not a picture, or cut off in its header"
    assert rows == [(str(path), reason, "10") for path in spoiled] + [
        (str(art_folder / "empty.png"), "empty file", "0")
    ]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"3 of 13 files are unusable (2 {reason}, 1 empty file): see {table}"]


def test_as_many_unusable_files_as_allowed_are_accepted(load: Load, art_folder: Path) -> None:
    spoil(art_folder, 6)
    assert len(load(val_fraction=0, max_rejected_fraction=0.5).train) == 6


def refusal(load: Load, **options: Any) -> str:
    with pytest.raises(ArtError) as error:
        load(**options)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_too_many_unusable_files_are_refused(load: Load, art_folder: Path, tmp_path: Path) -> None:
    spoil(art_folder, 7)
    table = tmp_path / "run" / "rejected.csv"
    assert refusal(load, max_rejected_fraction=0.5) == (
        f"data.root={art_folder}: 7 of 12 files are unusable, more than data.max_rejected_fraction=0.5 "
        f"(7 not a picture, or cut off in its header); see {table}, mend the folder or raise the fraction"
    )
    assert len(table.read_text().splitlines()) == 8


def test_too_few_usable_pictures_are_refused(load: Load, art_folder: Path, tmp_path: Path) -> None:
    spoil(art_folder, 9)
    message = refusal(load, max_rejected_fraction=1.0)
    assert message.startswith(f"data.root={art_folder}: 3 of 12 files can be used, 4 are the least (9 not a picture")
    assert message.endswith(f"see {tmp_path / 'run' / 'rejected.csv'})")


def test_a_small_folder_of_good_pictures_is_refused_with_a_remedy(load: Load, art_folder: Path) -> None:
    root = art_folder / "drawing" / "1900"
    assert refusal(load, root=root) == f"data.root={root}: 2 of 2 files can be used, 4 are the least; add pictures"


def test_a_folder_without_pictures_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no picture")
    assert refusal(load, root=tmp_path / "notes").startswith(
        f"data.root={tmp_path / 'notes'}: no picture below this folder"
    )


def test_copies_of_one_picture_cannot_be_split(load: Load, tmp_path: Path) -> None:
    root = tmp_path / "copies"
    root.mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8)).save(root / f"{i}.png")
    assert refusal(load, root=root).startswith("data.val_fraction=0.3: all 4 pictures are copies of one")
    assert len(load(root=root, val_fraction=0).train) == 4


def test_too_little_demo_art_is_refused(load: Load) -> None:
    assert refusal(load, root=None, num_demo_pictures=3) == "data.num_demo_pictures=3: 4 are the least"


# --- batches


def test_training_batches_are_full_batches_of_bytes(load: Load) -> None:
    data = load(val_fraction=0, batch_size=5)
    batches = batches_of(data.train_dataloader())
    assert len(data.train_dataloader()) == len(batches) == 2  # of 12 pictures 2 are left over
    for x0, y in batches:
        assert (x0.dtype, x0.shape) == (torch.uint8, (5, 3, SIZE, SIZE))
        assert (y.dtype, y.shape) == (torch.int64, (5,))


def test_a_batch_is_the_decoded_files_stacked(load: Load, art_folder: Path) -> None:
    data = load(val_fraction=0, batch_size=12)
    (batch,) = batches_of(data.train_dataloader())
    expected = oracle(art_folder)
    order = DistributedSampler(data.train, num_replicas=1, rank=0, seed=0)
    files = [expected[data.train.pictures.digests[i]] for i in order]
    assert_close(batch.x0, torch.stack([pixels for pixels, _ in files]), rtol=0, atol=0)
    assert batch.y.tolist() == [label for _, label in files]


def test_a_batch_size_above_the_set_makes_the_set_the_batch(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = load(val_fraction=0, batch_size=100)
    (batch,) = batches_of(data.train_dataloader())
    assert len(batch.x0) == 12
    lines = [line for line in caplog.messages if "batch_size" in line]
    assert lines == ["data.batch_size=100: the training set has only 12, so it is the batch"]


def test_nothing_is_said_of_a_batch_size_that_fits(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load(val_fraction=0, batch_size=12)
    assert caplog.messages == ["12 pictures: 12 for training, none held out"]


def test_validation_batches_hold_every_picture_in_a_fixed_order(load: Load) -> None:
    data = load(val_fraction=0.5, batch_size=2)
    for _ in range(2):
        batches = batches_of(data.val_dataloader())
        assert_close(torch.cat([batch.x0 for batch in batches]), data.val.pictures.pixels, rtol=0, atol=0)
        assert_close(torch.cat([batch.y for batch in batches]), data.val.pictures.labels, rtol=0, atol=0)


def test_an_epoch_covers_the_training_set(load: Load) -> None:
    data = load(val_fraction=0, batch_size=4)
    for epoch in range(3):
        assert sorted(order_of(data, epoch)) == list(range(12))


def test_the_order_is_a_function_of_seed_and_epoch(load: Load) -> None:
    orders = {epoch: order_of(load(val_fraction=0, seed=1), epoch) for epoch in range(3)}
    torch.manual_seed(5)
    again = load(val_fraction=0, seed=1, num_workers=1)
    assert {epoch: order_of(again, epoch) for epoch in (2, 0, 1)} == orders
    assert orders[0] != orders[1] != orders[2]
    assert order_of(load(val_fraction=0, seed=100), 0) != orders[0]


def test_a_batch_equals_its_pictures_one_by_one() -> None:
    pixels = torch.tensor(np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), np.uint8))
    pictures = PictureSet(Pictures(pixels, torch.arange(6), digests(6)))
    batch = pictures.__getitems__([4, 1, 4])
    ones = [pictures[i] for i in (4, 1, 4)]
    assert_close(batch.x0, torch.stack([one.x0 for one in ones]), rtol=0, atol=0)
    assert_close(batch.y, torch.stack([one.y for one in ones]), rtol=0, atol=0)


def test_on_the_device_bytes_become_the_models_range(load: Load) -> None:
    data = load(val_fraction=0)
    batch = batches_of(data.train_dataloader())[0]
    x0, y = data.on_after_batch_transfer(batch, 0)
    assert x0.dtype == torch.float32
    assert x0.is_contiguous(memory_format=torch.channels_last)
    assert_close(x0, to_model(batch.x0), rtol=0, atol=0, check_stride=False)
    assert -1 <= x0.min() < -0.5 < 0.5 < x0.max() <= 1
    assert_close(y, batch.y, rtol=0, atol=0)
