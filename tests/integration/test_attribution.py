"""Samples and the training images that are nearest to them."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artart.checkpoints.load import load
from artart.data.datamodule import ArtDataModule
from artart.evaluation.attribution import Attribution, training_set
from artart.evaluation.held_out import held_out_data
from artart.generation import plan
from artart.generation.output import Output
from artart.io.images import to_model
from artart.io.provenance import ImageProvenance, provenance_of

LAST = "checkpoints/last.ckpt"
FAST = ("num_images=3", "sampler.num_steps=2", "out=made")
MADE = ImageProvenance("trained", {})


def rows_of(folder: str = "made") -> list[dict[str, str]]:
    with Path(folder, "attribution.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def data(artists_run):
    """Those of the run on images of three artists."""
    data = held_out_data(load(artists_run / LAST))
    data.load()
    return data


@pytest.fixture
def attribute(data, tmp_path):
    """`attribute(pixels)`: the table for samples with these pixels, and the sentence."""

    def attribute(pixels: torch.Tensor, k: int = 3, training=None) -> tuple[list[dict[str, str]], str]:
        found = Attribution(training or training_set(data), k)
        for number, one in enumerate(pixels):
            found.add(tmp_path / "made" / f"{number}.png", one, MADE)
        sentence = found.write(tmp_path / "made", Output(tmp_path / "made").save)
        return rows_of(str(tmp_path / "made")), sentence

    return attribute


@pytest.fixture
def copier(monkeypatch):
    """`copier(pixels)`: a sampler whose images are these, in turn."""

    def copier(pixels: torch.Tensor) -> None:
        left = iter(to_model(pixels))
        monkeypatch.setattr(plan, "sample_images", lambda *of: iter([torch.stack([next(left) for _ in of[3]])]))

    return copier


# ---------------------------------------------------------------- the comparison


@pytest.mark.slow
def test_training_images_are_nearest_to_themselves_and_closer_than_held_out_art(attribute, data):
    rows, sentence = attribute(data.pixels_of(data.train_ids))
    nearest = rows[::3]
    for row, i in zip(nearest, data.train_ids, strict=True):
        (path,) = [entry.path for entry in data.entries if entry.facts.sha256 == data.images.digests[i]]
        assert row["path"] == path, "below data.root, so that nothing published names folders of this machine"
        assert float(row["distance"]) == pytest.approx(0, abs=2e-3)
        assert row["closer_than_held_out"] == "True"
    number = len(data.train_ids)
    assert f"{number} of {number} samples are closer to a training image than held-out art usually is" in sentence


def test_the_nearest_come_first_and_distances_are_those_of_the_memorization_test(attribute, data):
    samples = data.pixels_of(data.val_ids[:7])
    rows, _ = attribute(samples, k=4)
    distances = torch.tensor([float(row["distance"]) for row in rows]).view(7, 4)
    assert (distances.diff(dim=1) >= 0).all()
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"] * 7
    training = training_set(data)
    nearest = training.test.nearest(samples)
    torch.testing.assert_close(distances[:, 0], nearest.distance)
    assert [row["path"] for row in rows[::4]] == [training.sources[k].path for k in nearest.which]


def test_held_out_art_is_rarely_closer_than_held_out_art(data):
    """The threshold is the distance of the lowest of them; those that made it cannot be below."""
    data.val_ids, new = data.val_ids[::2] + data.train_ids[:6], data.val_ids[1::2]
    data.train_ids = data.train_ids[6:]
    training = training_set(data)
    of_new, of_known = (training.test.nearest(data.pixels_of(ids)).distance for ids in (new, data.val_ids))
    assert training.num_closer(of_new) <= 2  # of 15, with a chance of 1/22 each
    assert training.num_closer(of_known) == 0


def test_k_is_limited_by_the_number_of_training_images(attribute, data):
    training = training_set(data)
    few = replace(training, images=training.images[:2], sources=training.sources[:2])
    rows, _ = attribute(data.pixels_of(data.val_ids[:1]), k=3, training=few)
    assert len(rows) == 2


@pytest.mark.parametrize(("num_held_out", "words"), [(0, ": see"), (19, r" \(19 images .* 20 are the minimum\): see")])
def test_without_enough_held_out_art_nothing_is_called_close(attribute, data, tmp_path, num_held_out, words):
    training = training_set(data)
    training = replace(training, held_out=training.held_out[:num_held_out])
    rows, sentence = attribute(training.images[:2], training=training)
    assert re.match(f"attribution: no held-out art to compare with{words}", sentence)
    assert {row["closer_than_held_out"] for row in rows} == {""}
    found = json.loads((tmp_path / "made" / "attribution.json").read_text())
    assert (found["threshold"], found["num_closer"], found["num_held_out"]) == (None, None, num_held_out)
    assert found["samples"][0]["nearest"][0]["closer_than_held_out"] is None


# ---------------------------------------------------------------- the table of the user


def test_artists_are_those_of_the_table_and_columns_that_it_lacks_are_left_out(attribute, data, artists_run):
    rows, _ = attribute(data.pixels_of(data.train_ids[:9]))
    assert list(rows[0]) == ["sample", "rank", "path", "artist", "distance", "closer_than_held_out"]
    with (artists_run.parent / "art.csv").open(newline="", encoding="utf-8") as file:
        artists = {row["path"]: row["artist"] for row in csv.DictReader(file)}
    assert [row["artist"] for row in rows] == [artists[row["path"]] for row in rows]


def test_licences_are_those_of_each_file_even_of_files_of_equal_content(art_folder, tmp_path):
    (first, *_), table = sorted(art_folder.rglob("*.*")), ["path,licence"]
    (art_folder / "again.png").write_bytes(first.read_bytes())
    for k, path in enumerate(sorted(art_folder.rglob("*.*"))):
        table.append(f"{path.relative_to(art_folder)},CC{k}")
    (tmp_path / "art.csv").write_text("\n".join(table))
    data = ArtDataModule(art_folder, 16, metadata=tmp_path / "art.csv", exclude={"duplicate": False}, val_fraction=0)
    data.load()
    found = {source.path: source.columns for source in training_set(data).sources}
    assert found == {line.split(",")[0]: {"licence": line.split(",")[1]} for line in table[1:]}


def test_without_a_table_no_artist_is_named(art_folder):
    """`ArtFolder.name_of` gives the class of the folder for columns that are not there."""
    data = ArtDataModule(art_folder, 16, val_fraction=0)
    data.load()
    assert data.folder.name_of(data.folder.listed[0], "artist")
    assert [source.columns for source in training_set(data).sources] == [{}] * 12


# ---------------------------------------------------------------- the sheet


@pytest.mark.slow
def test_the_sheet_has_a_row_for_each_sample_up_to_64(attribute, data, tmp_path):
    samples = data.pixels_of((data.val_ids + data.train_ids + data.val_ids)[:70])
    attribute(samples, k=2)
    sheet = np.asarray(Image.open(tmp_path / "made" / "attribution.png"))
    assert sheet.shape == (64 * (98 + 15) + 2, 3 * 98 + 2, 3)
    training = training_set(data)
    _, which = training.test.k_nearest(samples, 2)
    for k in (0, 63):
        row = [samples[k], *training.images[which[k]]]
        for column, pixels in enumerate(row):
            top, left = 2 + 113 * k, 2 + 98 * column
            seen = sheet[top : top + 96, left : left + 96].reshape(16, 6, 16, 6, 3).mean(axis=(1, 3))
            assert np.abs(seen - pixels.permute(1, 2, 0).numpy()).mean() < 12, "enlarged by Lanczos"


@pytest.mark.slow
def test_more_neighbours_make_fewer_rows(attribute, data, tmp_path):
    attribute(data.pixels_of(data.train_ids[:20]), k=14)
    with Image.open(tmp_path / "made" / "attribution.png") as sheet:
        assert sheet.size == (15 * 98 + 2, 17 * 113 + 2), "a row of 15 more would exceed 256 images"


def test_the_sheet_carries_the_opt_outs_of_its_images(data, tmp_path):
    training = training_set(data)
    mined = [one._replace(opt_out="DMI-PROHIBITED-AIMLTRAINING") for one in training.sources]
    found = Attribution(replace(training, sources=mined), 1)
    found.add(tmp_path / "a.png", training.images[0], MADE)
    found.write(tmp_path, Output(tmp_path).save)
    with Image.open(tmp_path / "attribution.png") as image:
        assert provenance_of(image) == ("DMI-PROHIBITED-AIMLTRAINING", "compositeWithTrainedAlgorithmicMedia")


# ---------------------------------------------------------------- the command


@pytest.mark.slow
def test_generate_lists_sources_of_its_samples(generate, artists_run, data, copier, capsys):
    copier(data.pixels_of(data.train_ids[:3]))
    assert generate(f"checkpoint={artists_run / LAST}", "attribute=2", "scale=2", "label=none", *FAST) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "attribution: 3 of 3 samples are closer to a training image than held-out art usually is: " + (
        "see made/attribution.csv"
    )
    rows = rows_of()
    assert [row["sample"] for row in rows] == [f"{k:05}.png" for k in (0, 0, 1, 1, 2, 2)]
    assert [row["path"] for row in rows[::2]] == [source.path for source in training_set(data).sources[:3]]
    found = json.loads(Path("made/attribution.json").read_text())
    assert (found["num_samples"], found["num_closer"], found["num_train"]) == (3, 3, len(data.train_ids))
    assert found["checkpoint"] == "last.ckpt"
    assert [one["sample"] for one in found["samples"]] == [f"{k:05}.png" for k in range(3)]


@pytest.mark.slow
def test_samples_that_resemble_nothing_are_no_closer_than_held_out_art(generate, judgeable_run, copier, capsys):
    copier(torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))
    assert generate(f"checkpoint={judgeable_run / LAST}", "attribute=3", "label=none", *FAST) == 0
    sentence = "attribution: samples are no closer to training images than held-out art: see made/attribution.csv"
    assert capsys.readouterr().out.splitlines()[-1] == sentence
    assert all(row["path"].startswith("demo art, image ") for row in rows_of())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["img2img", "inpaint", "interpolate"])
def test_other_modes_compare_what_the_network_made(generate, judgeable_run, copier, tmp_path, mode):
    """Not the file, which has the input's size."""
    wide = Image.new("RGB", (40, 20), "red")
    wide.save(tmp_path / "red.png")
    Image.new("L", (40, 20), 255).save(tmp_path / "mask.png")
    data = held_out_data(load(judgeable_run / LAST))
    data.load()
    copier(data.pixels_of(data.train_ids[:2]))
    options = {
        "img2img": ["input=red.png"],
        "inpaint": ["input=red.png", "mask=mask.png"],
        "interpolate": ["seeds=[1,2]"],
    }
    call = (f"checkpoint={judgeable_run / LAST}", f"mode={mode}", "attribute=1", *FAST, "num_images=2", *options[mode])
    assert generate(*call) == 0
    rows = rows_of()
    assert [row["path"] for row in rows] == [f"demo art, image {i}" for i in data.train_ids[:2]]
    assert [float(row["distance"]) for row in rows] == pytest.approx([0, 0], abs=2e-3)
    assert all(Path("made", row["sample"]).is_file() for row in rows)


def test_nothing_is_listed_unless_asked_for(generate, diffusion_run):
    assert generate(f"checkpoint={diffusion_run / LAST}", *FAST) == 0
    assert list(Path("made").glob("attribution*")) == []


@pytest.mark.slow
def test_a_network_without_held_out_art_is_attributed_too(train, generate, capsys):
    train("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2", "data.val_fraction=0", "run_dir=run")
    assert generate(f"checkpoint=run/{LAST}", "attribute=3", *FAST) == 0
    sentence = "attribution: no held-out art to compare with: see made/attribution.csv"
    assert capsys.readouterr().out.splitlines()[-1] == sentence
    assert len(rows_of()) == 9


# ---------------------------------------------------------------- refusals


def refused(generate, capsys, *arguments: str) -> str:
    """The line of a refusal, before anything is written."""
    before = set(Path().iterdir())
    assert generate(*arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert set(Path().iterdir()) == before
    return line


@pytest.mark.slow
def test_training_images_that_are_gone_are_refused_before_sampling(generate, artists_run, tmp_path, capsys):
    content = torch.load(artists_run / LAST)
    content["config"]["data"]["root"] = "/gone"
    torch.save(content, moved := tmp_path / "moved.ckpt")
    line = refused(generate, capsys, f"checkpoint={moved}", "attribute=3")
    assert line == f"data.root: /gone, on which {moved} was trained, is not here; name the folder: data.root=DIR\n"
    line = refused(generate, capsys, f"checkpoint={artists_run / LAST}", "attribute=3", "data.root=nowhere")
    assert line == f"data.root={tmp_path / 'nowhere'}: must be a folder that exists or null\n"


def test_a_folder_that_only_a_checkpoint_names_is_not_read(generate, artists_run, tmp_path, capsys):
    (copy := tmp_path / "copy.ckpt").write_bytes((artists_run / LAST).read_bytes())
    line = refused(generate, capsys, f"checkpoint={copy}", "attribute=3")
    assert line.endswith(f"if that is what it was trained with: data.root={artists_run.parent / 'art'}\n")


@pytest.mark.slow
def test_training_images_that_have_moved_are_named(generate, artists_run, tmp_path, capsys):
    (tmp_path / "art").symlink_to(artists_run.parent / "art")
    (tmp_path / "art.csv").write_bytes((artists_run.parent / "art.csv").read_bytes())
    call = (f"checkpoint={artists_run / LAST}", "attribute=1", *FAST, "data.root=art", "data.metadata=art.csv")
    assert generate(*call) == 0
    assert all((tmp_path / "art" / row["path"]).is_file() and row["artist"] for row in rows_of())
    assert "differs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["attribute=-1"], "attribute=-1: must be a whole number, at least 0 and at most 16\n"),
        (["attribute=17"], "attribute=17: must be a whole number, at least 0 and at most 16\n"),
        (
            ["data.num_workers=1"],
            "data.num_workers=1: needs attribute=NUMBER or refuse_memorized=true; set one, or leave it out\n",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(generate, diffusion_run, capsys, arguments, line):
    assert refused(generate, capsys, f"checkpoint={diffusion_run / LAST}", *arguments) == line


def test_a_network_that_reconstructs_has_no_samples_to_attribute(generate, finished_run, capsys):
    line = refused(generate, capsys, f"checkpoint={finished_run / LAST}", "input=.", "attribute=3")
    assert line == "attribute=3: mode=reconstruct does not take it; leave it out\n"
