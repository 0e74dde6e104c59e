"""From a run to a folder that can be published."""

import csv
import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from artart.checkpoints.load import load
from artart.data.find import find_all
from artart.evaluation.cards import Sources, plain
from artart.evaluation.held_out import held_out_data


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoint(text_run) -> Path:
    return text_run / "checkpoints" / "last.ckpt"


@pytest.fixture
def hub(export, checkpoint) -> Path:
    """What a network of prompts is exported to."""
    assert export(f"checkpoint={checkpoint}", "format=hub", "out=my art", "licence=cc-by-4.0") == 0
    return Path("my art")


@pytest.mark.slow
def test_the_folder_has_weights_cards_samples_and_sources(hub, checkpoint, text_run):
    names = sorted(path.relative_to(hub).as_posix() for path in hub.rglob("*") if path.is_file())
    cards = ["README.md", "attribution.csv", "dataset/README.md", "dataset/croissant.json"]
    assert names == [*cards, "model.safetensors", "samples.png"]
    theirs, ours = load(checkpoint), load(hub / "model.safetensors")
    for name, value in theirs.net.state_dict().items():
        assert torch.equal(ours.net.state_dict()[name], value)
    assert "trainedAlgorithmicMedia" in Image.open(hub / "samples.png").info["XML:com.adobe.xmp"]
    for path in hub.rglob("*"):
        assert path.is_dir() or str(text_run.parent).encode() not in path.read_bytes()


@pytest.mark.slow
def test_the_folder_is_a_checkpoint_too(hub, generate, capsys):
    assert generate(f"checkpoint={hub}", "num_images=1", "prompt=a drawing", "sampler.num_steps=1", "out=made") == 0
    assert "checkpoint: my art/model.safetensors" in capsys.readouterr().out


@pytest.mark.slow
def test_the_head_of_the_model_card_is_what_the_hub_reads(hub):
    card = ModelCard.load(hub / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.pipeline_tag == "text-to-image"
    assert "artart" in card.data.tags
    assert "Not evaluated." in card.text
    assert "The licence of 40 of 40 images is unknown." in card.text


@pytest.mark.slow
def test_every_image_is_in_the_table_with_its_hash_and_side(hub, checkpoint, text_run):
    with (hub / "attribution.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    art = text_run.parent / "art"
    assert {art / path for path in rows} == set(find_all(art).images)
    data = held_out_data(load(checkpoint))
    data.load()
    held_out = {data.images.digests[row] for row in data.val_ids}
    for path, row in rows.items():
        assert row["sha256"] == sha256((art / path).read_bytes()).hexdigest()
        assert row["split"] == ("held out" if row["sha256"] in held_out else "train")
        assert row["class"] == Path(path).parent.name
    described = json.loads((hub / "dataset" / "croissant.json").read_text())
    (table,), (images,) = described["distribution"], described["recordSet"]
    assert table["sha256"] == sha256((hub / "attribution.csv").read_bytes()).hexdigest()
    assert [field["source"]["extract"]["column"] for field in images["field"]] == ["path", "sha256", "split", "class"]


@pytest.mark.slow
def test_images_that_were_added_since_are_said(export, text_run, capsys):
    shutil.copytree(load(text_run / "checkpoints" / "last.ckpt").config["data"]["root"], "more")
    Image.new("RGB", (32, 32), "red").save(next(Path("more").rglob("*.png")).with_name("new.png"))
    assert export(f"checkpoint={text_run}", "format=hub", "out=again", "data.root=more") == 0
    assert "differs from the images and the split" in capsys.readouterr().out


@pytest.mark.slow
def test_an_evaluation_is_in_the_card(export, evaluate, checkpoint, alexnet_weights, diffusion_run, capsys):
    words = (f"checkpoint={checkpoint}", f"metrics.weights={alexnet_weights}", "num_images=20", "sampler.num_steps=2")
    assert evaluate(*words) == 0
    assert export(f"checkpoint={checkpoint}", "format=hub", "out=hub", "evaluation=judged") == 0
    metrics, card = json.loads(Path("judged/metrics.json").read_bytes()), ModelCard.load("hub/README.md")
    names = ("kid_alexnet", "spectrum_db", "precision", "recall", "density", "coverage", "vendi")
    assert [result.metric_value for result in card.data.eval_results] == [metrics[name]["value"] for name in names]
    low, high = (format(metrics["vendi"][end], ".4g") for end in ("low", "high"))
    assert f"| Vendi score | {metrics['vendi']['value']:.4g} | {low} .. {high} |" in card.text
    assert "**Memorization.**" in card.text
    assert export(f"checkpoint={diffusion_run}", "format=hub", "out=other", "evaluation=judged") == 2
    assert "judged: is of another checkpoint; evaluate" in capsys.readouterr().err
    assert not Path("other").exists()


@pytest.mark.slow
def test_autoencoders_and_demo_art_have_cards_too(export, evaluate, finished_run):
    assert evaluate(f"checkpoint={finished_run}") == 0
    assert export(f"checkpoint={finished_run}", "format=hub", "out=hub", "evaluation=judged") == 0
    psnr = json.loads(Path("judged/metrics.json").read_bytes())["psnr"]["mean"]
    assert f"| PSNR | {psnr:.4g} |  |" in Path("hub/README.md").read_text()
    assert not Path("hub/samples.png").exists()
    assert "painted by a program" in Path("hub/dataset/README.md").read_text()


@pytest.mark.slow
def test_a_folder_that_exists_stays(export, checkpoint, capsys):
    Path("hub").mkdir()
    assert export(f"checkpoint={checkpoint}", "format=hub", "out=hub") == 2
    assert "hub: exists and is not replaced" in capsys.readouterr().err


def test_licences_that_forbid_something_are_said():
    names = ["CC BY-ND 4.0", "CC-BY-NC-ND", "CC0", "", "Ronald Andersen", "cc by-nc", "public domain"]
    warnings = Sources(["path", "licence"], [["a", name] for name in names]).warnings
    assert warnings == [
        "The licence of 2 of 7 images forbids derivatives: CC BY-ND 4.0, CC-BY-NC-ND.",
        "The licence of 2 of 7 images forbids commercial use: CC-BY-NC-ND, cc by-nc.",
        "The licence of 1 of 7 images is unknown.",
    ]


def test_texts_of_others_are_no_markdown():
    assert plain("a|b\n<i> [x](y) *z*") == r"a\|b &lt;i> \[x\](y) \*z\*"
