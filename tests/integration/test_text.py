"""Prompts in every command."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import artart
import artart.inspect
from artart import ArtError
from artart.checkpoints.load import load
from artart.data import demo
from artart.data.vocabulary import Vocabulary
from artart.diffusion.samplers import Heun
from artart.generation.conditions import Asked, conditions_for

TEXT = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2", "data.captions=auto")
FAST = "sampler.num_steps=2"


def read(path: str | Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.fixture
def checkpoint(text_run) -> Path:
    return text_run / "checkpoints" / "last.ckpt"


@pytest.fixture
def model(checkpoint):
    return artart.load(checkpoint, device="cpu")


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


# --- training


def test_a_checkpoint_holds_the_words_of_its_training(checkpoint):
    content = read(checkpoint)
    vocabulary = Vocabulary(**content["text"])
    assert set(vocabulary.words) == {"art", "by", "drawing", "engraving", "hand"}
    assert content["config"]["model"]["text"] == [vocabulary.size, vocabulary.num_tokens]
    assert content["config"]["model"]["num_classes"] == 0
    assert content["labels"] == {"class": ["drawing", "engraving"]}  # which the network does not take


def test_a_grid_has_a_row_for_each_prompt(text_run):
    """Four captions, and the trajectory: 18 px each, and 2 at the end."""
    assert pixels(text_run / "samples" / "epoch_0001.png").shape == (5 * 18 + 2, 4 * 18 + 2, 3)


@pytest.mark.slow
def test_grids_show_the_prompts_that_are_asked_for(train, art_folder):
    prompts = "data.prompts=[a drawing,an engraving,'drawing, engraving']"
    words = (f"data.root={art_folder}", "data.captions=a {class}", prompts, "trainer.max_epochs=1", "run_dir=run")
    assert train(*TEXT, *words, "data.batch_size=4", "callbacks.grid.num_images=4") == 0
    assert pixels("run/samples/epoch_0001.png").shape[0] == 4 * 18 + 2


NETWORKS = {
    "conv_diffusion": (),
    "unet": ("model=unet_tiny", "model.model_channels=16"),
    "vit": ("model=vit", "model.hidden_size=48", "model.depth=2", "model.num_heads=3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("words", NETWORKS.values(), ids=NETWORKS)
def test_every_network_takes_prompts(train, words):
    assert train(*TEXT, *words, "trainer.max_epochs=1", "run_dir=run", "callbacks.grid=null") == 0
    assert artart.load("run").sample(1, prompt="a drawing", num_steps=2)


MISTAKES = {
    "a column that is missing": (
        ["data.root=ART", "data.captions=tilte"],
        "captions=tilte: .* needs a table with that",
    ),
    "a column of demo art": (["data.captions=title"], "data.captions=title: demo art has captions of its own"),
    "no captions": (["data.root=ART"], "data.captions=auto: .* has no text beside an image"),
    "two conditions": (["model.num_classes=5"], "model.num_classes=5: prompts replace labels; set it to null"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_a_line_before_any_work(train, art_folder, capsys, words, sentence):
    words = [word.replace("ART", str(art_folder)) for word in words]
    assert train(*TEXT, *words, "run_dir=run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(sentence, line), line
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_run_resumes_with_the_same_words_alone(train, text_run, checkpoint, capsys, tmp_path):
    art, (first, *_) = text_run.parent / "art", sorted((text_run.parent / "art").rglob("*.txt"))
    words = (*TEXT, f"data.root={art}", "data.batch_size=8", "trainer.max_epochs=2", "run_dir=run")
    assert train(*words, f"resume={checkpoint}") == 0
    capsys.readouterr()
    other = tmp_path / "other"
    shutil.copytree(art, other)
    (other / first.relative_to(art)).write_text("sculpture, sculpture and sculpture\n")
    words = [word.replace(str(art), str(other)) for word in words]
    assert train(*words[:-1], "run_dir=again", f"resume={checkpoint}") == 2
    assert "was trained with" in capsys.readouterr().err


@pytest.mark.slow
def test_words_keep_their_numbers_in_another_training(train, checkpoint, art_folder):
    words = (f"data.root={art_folder}", "data.captions=a {class}", "data.batch_size=4", f"init_from={checkpoint}")
    assert train(*TEXT, *words, "optimizer.lr=1e-30", "run_dir=run", "callbacks.grid=null") == 0
    before, after = read(checkpoint), read("run/checkpoints/last.ckpt")
    assert after["text"]["tokenizer"] == before["text"]["tokenizer"]
    assert {"hand", "iconography"} <= set(after["text"]["words"])  # those of both
    weights = {name: value for name, value in before["state_dict"].items() if name.startswith("net.")}
    assert_close({name: after["state_dict"][name] for name in weights}, weights)


@pytest.mark.slow
def test_without_captions_a_training_says_that_it_drops_the_prompts(train, checkpoint, capsys):
    assert train(*TEXT[:-1], f"init_from={checkpoint}", "run_dir=run", "callbacks.grid=null") == 0
    assert "takes prompts, this run none; add data.captions=auto to keep them" in capsys.readouterr().out


# --- generation


@pytest.mark.slow
def test_a_prompt_decides_and_is_in_the_file(generate, checkpoint):
    common = (f"checkpoint={checkpoint}", FAST, "num_images=2")
    assert generate(*common, "prompt=A drawing, by hand", "out=one") == 0
    assert generate(*common, "prompt=an engraving", "out=two") == 0
    assert sorted(path.name for path in Path("one").iterdir()) == [
        "00000_A-drawing-by-hand.png", "00001_A-drawing-by-hand.png", "grid.png"
    ]  # fmt: skip
    assert (pixels("one/00000_A-drawing-by-hand.png") != pixels("two/00000_an-engraving.png")).any()
    assert "prompt=A drawing, by hand" in Image.open("one/00000_A-drawing-by-hand.png").info["xmp"].decode()


@pytest.mark.slow
def test_several_prompts_are_taken_in_turn(generate, checkpoint):
    words = (f"checkpoint={checkpoint}", FAST, "prompt=[a drawing,'drawing, by hand']")
    assert generate(*words, "num_images=3", "out=out") == 0
    names = sorted(path.stem for path in Path("out").glob("0*.png"))
    assert names == ["00000_a-drawing", "00001_drawing-by-hand", "00002_a-drawing"]


@pytest.mark.slow
def test_prompts_are_taken_in_turn_from_a_file(generate, checkpoint):
    Path("p.txt").write_bytes("a drawing\r\n\r\nan engraving\n".encode("utf-16"))
    assert generate(f"checkpoint={checkpoint}", FAST, "prompts=p.txt", "num_images=3", "out=out") == 0
    assert [path.name for path in sorted(Path("out").glob("0*"))] == [
        "00000_a-drawing.png", "00001_an-engraving.png", "00002_a-drawing.png"
    ]  # fmt: skip


@pytest.mark.slow
def test_without_a_prompt_captions_of_the_training_are_taken_in_turn(generate, checkpoint):
    assert generate(f"checkpoint={checkpoint}", FAST, "num_images=2", "out=out") == 0
    names = {path.name.partition("_")[2] for path in Path("out").glob("0*")}
    assert names <= {"drawing-by-hand.png", "engraving-by-hand.png", "art-drawing.png", "art-engraving.png"}
    assert len(names) == 2


@pytest.mark.slow
def test_words_that_were_never_seen_are_named(generate, checkpoint, capsys):
    assert generate(f"checkpoint={checkpoint}", FAST, "num_images=1", "prompt=A Drawng by a zebra", "out=out") == 0
    assert "prompt: no training caption has a, drawng (did you mean drawing?) or zebra" in capsys.readouterr().out


def test_guidance_leads_away_from_a_negative_prompt(model):
    how: dict[str, Any] = {"prompt": "drawing by hand", "sampler": Heun(2), "guidance": 3.0, "output_type": "pt"}
    plain = model.sample(1, **how)
    away, towards = (model.sample(1, negative_prompt=text, **how) for text in ("engraving", "drawing by hand"))
    assert (plain - away).abs().max() > 1e-3
    assert_close(towards, model.sample(1, **{**how, "guidance": 1.0}), atol=1e-4, rtol=0)  # no guidance is left
    (image,) = model.sample(1, negative_prompt="engraving", **{**how, "output_type": "pil"})
    assert "negative_prompt=engraving" in image.info["xmp"].decode()


@pytest.mark.slow
def test_images_between_prompts_begin_and_end_with_theirs(generate, model, checkpoint):
    how: dict[str, Any] = {"num_steps": 2, "output_type": "pt"}
    prompts = ["drawing by hand", "engraving by hand"]
    path = model.interpolate(prompt=prompts, num_images=5, **how)
    ends = torch.cat([model.sample(1, prompt=prompt, **how) for prompt in prompts])
    assert_close(path[[0, -1]], ends, atol=1e-5, rtol=0)
    assert (path[2] - path[[0, -1]]).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    Path("p.txt").write_text("\n".join(prompts))
    assert generate(f"checkpoint={checkpoint}", FAST, "mode=interpolate", "prompts=p.txt", "num_images=3", "out=o") == 0
    assert Path("o/strip.png").is_file()


@pytest.mark.slow
def test_images_are_varied_and_repainted_by_prompts(model):
    image = Image.fromarray(demo.paint("painting", 0, 40))
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, 20, 40))
    how: dict[str, Any] = {"num_images": 1, "num_steps": 2}
    for make in (
        lambda p: model.img2img(image, prompt=p, **how),
        lambda p: model.inpaint(image, mask, prompt=p, **how),
    ):
        (one,), (other,) = make("drawing by hand"), make("engraving by hand")
        assert (np.asarray(one) != np.asarray(other)).any()
        assert one.size == image.size


WRONG = {
    "a label": (["label=drawing"], "label=drawing: .* takes prompts in the place of labels"),
    "a file and a prompt": (["prompts=p.txt", "prompt=x"], "prompts=.*p.txt: takes the place of prompt=x"),
    "an empty file": (["prompts=empty.txt"], "prompts=.*empty.txt: is empty"),
    "no file": (["prompts=nowhere.txt"], "prompts=.*nowhere.txt: must be a file that exists"),
    "a binary file": (["prompts=p.png"], r"p\.png: line 1 .*save the file as UTF-8"),
    "no guidance": (
        ["negative_prompt=x", "guidance.weight=1"],
        "negative_prompt=x: has no effect with guidance.weight=1",
    ),
    "one prompt between": (["mode=interpolate", "prompt=x"], r"seeds: needs a value: seeds=\[1,2\]"),
    "one prompt of a file": (
        ["mode=interpolate", "prompts=p.txt"],
        "seeds: give two or more, .* or two or more prompts",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_prompts_are_a_line(generate, checkpoint, capsys, words, sentence):
    Path("p.txt").write_text("a drawing")
    Path("empty.txt").write_text("\n \n")
    Path("p.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert generate(f"checkpoint={checkpoint}", *words, "out=out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(sentence, line), line
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_network_of_labels_takes_no_prompt(generate, diffusion_run, capsys):
    for words in (["prompt=a drawing"], ["negative_prompt=a drawing"]):
        assert generate(f"checkpoint={diffusion_run}", *words, "out=out") == 2
        assert "was trained with labels and not captions" in capsys.readouterr().err


def test_a_network_without_labels_is_offered_none_in_the_place_of_a_prompt():
    loaded = SimpleNamespace(text=None, label_names={"class": []}, path=Path("a.ckpt"))
    with pytest.raises(ArtError, match=r"^prompt: a.ckpt was trained with labels and not captions; leave it out$"):
        conditions_for(loaded, Asked(1, 0, None, ["a pear"]), "none")


# --- export, evaluation, machines without the library


@pytest.mark.slow
def test_exported_weights_take_the_same_prompts(export, checkpoint, model, tmp_path):
    file = tmp_path / "shared.safetensors"
    assert export(f"checkpoint={checkpoint}", f"out={file}") == 0
    how: dict[str, Any] = {"prompt": "engraving by hand", "num_steps": 2, "output_type": "pt"}
    assert_close(artart.load(file, device="cpu").sample(2, **how), model.sample(2, **how), rtol=0, atol=0)


@pytest.mark.slow
def test_onnx_takes_tokens(export, checkpoint, tmp_path):
    file = tmp_path / "art.onnx"
    assert export(f"checkpoint={checkpoint}", "format=onnx", f"out={file}") == 0
    loaded = load(checkpoint)
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.9]), loaded.text.encode(["a drawing", ""])
    session = onnxruntime.InferenceSession(file)
    names = [one.name for one in session.get_inputs()]
    given = dict(zip(names, (x.numpy(), t.numpy(), y.long().numpy()), strict=True))
    with torch.no_grad():
        assert_close(torch.tensor(session.run(None, given)[0]), loaded.net(x, t, y), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_an_evaluation_draws_the_captions_of_held_out_images(evaluate, checkpoint, text_run, alexnet_weights):
    place = f"data.root={text_run.parent / 'art'}"
    weights = f"metrics.weights={alexnet_weights}"
    assert evaluate(f"checkpoint={checkpoint}", place, weights, "num_images=20", FAST) == 0
    found = json.loads(Path("judged/metrics.json").read_text())
    assert found["fidelity"] == {}  # too few are held out


@pytest.mark.slow
def test_without_the_library_a_checkpoint_names_it(generate, checkpoint, capsys, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert generate(f"checkpoint={checkpoint}", "out=out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'artart[text]'" in line
    assert call(artart.inspect, str(checkpoint)) == 0


SPOILT = {
    "another vocabulary": {"num_tokens": 99},
    "no tokenizer": {"tokenizer": "{}"},
    "words that are none": {"words": {"a": "b"}},
    "prompts that are none": {"prompts": [1]},
    "a key too many": {"more": 1},
}


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_vocabulary_is_a_sentence(checkpoint, tmp_path, spoilt):
    content = read(checkpoint)
    content["text"] |= spoilt
    torch.save(content, tmp_path / "spoilt.ckpt")
    with pytest.raises(ArtError) as error:
        load(tmp_path / "spoilt.ckpt")
    assert "\n" not in str(error.value)


def test_a_vocabulary_that_is_missing_is_a_sentence(checkpoint, tmp_path):
    content = read(checkpoint)
    del content["text"]
    torch.save(content, tmp_path / "spoilt.ckpt")
    with pytest.raises(ArtError, match="their vocabulary is missing"):
        load(tmp_path / "spoilt.ckpt")
