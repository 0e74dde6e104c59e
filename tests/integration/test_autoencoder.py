"""An autoencoder's checkpoint in every command."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from torch.testing import assert_close

import artart
import artart.inspect
from artart.checkpoints import load as checkpoint
from artart.evaluation.held_out import held_out_data
from artart.features.alexnet import features_of
from artart.io.images import to_model, to_pixels
from artart.metrics.distances import paired_kernel_distance


@pytest.fixture(scope="module")
def best(autoencoder_run):
    return autoencoder_run / "checkpoints" / "best.ckpt"


def pixels(image) -> np.ndarray:
    return np.asarray(Image.open(image)).astype(int)


@pytest.mark.slow
def test_training_logs_the_penalty_and_draws_the_errors(autoencoder_run):
    result = json.loads((autoencoder_run / "result.json").read_text())
    assert {"train/loss", "train/mse", "train/regularizer", "val/psnr"} <= result["last"].keys()
    image = pixels(autoencoder_run / "samples" / "epoch_0001.png")
    assert image.shape == (3 * 18 + 2, 8 * 18 + 2, 3)


@pytest.mark.slow
def test_evaluate_gives_the_kid_of_reconstructions(evaluate, best, alexnet_weights, tmp_path, capsys):
    assert evaluate(f"checkpoint={best}", f"metrics.weights={alexnet_weights}") == 0
    found = json.loads((tmp_path / "judged" / "metrics.json").read_text())
    loaded = checkpoint.load(best)
    data = held_out_data(loaded)
    data.load()
    x0 = data.pixels_of(data.val_ids)
    with torch.inference_mode():
        x0_hat = to_pixels(loaded.net(to_model(x0)))
    of_both = [features_of(images, str(alexnet_weights), torch.device("cpu")) for images in (x0_hat, x0)]
    assert_close(found["kid_alexnet"], paired_kernel_distance(*of_both)._asdict(), rtol=1e-4, atol=1e-9)
    assert 0 < found["kid_alexnet"]["low"] < found["kid_alexnet"]["value"] < found["kid_alexnet"]["high"]
    assert "KID, AlexNet" in capsys.readouterr().out
    assert all("kid_alexnet" not in one for one in found["classes"].values())


@pytest.mark.slow
def test_evaluate_without_alexnet_leaves_out_kid(evaluate, best, tmp_path, capsys):
    assert evaluate(f"checkpoint={best}") == 0
    assert "kid_alexnet" not in json.loads((tmp_path / "judged" / "metrics.json").read_text())
    assert "KID" not in capsys.readouterr().out


@pytest.mark.slow
def test_reconstruct_and_generate_make_the_output_of_the_network(generate, best, art_folder):
    source = sorted(art_folder.rglob("*.png"))[0]
    assert generate(f"checkpoint={best}", "mode=reconstruct", f"input={source}", "out=made") == 0
    model = artart.load(best, device="cpu")
    with Image.open(source) as image:
        (made,) = model.reconstruct(image)
        x0_hat = model.reconstruct(image, output_type="pt")
    assert (np.asarray(made) == pixels(f"made/{source.stem}.png")).all()
    assert x0_hat.shape == (1, 3, 16, 16)


def test_inspect_prints_an_autoencoder(best, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["artart.inspect", str(best)])
    artart.inspect.run()
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["config"]["model"]["_target_"] == "artart.models.autoencoder.Autoencoder"
    assert found["config"]["objective"]["regularizer"]["std"] == 0.05
    assert found["numbers in the network"] == sum(one.numel() for one in checkpoint.load(best).net.parameters())


@pytest.mark.slow
def test_exported_weights_are_those_of_the_checkpoint(export, best, tmp_path):
    assert export(f"checkpoint={best}", f"out={tmp_path}/net.safetensors") == 0
    before, after = checkpoint.load(best), checkpoint.load(tmp_path / "net.safetensors")
    assert_close(after.net.state_dict(), before.net.state_dict(), rtol=0, atol=0)
    assert vars(after.objective.regularizer) == vars(before.objective.regularizer)


@pytest.mark.slow
def test_onnx_reconstructs_a_batch_of_any_size(export, best, tmp_path):
    assert export(f"checkpoint={best}", "format=onnx", f"out={tmp_path}/net.onnx") == 0
    session, net = onnxruntime.InferenceSession(tmp_path / "net.onnx"), checkpoint.load(best).net
    for num in (1, 5):
        x = torch.randn(num, 3, 16, 16)
        (made,) = session.run(None, {"x": x.numpy()})
        assert_close(torch.from_numpy(made), net(x).detach(), rtol=1e-4, atol=1e-5)
