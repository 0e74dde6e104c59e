import io
import json
import os
import re
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch import nn
from torch.testing import assert_close

from artart import ArtError
from artart.checkpoints import load as checkpoint
from artart.data.datamodule import ArtDataModule
from artart.data.labels import NO_CLASS
from artart.diffusion.guidance import Guidance
from artart.evaluation import features, reconstruction, samples
from artart.evaluation.held_out import held_out_data
from artart.evaluation.sample_report import tables, verdict
from artart.features import dinov2, inception
from artart.io.images import to_model, to_pixels

LAST = "checkpoints/last.ckpt"
CRITERIA = ("rate", "rate_ratio", "rate_third")


def figures(folder):
    return json.loads((folder / "judged" / "metrics.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture
def weights(alexnet_weights):
    return f"metrics.weights={alexnet_weights}"


@pytest.fixture
def judge(evaluate, judgeable_run):
    """Few samples in few steps."""
    return lambda *more: evaluate(f"checkpoint={judgeable_run / LAST}", "num_images=24", "sampler.num_steps=2", *more)


def data_of(run, folder):
    loaded = checkpoint.load(run / LAST)
    data = held_out_data(loaded)
    data.load()
    return loaded, data


# ---------------------------------------------------------------- reconstruction


@pytest.mark.slow
def test_psnr_is_that_of_the_images_that_generate_would_save(evaluate, finished_run, tmp_path):
    assert evaluate(f"checkpoint={finished_run / LAST}") == 0
    loaded, data = data_of(finished_run, tmp_path)
    x0 = data.pixels_of(data.val_ids)
    with torch.inference_mode():
        saved = to_pixels(loaded.net(to_model(x0)))
    expected = [peak_signal_noise_ratio(a.numpy(), b.numpy()) for a, b in zip(x0, saved, strict=True)]
    found = figures(tmp_path)
    assert_close(found["psnr"]["mean"], float(np.mean(expected)), rtol=1e-5, atol=0)
    assert found["num_images"] == len(x0)
    assert found["psnr"]["low"] is None, "three images have no interval"


@pytest.mark.slow
def test_classes_share_out_the_images(evaluate, finished_run, tmp_path):
    evaluate(f"checkpoint={finished_run / LAST}")
    found = figures(tmp_path)
    numbers = {name: one["num_images"] for name, one in found["classes"].items()}
    assert sum(numbers.values()) == found["num_images"]
    means = sum(found["classes"][name]["ssim"]["mean"] * number for name, number in numbers.items())
    assert_close(means / found["num_images"], found["ssim"]["mean"])


@pytest.mark.slow
def test_lpips_needs_its_weights_and_is_left_out_without(evaluate, finished_run, weights, tmp_path):
    evaluate(f"checkpoint={finished_run / LAST}")
    assert "lpips_alex" not in figures(tmp_path)
    evaluate(f"checkpoint={finished_run / LAST}", weights, "out=judged/again")
    found = json.loads((tmp_path / "judged" / "again" / "metrics.json").read_text())
    assert 0 < found["lpips_alex"]["mean"] < 1


# ---------------------------------------------------------------- samples


@pytest.mark.slow
def test_samples_are_measured_by_distance_spectrum_and_near_duplicates(judge, weights, tmp_path):
    assert judge(weights) == 0
    found = figures(tmp_path)
    for name in ("kid_alexnet", "spectrum_db"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
        assert found[name]["value"] > found[name]["real"]["value"], "an epoch makes no art"
    for name in ("precision", "recall", "density", "coverage", "vendi"):
        for one in (found[name], found[name]["real"]):
            assert 0 <= one["low"] <= one["value"] <= one["high"]
    assert found["coverage"]["value"] < found["coverage"]["real"]["value"]
    assert 1 <= found["vendi"]["value"] <= 24
    assert "fd_alexnet" not in found, "too few images for its covariances"
    assert len(found["error_by_noise_level"]) == 10
    assert found["num_images"] == 24
    assert found["memorization"]["num_train"] + found["num_held_out"] == 60
    kinds = {"noise_0.05", "noise_0.15", "tint", "shift_1px", "zoom_1.1", "blur"}
    for name in CRITERIA:
        one = found["memorization"][name]
        assert one["detection_rate"].keys() == kinds
        assert set(one["blind_to"]) == {kind for kind, rate in one["detection_rate"].items() if rate < 0.9}
        assert sum(row["num_images"] for row in one["classes"].values()) == 24


@pytest.mark.slow
def test_frechet_distance_with_images_enough(judge, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MIN_IMAGES_FOR_FRECHET", 20)
    judge(weights)
    found = figures(tmp_path)["fd_alexnet"]
    assert found["value"] > found["real"]["value"] > 0


@pytest.mark.slow
def test_fid_and_kid_are_reported_under_their_own_names(judge, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MIN_IMAGES_FOR_FRECHET", 20)
    monkeypatch.setattr(inception, "inception_on", lambda weights, device: nn.Linear(1, 1))
    colours = lambda pixels, **_: pixels.double().mean(dim=(2, 3))  # noqa: E731 - stands in for Inception
    monkeypatch.setattr(inception, "inception_features", colours)
    judge("metrics.features=inception", "metrics.weights=auto")
    found = figures(tmp_path)
    for name in ("fid", "kid_inception"):
        assert found[name]["value"] > found[name]["real"]["value"]
    assert found["features"] == "inception"
    assert "Features of Inception" in (tmp_path / "judged" / "report.html").read_text()


@pytest.mark.slow
def test_samples_are_judged_by_dinov2(judge, dinov2_weights, tmp_path, capsys):
    assert judge("metrics.features=dinov2", f"metrics.weights={dinov2_weights}") == 0
    found = figures(tmp_path)
    assert found["kid_dinov2"]["value"] > found["kid_dinov2"]["real"]["value"]
    assert found["features"] == "dinov2"
    assert found["dinov2"] == dinov2_weights.name
    assert {"precision", "recall", "density", "coverage", "vendi"} <= found.keys()
    assert "kid_alexnet" not in found
    assert "their KID is" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["inception", "dinov2"])
def test_without_its_weights_a_network_is_refused_before_any_work(name, judge, monkeypatch, capsys, tmp_path):
    def fail(weights, device):
        raise ArtError("no weights")

    monkeypatch.setattr(inception, "inception_on", fail)
    monkeypatch.setattr(dinov2, "dinov2_on", fail)
    monkeypatch.setattr(samples, "draw", pytest.fail)
    assert judge(f"metrics.features={name}", "metrics.weights=auto") == 2
    assert said(capsys) == "no weights\n"


def test_reconstructions_are_judged_by_alexnet_only(evaluate, finished_run, capsys):
    assert evaluate(f"checkpoint={finished_run / LAST}", "metrics.features=dinov2") == 2
    assert said(capsys) == "metrics.features=dinov2: reconstructions are judged by AlexNet; leave it out\n"


@pytest.mark.parametrize("kind", ["reconstruction", pytest.param("samples", marks=pytest.mark.slow)])
def test_a_network_that_makes_no_numbers_gets_no_figures(kind, evaluate, finished_run, judgeable_run, tmp_path, capsys):
    content = torch.load((finished_run if kind == "reconstruction" else judgeable_run) / LAST, weights_only=True)
    for value in content["state_dict"].values():
        value.mul_(torch.nan) if value.is_floating_point() else None
    torch.save(content, tmp_path / "broken.ckpt")
    assert evaluate("checkpoint=broken.ckpt", "num_images=20", "sampler.num_steps=2") == 1
    assert "broken.ckpt: its outputs are not finite; take an earlier checkpoint" in said(capsys)
    assert not (tmp_path / "judged" / "metrics.json").exists()


@pytest.mark.slow
def test_training_images_in_place_of_samples_are_reported_as_near_duplicates(
    judge, judgeable_run, tmp_path, monkeypatch
):
    _, data = data_of(judgeable_run, tmp_path)
    train = data.pixels_of(data.train_ids)
    monkeypatch.setattr(samples, "draw", lambda *_: train[torch.arange(24) % len(train)])
    judge()
    memorization = figures(tmp_path)["memorization"]
    assert [memorization[name]["value"] for name in CRITERIA] == [1.0, 1.0, 1.0]
    assert memorization["rate"]["held_out"] < 0.2


@pytest.mark.slow
def test_samples_have_the_classes_of_the_held_out_images(judgeable_run, judge, tmp_path):
    judge("num_images=72")
    _, data = data_of(judgeable_run, tmp_path)
    held_out = [name for (name,) in data.names_of(data.val_ids)]
    times, rest = divmod(72, len(held_out))
    expected = Counter(held_out * times + held_out[:rest])
    rows = figures(tmp_path)["memorization"]["rate"]["classes"]
    assert {name: row["num_images"] for name, row in rows.items()} == dict(expected)


@pytest.mark.slow
def test_the_same_call_gives_the_same_figures(judge, weights, tmp_path):
    judge(weights)
    first = figures(tmp_path)
    judge(weights, "out=judged/again")
    assert json.loads((tmp_path / "judged" / "again" / "metrics.json").read_text()) == first


@pytest.mark.slow
def test_features_of_known_images_come_from_the_cache_unless_it_is_damaged(
    judgeable_run, alexnet_weights, tmp_path, monkeypatch, caplog
):
    _, data = data_of(judgeable_run, tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    alexnet = features.extractor_for("alexnet", str(alexnet_weights), torch.device("cpu"))
    arguments = (data.pixels_of(data.val_ids), alexnet, data)
    first = features.known_features(*arguments)
    (path,) = tmp_path.rglob("features/*.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(features, "features", pytest.fail)
        assert_close(features.known_features(*arguments), first, rtol=0, atol=0)
    path.write_bytes(b"cut off")
    assert_close(features.known_features(*arguments), first)
    assert "damaged" in caplog.text
    others = features.known_features(1 + arguments[0], *arguments[1:])
    assert (others - first).abs().max() > 1e-3
    assert len([*tmp_path.rglob("features/*.safetensors")]) == 2


def test_a_name_that_the_network_never_saw_is_none():
    known = {"class": ["drawing", "painting"], "artist": ["Ada", "Bo", "painting"]}
    rows = [("mosaic", "Bo"), ("painting", "painting"), (NO_CLASS, "Cy")]
    assert samples.labels_of(rows, known).tolist() == [[2, 1], [1, 2], [2, 3]]


# ---------------------------------------------------------------- the page


@pytest.mark.parametrize("kind", ["reconstruction", pytest.param("samples", marks=pytest.mark.slow)])
def test_the_page_needs_nothing_beside_it_and_says_how_it_was_made(kind, judge, evaluate, finished_run, tmp_path):
    judge() if kind == "samples" else evaluate(f"checkpoint={finished_run / LAST}")
    page = (tmp_path / "judged" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) > 3
    assert all(source.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")) for source in sources)
    assert not re.search(r"<script|url\(|@import", page)
    assert "last.ckpt" in page
    assert str(tmp_path) not in page, "a page may be shown to others"


@pytest.mark.parametrize("kind", ["reconstruction", pytest.param("samples", marks=pytest.mark.slow)])
def test_the_page_begins_with_a_verdict_and_named_images_and_repeats_none(
    kind, judge, evaluate, finished_run, tmp_path
):
    judge() if kind == "samples" else evaluate(f"checkpoint={finished_run / LAST}")
    page = (tmp_path / "judged" / "report.html").read_text()
    places = [page.index(text) for text in ('class="verdict"', "data:image/png", "<table>", "data:image/svg")]
    assert places == sorted(places)
    images = re.findall(r'src="data:image/png;base64,([^"]+)', page)
    assert len(images) == len(set(images)) > 1
    names = re.findall(r'<span class="name">(.*?)</span>', page)
    assert set(names) >= ({"image", "output"} if kind == "reconstruction" else {"sample", "training image", "painting"})
    assert "Not measured, for want of AlexNet" in page


def test_few_reconstructions_are_all_shown_and_many_in_three_parts_without_repeats():
    def shown(num):
        x0 = torch.arange(num, dtype=torch.uint8).view(-1, 1, 1, 1).expand(num, 3, 4, 4)
        found = reconstruction._draw_images(x0, x0, torch.arange(float(num)), {})
        levels = []
        for _, content in (row for figure in found for row in figure.images if row[0] == "image"):
            row = np.asarray(Image.open(io.BytesIO(content)))[4, 3:-2:6, 0].tolist()
            levels += [level for level in row if level < 255]
        return len(found), levels

    assert shown(5) == (1, [4, 3, 2, 1, 0])
    assert shown(24) == (1, list(range(23, -1, -1)))
    num_parts, levels = shown(60)
    assert num_parts == 3
    assert levels[:8] == list(range(59, 51, -1))
    assert levels[-8:] == list(range(7, -1, -1))
    assert levels == sorted(set(levels), reverse=True)


@pytest.mark.slow
def test_offline_what_needs_no_download_is_measured_and_the_rest_is_named(
    evaluate, finished_run, offline, tmp_path, capsys
):
    assert evaluate(f"checkpoint={finished_run / LAST}", "metrics.weights=auto") == 0
    assert figures(tmp_path)["not_measured"] == "LPIPS and KID"
    assert figures(tmp_path)["psnr"]["mean"] > 0
    printed = capsys.readouterr().out
    assert re.search(
        r"metrics.weights=auto: .*; name a file or folder: .*; not measured without it: LPIPS and KID", printed
    )
    assert "held-out images are reproduced with PSNR (dB)" in printed


@pytest.mark.parametrize(("has_memorized", "words"), [(False, "No sign of"), (True, "has memorized training")])
def test_the_verdict_says_whether_it_has_memorized(has_memorized, words):
    rate = {"value": 0.3, "low": 0.2, "high": 0.5, "held_out": 0.01}
    metrics = {"memorization": dict.fromkeys(CRITERIA, rate) | {"has_memorized": has_memorized}}
    (sentence,) = verdict(metrics)
    assert words in sentence
    kid = {"value": 0.3, "low": 0.2, "high": 0.4, "real": {"value": 0.01, "low": 0.0, "high": 0.25}}
    assert "cannot be told from" in next(verdict(metrics | {"kid_alexnet": kid}))
    assert "differ from" in next(verdict(metrics | {"kid_alexnet": kid | {"low": 0.26}}))


def test_the_verdict_says_that_there_are_no_near_duplicates_at_all():
    rate = {"value": 0.0, "low": 0.0, "high": 0.01, "held_out": 0.01}
    metrics = {"num_images": 500, "memorization": dict.fromkeys(CRITERIA, rate)}
    assert [*verdict(metrics)] == ["No near-duplicates of training images among 500 samples."]


@pytest.fixture
def metrics_of_samples():
    one = {"value": 0.5, "low": 0.25, "high": 0.75, "held_out": 0.01, "detection_rate": {"tint": 0.95, "blur": 0.4}}
    one |= {"blind_to": ["blur"], "classes": {"icon": {"value": 0.5, "num_images": 4}}}
    none = one | {"value": 0.0, "blind_to": []}
    memorization = {"rate": none, "rate_ratio": one, "rate_third": none, "num_train": 7}
    quality = {"kid_inception": {"value": 2.0, "low": 1.0, "high": 3.0, "real": {"value": 0.5}}}
    return {"memorization": memorization, "num_images": 4, "num_held_out": 9, **quality}


def test_the_table_of_near_duplicates_says_what_the_test_cannot_see(metrics_of_samples):
    of_quality, of_memorization, of_labels = tables(metrics_of_samples)
    assert of_quality.rows == [["KID, Inception", "2", "1 .. 3", "0.5"]]
    assert of_memorization.rows[0] == ["samples", "0.0%", "50.0%", "0.0%"]
    assert of_memorization.rows[1][1:] == ["25.0% .. 75.0%"] * 3
    assert [row[::3] for row in of_memorization.rows[2:]] == [
        ["held-out art", "1.0%"],
        ["finds tint", "95%"],
        ["finds blur", "40%"],
    ]
    assert of_memorization.note.endswith("cannot detect that kind; ratio cannot detect blur.")
    assert of_labels.rows == [["icon", "4", "50.0%", "50.0%", "50.0%"]]


def test_the_table_of_fidelity_has_a_row_for_each_column_of_labels(metrics_of_samples):
    of_class = {"value": 0.5, "low": 0.4, "high": 0.6, "floor": 0.25, "ceiling": 0.9, "of_ceiling": 0.38}
    _, of_fidelity, *_ = tables(metrics_of_samples | {"fidelity": {"class": of_class}})
    assert of_fidelity.header == ["column", "samples", "95 % interval", "floor", "ceiling", "reached"]
    assert of_fidelity.rows == [["class", "50.0%", "40.0% .. 60.0%", "25.0%", "90.0%", "38.0%"]]


def test_a_distance_without_an_interval_has_an_empty_cell(metrics_of_samples):
    fid = {"value": 7.0, "low": None, "high": None, "real": {"value": 0.25, "low": None, "high": None}}
    of_quality, *_ = tables(metrics_of_samples | {"fid": fid})
    assert of_quality.rows[1] == ["FID, Inception", "7", "", "0.25"]


@pytest.mark.slow
def test_tables_are_printed_and_the_files_are_named(judge, capsys):
    judge()
    printed = capsys.readouterr().out
    assert "Near-duplicates of 2" in printed
    assert "judged/metrics.json" in printed
    assert "judged/report.html" in printed


# ---------------------------------------------------------------- mistakes


def said(capsys):
    """One line for each mistake, and no trace."""
    return capsys.readouterr().err


def test_figures_that_are_there_are_not_replaced(evaluate, finished_run, tmp_path, capsys):
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "metrics.json").write_text("{}")
    assert evaluate(f"checkpoint={finished_run / LAST}") == 2
    assert re.search(r"out=.*judged: holds metrics.json already; name another folder", said(capsys))
    assert figures(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("num_images=3",), "num_images=3: too few to measure anything; 20 is the minimum"),
        (
            ("metrics.weights=nowhere",),
            r"metrics.weights=.*nowhere: must be auto, a file that exists, a folder that ",
        ),
        (
            ("metrics.weights=.",),
            r"metrics.weights=.*: no AlexNet .* there \(no file that ends in .*\); name a",
        ),
        pytest.param(("num_image=3",), "num_image=3: no such key; did you mean num_images", marks=pytest.mark.slow),
        pytest.param(
            ("data.root=nowhere",), r"data.root=.*nowhere: must be a folder that exists", marks=pytest.mark.slow
        ),
    ],
)
def test_a_mistake_is_reported_in_a_line(judge, arguments, sentence, capsys, tmp_path):
    assert judge(*arguments) == 2
    assert re.search(sentence, said(capsys))
    assert not (tmp_path / "judged" / "metrics.json").exists()


@pytest.mark.slow
def test_a_mistake_leaves_nothing_behind(evaluate, finished_run, tmp_path, capsys):
    for out in ("out=judged", "out=null", "out=new/folder"):
        assert evaluate(f"checkpoint={finished_run / LAST}", "guidance.interval=[0.95,0.9]", out) == 2
        assert "guidance.interval=[0.95, 0.9]: must be two noise levels from 0 to 1 that rise" in said(capsys)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_figures_that_come_meanwhile_are_not_replaced(evaluate, finished_run, tmp_path, monkeypatch, capsys):
    """Of another evaluation."""
    measure = reconstruction.measure

    def measure_beside_others(*given):
        (tmp_path / "judged").mkdir()
        for name in ("metrics.json", "report.html"):
            (tmp_path / "judged" / name).write_text("theirs")
        return measure(*given)

    monkeypatch.setattr(reconstruction, "measure", measure_beside_others)
    assert evaluate(f"checkpoint={finished_run / LAST}") == 0
    files = {path.name: path.read_text() for path in (tmp_path / "judged").iterdir()}
    assert files.keys() == {"metrics.json", "metrics-2.json", "report.html", "report-2.html"}
    assert files["metrics.json"] == files["report.html"] == "theirs"
    out = capsys.readouterr().out
    assert "judged/metrics-2.json" in out
    assert "judged/report-2.html" in out


@pytest.mark.slow
def test_files_of_the_users_in_the_folder_are_left_alone(train, evaluate, art_folder, tmp_path, capsys):
    (art_folder / "broken.jpg").write_bytes(b"no image")
    train(f"data.root={art_folder}", "trainer.max_epochs=1", "run_dir=run")
    mine = ("report.html", "rejected.csv", ".probe")  # and no list of unused files is added
    (tmp_path / "judged").mkdir()
    for name in mine:
        (tmp_path / "judged" / name).write_text("mine")
    assert evaluate(f"checkpoint=run/{LAST}") == 0
    assert [(tmp_path / "judged" / name).read_text() for name in mine] == ["mine"] * 3
    out = capsys.readouterr().out
    assert "index.csv" in out
    assert "judged/report-2.html" in out


@pytest.mark.slow
def test_a_folder_that_has_gone_is_asked_for(train, evaluate, art_folder, tmp_path, capsys):
    train(f"data.root={art_folder}", "trainer.max_epochs=1", "run_dir=run")
    art_folder.rename(moved := tmp_path / "elsewhere")
    assert evaluate(f"checkpoint=run/{LAST}") == 2
    assert re.search(r"data.root: .*art, on which .*last.ckpt was trained, is not here; name the folder", said(capsys))
    assert evaluate(f"checkpoint=run/{LAST}", f"data.root={moved}") == 0
    assert "not the images" not in capsys.readouterr().out
    next(moved.rglob("*.png")).unlink()
    assert evaluate(f"checkpoint=run/{LAST}", f"data.root={moved}", "out=again") == 0
    assert "elsewhere: differs from the images and the split that last.ckpt was trained with" in capsys.readouterr().out


@pytest.mark.slow
def test_weights_that_were_exported_ask_for_their_images(train, export, evaluate, art_folder, capsys):
    train(f"data.root={art_folder}", "trainer.max_epochs=1", "run_dir=run")
    assert export(f"checkpoint=run/{LAST}", "out=net.safetensors") == 0
    assert evaluate("checkpoint=net.safetensors") == 2
    assert "does not say on which images it was trained; name them: data.root=DIR" in said(capsys)
    assert evaluate("checkpoint=net.safetensors", f"data.root={art_folder}") == 0
    assert "not the images" not in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(evaluate, finished_run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert evaluate(f"checkpoint={finished_run / LAST}", "out=file/sub") == 2
    assert re.search("out=.*file/sub: cannot be written; name another folder", said(capsys))


@pytest.mark.slow
def test_a_network_that_saw_everything_cannot_be_judged(train, evaluate, capsys):
    train("data.val_fraction=0", "trainer.max_epochs=1", "run_dir=run")
    assert evaluate(f"checkpoint=run/{LAST}") == 2
    assert "was trained on all images (data.val_fraction=0), so none can judge it" in said(capsys)


def test_settings_of_data_that_are_not_artarts_are_reported_in_one_line(finished_run):
    loaded = checkpoint.load(finished_run / LAST)
    loaded.config["data"]["shout"] = True
    with pytest.raises(ValueError, match="its settings of data are not artart's"):
        held_out_data(loaded)


def test_only_what_is_given_differs_from_training(finished_run, tmp_path):
    loaded = checkpoint.load(finished_run / LAST)
    data = held_out_data(loaded, num_workers=1)
    assert isinstance(data, ArtDataModule)
    assert data.image_size == 16
    assert data.num_demo_images == 40
    assert data.folder is None


@pytest.mark.slow
def test_a_class_whose_name_is_not_utf_8_is_written_with_escapes(train, evaluate, art_folder, tmp_path):
    (art_folder / "drawing").rename(art_folder / os.fsdecode(b"dess\xefn"))
    train(f"data.root={art_folder}", "trainer.max_epochs=1", "data.val_fraction=0.5", "run_dir=run")
    assert evaluate(f"checkpoint=run/{LAST}") == 0
    assert r"dess\xefn" in (tmp_path / "judged" / "report.html").read_text(encoding="utf-8")
    assert r"dess\xefn" in figures(tmp_path)["classes"]


# ---------------------------------------------------------------- labels of several columns


@pytest.mark.slow
def test_samples_have_whole_label_rows_of_held_out_images(evaluate, artists_run, tmp_path, monkeypatch):
    _, data = data_of(artists_run, tmp_path)
    drawn, guided, draw = [], [], samples.draw

    def note(loaded, sampler, guidance, batch_size, seed, y):
        drawn.append(y)
        guided.append(guidance)
        return draw(loaded, sampler, guidance, batch_size, seed, y)

    monkeypatch.setattr(samples, "draw", note)
    options = ("num_images=40", "sampler.num_steps=2", "guidance.weight=2", "guidance.interval=[0.1,0.8]")
    assert evaluate(f"checkpoint={artists_run / LAST}", *options) == 0
    assert guided == [Guidance(2.0, (0.1, 0.8))]
    rows = data.images.labels[data.val_ids]
    assert_close(drawn[0], rows.repeat(2, 1)[:40], rtol=0, atol=0)
    assert rows.shape == (len(data.val_ids), 2)
    assert set(rows[:, 1].tolist()) == {0, 1, 2}  # an artist who is too rare is none
    of_classes = figures(tmp_path)["memorization"]["rate"]["classes"]
    assert of_classes.keys() == {"drawing", "engraving", "iconography"}
