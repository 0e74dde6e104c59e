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
from PIL import Image, ImageOps
from torch import Tensor
from torch.testing import assert_close

from artart import ArtError
from artart.data import demo
from artart.data.captions import words_in
from artart.data.datamodule import ArtDataModule
from artart.data.dataset import place
from artart.data.decode import decode, resize
from artart.data.find import find_all
from artart.data.loader import Loader
from artart.data.preview import preview
from artart.io.images import Batch, to_model

SIZE = 16


Load = Callable[..., ArtDataModule]


@pytest.fixture
def load(art_folder: Path, tmp_path: Path) -> Load:
    """The images of art_folder, loaded; keywords are those of ArtDataModule."""

    def load(**options: Any) -> ArtDataModule:
        options = {"root": art_folder, "image_size": SIZE, "batch_size": 4, "val_fraction": 0.3, **options}
        data = ArtDataModule(**options)
        data.load()
        data.list_unused(tmp_path / "run")
        return data

    return load


def oracle(root: Path) -> dict[str, tuple[Tensor, int]]:
    """What each file of a folder holds, by the hash of its content: pixels and label."""
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    return {
        sha256(path.read_bytes()).hexdigest(): (
            torch.tensor(resize(decode(path), SIZE, "stretch")).permute(2, 0, 1),
            classes.index(path.relative_to(root).parts[0]) if path.parent != root else len(classes),
        )
        for path in find_all(root).images
    }


def names_of(data: ArtDataModule, ids: list[int]) -> list[str]:
    return [data.images.digests[i] for i in ids]


def assert_holds_the_files(data: ArtDataModule, root: Path) -> None:
    expected = oracle(root)
    images = data.images
    for row, label, digest in zip(images.rows.tolist(), images.labels.flatten().tolist(), images.digests, strict=True):
        assert_close(images.pixels[row], expected[digest][0], rtol=0, atol=0)
        assert label == expected[digest][1]
    assert sorted(data.train_ids + data.val_ids) == list(range(len(expected)))


def batches_of(loader: Loader, epoch: int = 0) -> list[Batch]:
    loader.set_epoch(epoch)
    return list(loader)


def order_of(data: ArtDataModule, epoch: int) -> list[int]:
    """Where each image of an epoch stands among the images."""
    images = to_model(data.images.pixels[data.images.rows])
    places = {image.numpy().tobytes(): i for i, image in enumerate(images)}
    assert len(places) == len(images)
    shown = torch.cat([batch.x0 for batch in batches_of(data.train_dataloader(), epoch)])
    return [places[x0.contiguous().numpy().tobytes()] for x0 in shown]


# --- load


def test_every_image_is_on_one_side_with_its_pixels_and_label(load: Load, art_folder: Path) -> None:
    data = load()
    assert_holds_the_files(data, art_folder)
    assert data.val_is_held_out
    assert len(data.val_ids) > 0


def test_real_files_of_a_folder_keep_their_side_when_files_are_added(load: Load, art_folder: Path) -> None:
    before = load(val_fraction=0.5)
    for seed in range(100, 110):
        Image.fromarray(demo.paint("painting", seed, 32)).save(art_folder / "drawing" / f"0_{seed}.png")
    after = load(val_fraction=0.5)
    assert len(after.images.digests) == 22
    trained, held = names_of(before, before.train_ids), names_of(before, before.val_ids)
    assert set(trained) - set(names_of(after, after.train_ids)) <= {max(trained)}
    assert set(held) - set(names_of(after, after.val_ids)) <= {min(held)}


def test_the_order_is_that_of_the_contents_not_of_the_names(load: Load) -> None:
    names = load().images.digests
    assert names == sorted(names)


def index_of(folder: Path) -> Path:
    """The index of a folder of images, in the user's cache."""
    data = ArtDataModule(folder)
    assert data.folder is not None
    return data.folder.cache / "index.csv"


def test_copied_files_are_left_out_unless_asked_for(load: Load, art_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(art_folder / "drawing", art_folder / "copies")
    assert len(load().images.digests) == 12
    with (tmp_path / "run" / "excluded.csv").open(newline="") as file:
        reasons = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert reasons["drawing_0.png"] == "exact duplicate: of copies/drawing_0.png"
    assert len(reasons) == 4
    data = load(val_fraction=0.5, exclude={"duplicate": False, "opt_out": True, "ai_made": True})
    assert len(data.images.digests) == 16
    assert not set(names_of(data, data.train_ids)) & set(names_of(data, data.val_ids))


def test_near_duplicates_of_files_share_a_side(load: Load, tmp_path: Path) -> None:
    root = tmp_path / "alike"
    root.mkdir()
    for seed in range(12):
        image = Image.fromarray(demo.paint(demo.CLASS_NAMES[seed % 5], seed, 96))
        image.save(root / f"{seed:02d}.png")
        image.save(root / f"{seed:02d}_again.jpg", quality=60)
        ImageOps.mirror(image).resize((80, 80)).save(root / f"{seed:02d}_mirrored.webp")
    data = load(root=root, val_fraction=0.5)
    work_of = {sha256(path.read_bytes()).hexdigest(): path.name[:2] for path in root.iterdir()}
    trained, held = ({work_of[name] for name in names_of(data, ids)} for ids in (data.train_ids, data.val_ids))
    assert trained.isdisjoint(held)
    assert len(trained | held) == 12


def test_four_images_are_enough_for_both_sides(load: Load, art_folder: Path) -> None:
    data = load(root=art_folder / "drawing", val_fraction=0.01)
    assert (len(data.train_ids), len(data.val_ids)) == (3, 1)


def test_classes_are_known_without_decoding(art_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (art_folder / "broken").mkdir()
    (art_folder / "broken" / "a.jpg").write_bytes(b"no image")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("an image was decoded"))
    assert ArtDataModule(art_folder).label_names["class"] == ["broken", *demo.CLASS_NAMES[:3]]


def test_files_in_the_root_itself_have_no_class(load: Load, art_folder: Path) -> None:
    shutil.copy(art_folder / "drawing" / "drawing_0.png", art_folder / "loose.png")
    (art_folder / "drawing" / "drawing_0.png").unlink()
    data = load(val_fraction=0)
    assert_holds_the_files(data, art_folder)
    assert data.images.labels.flatten().bincount().tolist() == [3, 4, 4, 1]
    assert data.label_names["class"] == list(demo.CLASS_NAMES[:3])


def test_without_sub_folders_there_are_no_classes(load: Load, art_folder: Path) -> None:
    folder = art_folder / "drawing"
    shutil.move(folder / "1900" / "drawing_1.JPG", folder)
    shutil.move(folder / "1900" / "spring" / "drawing_2.Jpeg", folder)
    data = load(root=folder, val_fraction=0)
    assert data.label_names == {"class": []}
    assert data.images.labels.tolist() == [[0]] * 4


def test_a_table_gives_the_classes_and_the_licences(
    load: Load, art_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [path.relative_to(art_folder) for path in find_all(art_folder).images]
    rows = [f"{path},{path.stem[-1]},{'CC0 1.0' if path.stem[-1] in '012' else 'CC BY-NC'}" for path in files[:-1]]
    table = tmp_path / "art.csv"
    table.write_text("\n".join(["path,class,licence", *rows, "gone.png,0,CC0 1.0"]))
    data = load(metadata=str(table), licences=["cc0*"], val_fraction=0)
    assert data.label_names["class"] == ["0", "1", "2"]
    assert data.images.labels.flatten().bincount().tolist() == [3, 3, 3]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines == [
        f"1 paths of data.metadata name no image below {art_folder}, such as 'gone.png'",
        f"3 of 12 files are left out (2 not in data.licences, 1 not in data.metadata): see {index_of(art_folder)}",
    ]


def test_with_a_fraction_of_0_validation_previews_the_training_set(load: Load) -> None:
    data = load(val_fraction=0, batch_size=5)
    assert not data.val_is_held_out
    assert len(data.train_ids) == 12
    (batch,) = data.val_dataloader()
    assert_close(batch.x0, to_model(data.images.pixels[data.images.rows[:5]]), rtol=0, atol=0, check_stride=False)


def test_demo_art_is_painted_where_there_is_no_folder(load: Load) -> None:
    data = load(root=None, num_demo_images=10, seed=3, val_fraction=0)
    pixels, labels = zip(*demo.make(10, SIZE, 3), strict=True)
    assert data.label_names["class"] == list(demo.CLASS_NAMES)
    assert_close(data.images.pixels[data.images.rows], torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2))
    assert_close(data.images.labels, torch.tensor(labels)[:, None], rtol=0, atol=0)
    assert len(set(data.images.digests)) == 10


def test_setup_loads_once(load: Load, art_folder: Path) -> None:
    data = ArtDataModule(root=art_folder, image_size=SIZE, val_fraction=0)
    data.setup("fit")
    assert_holds_the_files(data, art_folder)
    images = data.images
    data.setup("validate")
    assert data.images is images


# --- what is refused


def spoil(root: Path, num: int) -> list[Path]:
    paths = find_all(root).images[:num]
    for path in paths:
        path.write_bytes(b"no image")
    return paths


def test_unusable_files_are_listed_and_reported_in_one_line(
    load: Load, art_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoiled = spoil(art_folder, 2)
    (art_folder / "empty.png").touch()
    data = load()
    assert len(data.images.digests) == 10
    table = tmp_path / "run" / "rejected.csv"
    with table.open(newline="") as file:
        rows = [(row["path"], row["reason"], row["bytes"]) for row in csv.DictReader(file)]
    reason = "not an image, or cut off in its header"
    assert sorted(rows) == sorted(
        [(str(path), reason, "8") for path in spoiled] + [(str(art_folder / "empty.png"), "empty file", "0")]
    )
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"3 of 13 files are unusable (2 {reason}, 1 empty file): see {index_of(art_folder)}"]


def test_as_many_unusable_files_as_allowed_are_accepted(load: Load, art_folder: Path) -> None:
    spoil(art_folder, 6)
    assert len(load(val_fraction=0, max_rejected_fraction=0.5).images.digests) == 6


def refusal(load: Load, **options: Any) -> str:
    with pytest.raises(ArtError) as error:
        load(**options)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_too_many_unusable_files_are_refused(load: Load, art_folder: Path) -> None:
    spoil(art_folder, 7)
    table = index_of(art_folder)
    assert refusal(load, max_rejected_fraction=0.5) == (
        f"data.root={art_folder}: 7 of 12 files are unusable (7 not an image, or cut off in its header): see {table}; "
        "that is more than data.max_rejected_fraction=0.5: repair the folder or raise the fraction"
    )
    assert table.read_text().count("rejected,") == 7


def test_too_few_usable_images_are_refused(load: Load, art_folder: Path) -> None:
    spoil(art_folder, 9)
    message = refusal(load, max_rejected_fraction=1.0)
    assert message.startswith(f"data.root={art_folder}: 3 of 12 files can be used, at least 4 are needed; 9 of 12")
    assert message.endswith(f"see {index_of(art_folder)}")


def test_a_small_folder_of_good_images_is_refused_with_a_remedy(load: Load, art_folder: Path) -> None:
    root = art_folder / "drawing" / "1900"
    assert refusal(load, root=root) == f"data.root={root}: 2 of 2 files can be used, at least 4 are needed; add images"


def test_a_folder_without_images_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    assert refusal(load, root=tmp_path / "notes").startswith(
        f"data.root={tmp_path / 'notes'}: no image below this folder"
    )


def test_near_duplicates_of_one_image_cannot_be_split(load: Load, tmp_path: Path) -> None:
    root = tmp_path / "copies"
    root.mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8 + i)).save(root / f"{i}.png")
    assert refusal(load, root=root).startswith("data.val_fraction=0.3: all 4 images are near-duplicates")
    assert len(load(root=root, val_fraction=0).train_ids) == 4


def test_a_table_without_a_folder_is_refused(load: Load) -> None:
    assert refusal(load, root=None, metadata="art.csv").startswith("data.metadata=art.csv: describes a folder")


def test_licences_without_a_table_are_refused(load: Load) -> None:
    for options in ({}, {"root": None}):
        assert "licences are a column of a table; name it by data.metadata" in refusal(
            load, licences=["CC0"], **options
        )


def test_an_empty_list_of_licences_is_refused(load: Load) -> None:
    assert refusal(load, metadata="art.csv", licences=[]) == "data.licences=[]: null allows all"


# --- batches


def test_loaders_have_the_images_of_their_side_and_the_settings(load: Load) -> None:
    data = load(val_fraction=0.5, batch_size=2, random_flip=True, class_balanced=True, seed=3)
    images, of_training = data.images, {"shuffle": True, "random_flip": True, "class_balanced": True, "seed": 3}
    for loader, ids, options in (
        (data.train_dataloader(), data.train_ids, of_training),
        (data.val_dataloader(), data.val_ids, {}),
    ):
        wanted = Loader(images.pixels, images.labels[ids], images.rows[ids], 2, **options)
        for epoch in range(2):
            for batch, other in zip(batches_of(loader, epoch), batches_of(wanted, epoch), strict=True):
                assert_close(batch, other, rtol=0, atol=0)


def test_a_batch_holds_files_with_their_classes(load: Load, art_folder: Path) -> None:
    (batch,) = batches_of(load(val_fraction=0, batch_size=12).train_dataloader())
    expected = {to_model(pixels).numpy().tobytes(): label for pixels, label in oracle(art_folder).values()}
    assert [expected.pop(x0.contiguous().numpy().tobytes()) for x0 in batch.x0] == batch.y.flatten().tolist()


def test_a_batch_size_above_the_set_makes_the_set_the_batch(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = load(val_fraction=0, batch_size=100)
    (batch,) = batches_of(data.train_dataloader())
    assert len(batch.x0) == 12
    lines = [line for line in caplog.messages if line.startswith("data.batch_size")]
    assert lines == ["data.batch_size=100: the training set has only 12, so it is the batch"]


def test_nothing_is_said_of_a_batch_size_that_fits(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load(val_fraction=0, batch_size=12)
    assert caplog.messages[-1] == "12 images: 12 for training, none held out"


def test_an_epoch_covers_the_training_set(load: Load) -> None:
    data = load(val_fraction=0.3, batch_size=1)
    for epoch in range(3):
        assert sorted(order_of(data, epoch)) == data.train_ids


@pytest.mark.parametrize("storage", ["auto", "memory", "device"])
def test_batches_are_the_same_wherever_the_pixels_lie(load: Load, storage: str) -> None:
    expected = batches_of(load(val_fraction=0, random_flip=True).train_dataloader())
    for batch, other in zip(
        expected, batches_of(load(val_fraction=0, random_flip=True, storage=storage).train_dataloader()), strict=True
    ):
        assert_close(batch, other, rtol=0, atol=0)


def test_both_loaders_share_the_pixels_which_stay_in_the_memory_map(load: Load) -> None:
    data = load()
    pixels = data.images.pixels.data_ptr()
    assert data.train_dataloader().pixels.data_ptr() == data.val_dataloader().pixels.data_ptr() == pixels


def test_a_second_load_gives_the_images_of_the_folder_as_it_is_then(load: Load, art_folder: Path) -> None:
    data = load(val_fraction=0)
    list(data.train_dataloader())  # the pixels are where they are to lie
    (art_folder / "drawing" / "drawing_0.png").unlink()
    for seed in range(3):
        Image.fromarray(demo.paint("painting", seed, 32)).save(art_folder / "engraving" / f"0{seed}.png")
    del data.folder.found  # type: ignore[union-attr]  # which was looked at once
    data.load()
    assert_holds_the_files(data, art_folder)
    shown = torch.cat([batch.x0 for batch in batches_of(data.train_dataloader())])
    files = {to_model(pixels).numpy().tobytes() for pixels, _ in oracle(art_folder).values()}
    assert {x0.contiguous().numpy().tobytes() for x0 in shown} < files


@pytest.mark.parametrize(
    ("storage", "free", "moved"), [("auto", 1.0, False), ("auto", 4.1, True), ("device", 1.1, True)]
)
def test_pixels_move_to_a_gpu_with_room(
    load: Load, monkeypatch: pytest.MonkeyPatch, storage: str, free: float, moved: bool
) -> None:
    assert (placed_on_a_gpu(load(storage=storage), free, monkeypatch).device.type == "meta") == moved


def test_pixels_that_do_not_fit_are_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(storage="device")
    with pytest.raises(ArtError, match=r"^data.storage=device: the pixels take 9.2 kB and 8.3 kB of the GPU are free"):
        placed_on_a_gpu(data, 0.9, monkeypatch)


def placed_on_a_gpu(data: ArtDataModule, free: float, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The pixels, as if this machine had a GPU with so many times the room that they take."""

    class Gpu:
        type = "cuda"

    room = int(free * data.images.pixels.nbytes)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room, room))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(Tensor, "to", lambda self, device: torch.empty(self.shape, device="meta"))
    return place(data.images.pixels, data.storage, Gpu())  # type: ignore[arg-type]


# --- preview


def test_a_preview_has_a_row_for_each_class_and_begins_with_what_is_held_out(load: Load, art_folder: Path) -> None:
    data = load(val_fraction=0.5)
    assert 0 < len(data.val_ids) < 12
    shown = preview(data, per_row=4, min_rows=3)
    assert shown.y.flatten().tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert shown.x0.dtype == torch.float32
    held_out = {to_model(data.images.pixels[data.images.rows[i]]).numpy().tobytes() for i in data.val_ids}
    of_class = {
        label: {to_model(p).numpy().tobytes() for p, y in oracle(art_folder).values() if y == label}
        for label in range(3)
    }
    for label, row in enumerate(shown.x0.split(4)):
        own = [x0.contiguous().numpy().tobytes() for x0 in row]
        assert set(own) == of_class[label]  # each of the four, once
        flags = [image in held_out for image in own]
        assert flags == sorted(flags, reverse=True)


def test_a_preview_of_few_classes_has_several_rows_of_each(load: Load) -> None:
    data = load()
    assert preview(data, per_row=2).y.flatten().tolist() == [0] * 4 + [1] * 4 + [2] * 4  # 2 rows each make more than 4
    assert preview(data, per_row=3, min_rows=1).y.flatten().tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_a_preview_repeats_the_images_of_a_small_class(load: Load) -> None:
    data = load()
    rows = preview(data, per_row=10, min_rows=1).x0.split(10)
    for row in rows:
        assert_close(row[4:8], row[:4], rtol=0, atol=0)
        assert_close(row[8:], row[:2], rtol=0, atol=0)


def test_a_preview_shows_the_most_frequent_classes_in_their_order(load: Load, art_folder: Path) -> None:
    for seed in range(100, 103):
        for name in ("drawing", "iconography"):
            Image.fromarray(demo.paint("painting", seed, 32)).save(art_folder / name / f"0_{name}_{seed}.png")
    data = load(exclude={"duplicate": False})
    assert preview(data, per_row=1, min_rows=1, max_rows=2).y.flatten().tolist() == [0, 2]


def test_a_preview_of_images_without_classes_is_of_no_class(load: Load, art_folder: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(find_all(art_folder).images):
        shutil.copy(path, flat / f"{number}{path.suffix}")
    data = load(root=flat)
    assert data.label_names == {"class": []}
    shown = preview(data, per_row=3)
    assert shown.y.flatten().tolist() == [0] * 12  # four rows of three
    assert len({x0.contiguous().numpy().tobytes() for x0 in shown.x0}) == 12


# --- labels of several columns


@pytest.fixture
def of_artists(load: Load, art_folder: Path, tmp_path: Path) -> Load:
    """art_folder with a table: the second file of each class is by Bo, the third by Ada, the last by nobody.

    The first is by somebody of one image.
    """
    rows = ["path,artist"]
    for name in sorted(path.name for path in art_folder.iterdir()):
        files = sorted(path.relative_to(art_folder) for path in find_all(art_folder / name).images)
        rows += [f"{path},{artist}" for path, artist in zip(files, (f"one of {name}", "Bo", "Ada", ""), strict=True)]
    (tmp_path / "art.csv").write_text("\n".join(rows))
    options = {"metadata": tmp_path / "art.csv", "labels": ["class", "artist"], "min_per_label": 3}
    return lambda **more: load(**options | more)


def expected_rows(art_folder: Path) -> dict[str, list[int]]:
    """By the hash of each file: its class; Ada, Bo or none."""
    return {
        sha256(path.read_bytes()).hexdigest(): [number, label]
        for number, name in enumerate(sorted(path.name for path in art_folder.iterdir()))
        for path, label in zip(sorted(find_all(art_folder / name).images), (2, 1, 0, 2), strict=True)
    }


def test_each_image_has_a_label_in_each_column(of_artists: Load, art_folder: Path) -> None:
    data = of_artists(val_fraction=0.5)
    assert list(data.label_names.items()) == [("class", list(demo.CLASS_NAMES[:3])), ("artist", ["Ada", "Bo"])]
    rows = dict(zip(data.images.digests, data.images.labels.tolist(), strict=True))
    assert rows == expected_rows(art_folder)
    assert data.images.labels.dtype == torch.int64
    for ids, batches in (
        (data.train_ids, batches_of(data.train_dataloader())),
        (data.val_ids, batches_of(data.val_dataloader())),
    ):
        pixels = {x0.numpy().tobytes(): i for x0, i in zip(to_model(data.pixels_of(ids)), ids, strict=True)}
        for batch in batches:
            for x0, y in zip(batch.x0, batch.y, strict=True):
                assert y.tolist() == data.images.labels[pixels[x0.contiguous().numpy().tobytes()]].tolist()
    (name,) = data.names_of([data.images.digests.index(next(key for key, row in rows.items() if row == [1, 0]))])
    assert name == ("engraving", "Ada")


def test_the_facts_of_one_column_are_what_they_were_and_those_of_two_are_of_both(
    of_artists: Load, art_folder: Path
) -> None:
    one, two, all_four = (of_artists(**more) for more in ({"labels": ["class"]}, {}, {"min_per_label": 1}))
    sides = {**dict.fromkeys(one.train_ids, "train"), **dict.fromkeys(one.val_ids, "val")}
    lines = [f"{digest} {one.images.labels[i].item()} {sides[i]}" for i, digest in enumerate(one.images.digests)]
    assert one.facts["sha256"] == sha256("\n".join(sorted(lines)).encode()).hexdigest()
    assert len({data.facts["sha256"] for data in (one, two, all_four)}) == 3


def test_a_preview_has_rows_by_the_first_column_and_whole_labels(of_artists: Load, art_folder: Path) -> None:
    data = of_artists(val_fraction=0)
    shown = preview(data, per_row=4, min_rows=1)
    assert shown.y[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    expected = expected_rows(art_folder)
    pixels = {
        to_model(data.pixels_of([i])).numpy().tobytes(): expected[key] for i, key in enumerate(data.images.digests)
    }
    assert [pixels[x0[None].contiguous().numpy().tobytes()] for x0 in shown.x0] == shown.y.tolist()


def test_a_column_may_stand_alone(of_artists: Load) -> None:
    data = of_artists(labels=["artist"], val_fraction=0)
    assert data.label_names == {"artist": ["Ada", "Bo"]}
    assert data.images.labels.flatten().bincount().tolist() == [3, 3, 6]


# --- captions


@pytest.fixture
def captioned(load: Load, art_folder: Path) -> Load:
    """Each image has two captions, all of its class; those of the last class have none."""
    for path in find_all(art_folder).images:
        name = path.relative_to(art_folder).parts[0]
        if name != demo.CLASS_NAMES[2]:
            path.with_suffix(".txt").write_text(f"a {name}\n{name} number {path.stem[-1]}")
    return lambda **options: load(captions="txt", **options)


def test_batches_hold_the_tokens_of_one_of_the_captions(captioned: Load) -> None:
    data = captioned(val_fraction=0, batch_size=12)
    vocabulary = data.text.vocabulary
    assert vocabulary
    (batch,) = data.train_dataloader()
    known = [{*map(tuple, vocabulary.encode(texts or ("",)).tolist())} for texts in data.images.captions]
    of_pixels = {to_model(data.pixels_of([i])).numpy().tobytes(): known[i] for i in range(12)}
    for x0, y in zip(*batch, strict=True):
        assert tuple(y.tolist()) in of_pixels[x0[None].contiguous().numpy().tobytes()]
    assert data.text.network == {"text": [vocabulary.size, vocabulary.num_tokens]}


def test_the_vocabulary_knows_the_words_of_training_images_alone(captioned: Load) -> None:
    data = captioned(val_fraction=0.5)
    vocabulary = data.text.vocabulary
    assert vocabulary
    texts = [text for i in data.train_ids for text in data.images.captions[i]]
    assert set(vocabulary.words) == {word for text in texts for word in words_in(text)}
    assert set(vocabulary.prompts) == set(texts)


def test_a_preview_has_a_row_for_each_prompt_with_the_images_that_fit_best(captioned: Load) -> None:
    name = demo.CLASS_NAMES[1]
    data = captioned(val_fraction=0, prompts=[f"a {name}", f"{name} number 3"])
    vocabulary = data.text.vocabulary
    assert vocabulary
    shown = preview(data, per_row=2)
    assert_close(shown.y, vocabulary.encode(data.prompts).repeat_interleave(2, dim=0))
    captions = {to_model(data.pixels_of([i])).numpy().tobytes(): data.images.captions[i] for i in range(12)}
    best = [captions[x0[None].contiguous().numpy().tobytes()] for x0 in shown.x0]
    assert f"a {name}" in best[0]
    assert f"a {name}" in best[1]
    assert f"{name} number 3" in best[2]


def test_captions_count_in_the_facts_and_labels_are_kept(captioned: Load, load: Load, art_folder: Path) -> None:
    plain, data = load(), captioned()
    assert plain.facts["sha256"] != data.facts["sha256"]
    assert_close(plain.images.labels, data.images.labels)
    next(art_folder.rglob("*.txt")).write_text("another")
    assert captioned().facts["sha256"] != data.facts["sha256"]


def test_demo_art_has_captions_of_its_classes() -> None:
    data = ArtDataModule(None, 16, num_demo_images=10, captions="auto")
    data.load()
    assert data.images.captions[0] == ("drawing", "demo art, drawing")
    assert data.text.vocabulary
