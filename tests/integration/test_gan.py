"""Every command on a checkpoint of a GAN."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import artart
from artart import ArtError, Model


@pytest.fixture(scope="session")
def last(gan_run: Path) -> Path:
    return gan_run / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def model(last: Path) -> Model:
    return artart.load(last, device="cpu")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.slow
def test_training_draws_grids_and_tests_for_memorization(gan_run):
    assert "memorization/rate 0.0%" in (gan_run / "train.log").read_text()
    assert Image.open(gan_run / "samples" / "epoch_0002.png").size[0] > 4 * 16
    content = torch.load(gan_run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["metrics"].keys() == {"val/swd", "val/discriminator"}
    assert len(content["optimizer_states"][0]["param_groups"]) == 2
    assert content["current_model_state"].keys() == content["state_dict"].keys()


def test_an_image_depends_on_its_seed_and_label_alone(model):
    several = model.sample(5, label="painting", seed=3, output_type="pt")
    alone = model.sample(1, label="painting", seed=5, output_type="pt")
    assert_close(several[2], alone[0], rtol=0, atol=1e-5)
    assert (several[2] - several[3]).abs().max() > 1e-3
    assert (model.sample(1, label="drawing", seed=5, output_type="pt") - alone).abs().max() > 1e-3
    assert_close(model.sample(5, label="painting", seed=3, batch_size=2, output_type="pt"), several, rtol=0, atol=1e-5)


def test_interpolation_begins_and_ends_with_the_images_of_its_seeds(model):
    images = model.interpolate([1, 2], 3, label="drawing", output_type="pt")
    ends = [model.sample(1, label="drawing", seed=seed, output_type="pt")[0] for seed in (1, 2)]
    assert_close(images[[0, 2]], torch.stack(ends), rtol=0, atol=1e-5)


def test_generate_writes_the_images_of_python(generate, last, model):
    assert generate(f"checkpoint={last}", "num_images=3", "label=painting", "seed=2", "out=made", "device=cpu") == 0
    for path, image in zip(sorted(Path("made").glob("0*.png")), model.sample(3, label="painting", seed=2), strict=True):
        assert np.abs(pixels(path).astype(int) - np.asarray(image)).max() <= 1
        assert "sampler" not in str(image.info) and "guidance" not in str(image.info)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("guidance.weight=2", "guidance.weight=2: .* makes an image in one step; leave it out"),
        ("sampler=ddim", "sampler=ddim: .* makes an image in one step; leave it out"),
        ("save_trajectory=true", "save_trajectory=true: .* makes an image in one step; leave it out"),
        ("mode=img2img", "mode=img2img: .* was not trained for that; it can do mode=sample or interpolate"),
        ("mode=inpaint", "mode=inpaint: .* was not trained for that; it can do mode=sample or interpolate"),
    ],
)
def test_what_a_gan_does_not_take_is_one_line(generate, last, capsys, word, message):
    assert generate(f"checkpoint={last}", word) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert re.match(message, error)


def test_python_refuses_guidance_and_sampler(model):
    for argument in ({"guidance": 2.0}, {"sampler": "ddim"}, {"num_steps": 3}):
        with pytest.raises(ArtError, match="a GAN makes an image in one step; leave them out"):
            model.sample(1, **argument)


@pytest.mark.slow
def test_evaluate_measures_all_but_noise_levels(evaluate, last, alexnet_weights):
    weights = f"metrics.weights={alexnet_weights}"
    assert evaluate(f"checkpoint={last}", "num_images=24", "device=cpu", weights) == 0
    metrics = json.loads(Path("judged/metrics.json").read_text())
    assert {"kid_alexnet", "memorization", "spectrum_db"} <= metrics.keys()
    assert not {"error_by_noise_level", "sampler", "guidance"} & metrics.keys()


def test_an_exported_file_makes_the_same_images(export, last, model, tmp_path):
    assert export(f"checkpoint={last}", f"out={tmp_path / 'gan.safetensors'}") == 0
    exported = artart.load(tmp_path / "gan.safetensors", device="cpu")
    assert_close(exported.sample(2, output_type="pt"), model.sample(2, output_type="pt"), rtol=0, atol=0)


@pytest.mark.slow
def test_onnx_maps_noise_and_labels_to_images(export, last, model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert export(f"checkpoint={last}", "format=onnx", f"out={tmp_path / 'gan.onnx'}") == 0
    session = onnxruntime.InferenceSession(tmp_path / "gan.onnx")
    assert [one.name for one in session.get_inputs()] == ["x", "y"]
    x, y = torch.randn(5, 3, 16, 16), torch.zeros(5, 1, dtype=torch.long)
    (made,) = session.run(None, {"x": x.numpy(), "y": y.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(made), model.net(x, y=y), rtol=1e-4, atol=1e-4)


WRONG = [
    (["model=unet_small"], "model: objective=gan needs a generator; use model=gan"),
    (["loss=mse_diffusion"], "loss: objective=gan has a loss of its own; use loss=relativistic"),
    (["sampler.num_steps=3"], "callbacks.grid.sampler.num_steps=3: objective=gan makes an image in one step"),
    (["callbacks.grid.guidance=2"], "callbacks.grid.guidance=2: objective=gan takes no guidance; set 1"),
    (["callbacks=default"], "callbacks.grid: is not for objective=gan; use callbacks=gan"),
    (["compile=default"], "compile=default: objective=gan needs gradients of gradients"),
    (["optimizer=sgd"], "scheduler=burn_in: changes beta2 of Adam; use optimizer=adam"),
    (["data.captions=auto"], "data.captions: objective=gan takes labels and no prompts; set data.captions=none"),
    (["image_size=20"], "image_size=20: not divisible by 8, which 4 levels of channel_mult need; try 16 or 24"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "message"), WRONG)
def test_train_refuses_what_does_not_go_with_a_gan(train, capsys, words, message):
    assert train("experiment=gan", *words) == 2
    assert message in capsys.readouterr().err
    assert not Path("outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "loss"), [("reconstruction", "hybrid"), ("diffusion", "hybrid_diffusion")])
def test_train_refuses_parts_of_a_gan_elsewhere(train, capsys, objective, loss):
    assert train(f"objective={objective}", "model=gan", f"loss={loss}") == 2
    assert "model: the generator of a GAN is for objective=gan alone" in capsys.readouterr().err
