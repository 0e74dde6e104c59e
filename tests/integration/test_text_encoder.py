"""Prompts by a frozen encoder: a small CLIP and a small T5 of transformers with random weights."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.testing import assert_close

import artart.gallery
import artart.train
from artart.checkpoints.load import load
from artart.config.cli import compose_config
from artart.data.embeddings import EmbeddingTable
from artart.features.text_encoder import FrozenTextEncoder
from artart.training.run import prepare
from artart.training.stages import first_stage_for, prepare_first_stage

pytestmark = pytest.mark.slow  # transformers alone takes seconds to import

WORDS = ("<pad>", "<eos>", "<unk>", "drawing", "engraving", "demo", "art", ",", "a", "by", "hand", ":")
TEXT = ("objective=diffusion", "loss=mse_diffusion", "sampler.num_steps=2", "data.captions=auto", "model=unet_tiny")
SMALL = (*TEXT, "model.model_channels=16", "trainer.max_epochs=1", "run_dir=run")
HOW: dict[str, Any] = {"seed": 0, "num_steps": 2, "output_type": "pt"}
CHECKPOINT = Path("run/checkpoints/last.ckpt")


def make_encoder(folder: Path, kind: str, seed: int = 0) -> Path:
    """A folder of transformers."""
    torch.manual_seed(seed)
    if kind == "clip":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.CLIPTextConfig(
            vocab_size=len(WORDS), **sizes, max_position_embeddings=16, eos_token_id=1, bos_token_id=1, pad_token_id=0
        )
        net = transformers.CLIPTextModel(config)
    else:
        config = transformers.T5Config(
            vocab_size=len(WORDS), d_model=24, d_kv=8, d_ff=48, num_layers=2, num_heads=3, eos_token_id=1
        )
        net = transformers.T5EncoderModel(config)
    net.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", "model_max_length": 16}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


@pytest.fixture
def clip(tmp_path) -> Path:
    return make_encoder(tmp_path / "clip", "clip")


@pytest.fixture(scope="session")
def trained(once, call) -> Path:
    """The folder of a run on prompts by a CLIP like `clip`."""

    def fill(folder: Path) -> None:
        words = ("image_size=16", "data.batch_size=8", "data.num_demo_images=60", "data.val_fraction=0.5")
        encoder = f"data.text_encoder={make_encoder(folder / 'clip', 'clip')}"
        assert call(artart.train, *SMALL[:-1], *words, encoder, "trainer=cpu", f"run_dir={folder / 'run'}") == 0

    return once("text_encoder", fill)


@pytest.fixture
def run(trained, clip, tmp_path, monkeypatch) -> Path:
    """A checkpoint in the working folder whose prompts have an influence; it names `clip`."""
    monkeypatch.chdir(tmp_path)
    content = torch.load(trained / CHECKPOINT, weights_only=True)
    content["text"]["encoder"] = content["config"]["data"]["text_encoder"] = str(clip)
    generator = torch.Generator().manual_seed(0)
    for value in content["state_dict"].values():
        if not value.any():
            value.normal_(std=0.1, generator=generator)
    torch.save(content, path := tmp_path / "prompted.ckpt")
    return path


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_embeddings_are_those_of_each_text_alone(tmp_path, kind):
    folder = make_encoder(tmp_path / kind, kind)
    encoder, texts = FrozenTextEncoder(str(folder)), ["a drawing", "Engraving by hand, a drawing", "art"]
    assert encoder.num_tokens(texts) == 7
    found = [*encoder.encode(texts, 6)]
    cls = transformers.CLIPTextModel if kind == "clip" else transformers.T5EncoderModel
    net = cls.from_pretrained(folder).eval()
    with torch.inference_mode():
        for ids, own in zip(([8, 3, 1], [4, 9, 10, 7, 8, 1], [6, 1]), found, strict=True):  # the second is cut
            assert own.shape == (6, encoder.channels)
            assert_close(own[: len(ids)], net(torch.tensor([ids])).last_hidden_state[0], atol=1e-5, rtol=1e-5)
            assert own[len(ids) :].isnan().all()


def test_rows_are_those_of_the_table_and_none_has_no_tokens(clip):
    encoder = FrozenTextEncoder(str(clip))
    table = EmbeddingTable(encoder, 5)
    y = table.encode(["art", "", "a drawing", "art"])
    assert y.tolist() == [[1], [0], [2], [1]]
    assert table.encode(["engraving", "a drawing"]).tolist() == [[3], [2]]  # rows stay
    wanted = torch.stack([*encoder.encode(["art", "a drawing"], 5)]).half()
    assert_close(table(y), wanted[[0, 0, 1, 0]].masked_fill((y == 0)[..., None], torch.nan), equal_nan=True)


def test_embeddings_are_computed_once(clip, art_folder, monkeypatch):
    words = {"captions": "a {class}", "cache_dir": art_folder.parent / "cache", "image_size": 16}

    def rows() -> torch.Tensor:
        data = artart.data.datamodule.ArtDataModule(art_folder, **words)
        data.text.encoder = FrozenTextEncoder(str(clip))
        data.load()
        return data.text.vocabulary.table(data.y_of(range(4)))

    first = rows()
    monkeypatch.setattr(FrozenTextEncoder, "encode", None)
    assert_close(rows(), first, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["clip", "t5"])
@pytest.mark.parametrize("model", ["model=conv_diffusion", "model=vit"])
def test_every_network_takes_its_prompts(train, generate, tmp_path, kind, model):
    folder = make_encoder(tmp_path / kind, kind)
    small = ("model.hidden_size=48", "model.depth=2", "model.num_heads=3") if model == "model=vit" else ()
    words = (*TEXT[:-1], model, *small, "trainer.max_epochs=1", "run_dir=run", f"data.text_encoder={folder}")
    assert train(*words) == 0
    assert generate(f"checkpoint={CHECKPOINT}", "prompt=a drawing", "num_images=2", "sampler.num_steps=2") == 0


def test_a_first_stage_that_is_trained_before_takes_no_prompts(clip):
    first = (f"first_stage_settings.{word}" for word in ("experiment=autoencoder", "loss=mse"))
    words = [*TEXT, "trainer=cpu", "image_size=32", "first_stage=auto", *first, f"data.text_encoder={clip}"]
    cfg = compose_config("train", words)
    first_stage = first_stage_for(cfg, words)
    run = prepare_first_stage(prepare(cfg, words, None, first_stage), first_stage)
    assert (run.data.text_encoder, run.data.captions) == (None, "none")


def test_a_prompt_decides_and_may_be_new(run):
    model = artart.load(run, device="cpu")
    prompts = ("a drawing", "a drawing", "an engraving by hand", "")
    drawing, again, engraving, none = (model.sample(1, prompt=prompt, **HOW) for prompt in prompts)
    assert_close(drawing, again, rtol=0, atol=0)
    assert (drawing - engraving).abs().max() > 1e-3
    assert (drawing - none).abs().max() > 1e-3
    away = model.sample(1, prompt="a drawing", negative_prompt="an engraving by hand", **HOW, guidance=3.0)
    assert (away - drawing).abs().max() > 1e-3


def test_a_checkpoint_holds_the_name_of_its_encoder_and_no_weight_of_it(trained):
    content = torch.load(trained / CHECKPOINT, weights_only=True)
    assert content["text"]["encoder"] == str(trained / "clip")
    assert content["config"]["model"]["text"] == [0, 5, 32]  # demo art, engraving <eos>
    assert not any("table" in name or "encoder" in name for name in content["state_dict"])


def test_a_gallery_shows_its_prompts_beside_training_images(train, call, clip, art_folder):
    words = ("data.captions=a {class} by hand", f"data.text_encoder={clip}", "data.batch_size=4")
    assert train(*SMALL, f"data.root={art_folder}", *words, "optimizer.lr=0.1") == 0
    few, pages = ("num_images=3", "prompt=art", "sampler.num_steps=2"), []
    for nearest in ("true", "false"):
        assert call(artart.gallery, "checkpoint=run", *few, f"nearest={nearest}", f"out={nearest}") == 0
        tiles = re.findall(r'<img class="image" src="([^"]+)" alt="0', Path(nearest, "gallery.html").read_text())
        pages.append([np.asarray(Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2])))) for one in tiles])
    assert len(pages[0]) == 3
    np.testing.assert_array_equal(*pages)


def test_a_run_resumes_to_the_same_weights(train, clip):
    words = (*SMALL[:-2], f"data.text_encoder={clip}", "scheduler=constant")
    assert train(*words, "trainer.max_epochs=2", "run_dir=whole") == 0
    assert train(*words, "trainer.max_epochs=1", "run_dir=parts") == 0
    assert train(*words, "trainer.max_epochs=2", "run_dir=parts", "resume=auto") == 0
    whole, parts = (
        torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in ("whole", "parts")
    )
    for name, value in whole.items():
        assert_close(parts[name], value, rtol=0, atol=0)


def test_an_evaluation_and_another_training_know_its_prompts(run, train, evaluate, alexnet_weights):
    assert (
        evaluate(f"checkpoint={run}", f"metrics.weights={alexnet_weights}", "num_images=20", "sampler.num_steps=2") == 0
    )
    assert train(*SMALL[:-1], "run_dir=tuned", f"init_from={run}") == 0
    assert load(Path("tuned/checkpoints/last.ckpt")).text.network == [0, 5, 32]


def test_a_network_of_prompts_is_distilled(run, train):
    content = torch.load(run, weights_only=True)
    content["config"]["objective"]["parameterization"] = "v"  # with noise for weights
    torch.save(content, "teacher.ckpt")
    words = ("experiment=distill", "init_from=teacher.ckpt", "data.captions=auto", "data.batch_size=8")
    fast = ("trainer.max_epochs=1", "callbacks.grid=null", "callbacks.memorization=null", "run_dir=distilled")
    assert train(*words, *fast) == 0
    assert load(Path("distilled/checkpoints/last.ckpt")).text.network == [0, 5, 32]


def test_exported_weights_name_the_encoder_without_its_place(run, clip, export, monkeypatch, capsys):
    assert export(f"checkpoint={run}", "format=safetensors", "out=shared.safetensors") == 0
    assert str(clip) not in Path("shared.safetensors").read_bytes().decode("latin-1")
    own = artart.load(run, device="cpu").sample(1, prompt="a drawing", **HOW)
    shutil.move(clip, "clip")
    assert_close(artart.load("shared.safetensors", device="cpu").sample(1, prompt="a drawing", **HOW), own)
    assert export(f"checkpoint={run}", "format=onnx", "out=shared.onnx") == 2
    assert "holds no text encoder" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["gone", "other weights", "another kind"])
def test_an_encoder_that_cannot_be_used_is_a_sentence(run, clip, generate, capsys, change):
    if change == "gone":
        shutil.rmtree(clip)
    elif change == "other weights":
        make_encoder(clip, "clip", seed=1)
    else:
        (clip / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert generate(f"checkpoint={run}", "prompt=a drawing") == 2
    (line,) = capsys.readouterr().err.splitlines()
    wanted = {
        "gone": "cannot be read",
        "other weights": "has other weights than those of the training",
        "another kind": "is of kind bert; name a CLIP or a T5",
    }
    assert str(run) in line
    assert wanted[change] in line


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data.text_encoder=none/such"], "data.text_encoder=none/such: cannot be read"),
        (["data.text_encoder=clip"], "hf download openai/clip-vit-large-patch14; or name a folder"),
        (["data.text_encoder=clip", "data.captions=none"], "data.text_encoder: needs captions"),
    ],
)
def test_mistakes_are_a_line_before_any_work(train, capsys, words, sentence):
    assert train(*SMALL, *words) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("run").exists()
