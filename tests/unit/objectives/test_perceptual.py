import re

import pytest
import torch
from torch.testing import assert_close

from artart import ArtError
from artart.config.compatibility import check_memory
from artart.io import memory
from artart.io.images import to_model
from artart.objectives import losses
from artart.objectives.losses import Perceptual, fingerprints


@pytest.fixture
def x():
    pixels = torch.randint(0, 256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return to_model(pixels)


@pytest.fixture
def x_hat(x):
    return (x.flip(0) * 0.9).requires_grad_()


def test_the_loss_and_its_gradient_are_those_without_a_cache(x, x_hat):
    cached = Perceptual("random", cache_targets=True)
    (wanted,) = torch.autograd.grad(Perceptual("random")(x_hat, x).sum(), x_hat)
    for _ in range(2):  # computed, then known
        loss = cached(x_hat, x)
        assert_close(loss, Perceptual("random")(x_hat, x), rtol=2e-3, atol=0)
        assert_close(
            torch.autograd.grad(loss.sum(), x_hat)[0], wanted, rtol=2e-2, atol=1e-3 * wanted.abs().max().item()
        )


def test_known_targets_serve_a_network_in_bf16(x, x_hat):
    cached = Perceptual("random", cache_targets=True)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = cached(x_hat, x)
        assert_close(loss, Perceptual("random")(x_hat, x), rtol=3e-2, atol=0)


def test_targets_are_computed_once_in_whatever_company(x, x_hat, monkeypatch):
    cached, seen = Perceptual("random", cache_targets=True), []
    original = losses.imagenet_units
    monkeypatch.setattr(losses, "imagenet_units", lambda images: seen.append(len(images)) or original(images))
    first = cached(x_hat[:3], x[:3])
    shuffled = torch.tensor([4, 1, 0, 3, 2])
    again = cached(x_hat[shuffled], x[shuffled])
    assert seen == [3, 3, 2, 5]  # targets, outputs, new targets, outputs
    assert_close(again[[2, 1, 4]], first)


def test_what_validation_stored_serves_training(x, x_hat):
    cached = Perceptual("random", cache_targets=True)
    with torch.inference_mode():
        cached(x_hat.detach(), x)
    cached(x_hat, x).sum().backward()
    assert x_hat.grad.abs().sum() > 0


def test_a_fingerprint_sees_every_grey_level_and_nothing_else(x):
    images = [x[0]]
    for channel, row, column in ((0, 0, 0), (2, 15, 15), (1, 7, 3)):
        other = x[0].clone()
        other[channel, row, column] += 2 / 255 if other[channel, row, column] < 0 else -2 / 255
        images.append(other)
    images.append(x[0].flip(-1))
    assert len({*fingerprints(torch.stack(images))}) == len(images)
    alone = [fingerprints(one[None])[0] for one in x]
    assert fingerprints(x.to(memory_format=torch.channels_last)) == alone


def test_the_memory_of_a_target_is_what_is_said():
    x = torch.zeros(1, 3, 32, 32)
    cached = Perceptual("random", cache_targets=True)
    cached(x, x)
    (target,) = cached.targets.values()
    assert target.untyped_storage().nbytes() == Perceptual.bytes_per_target(32)


def test_more_than_half_of_the_memory_is_refused_before_training(monkeypatch):
    config = {"image_size": 128, "loss": {"weights": {"perceptual": 1.0}, "perceptual": {"cache_targets": True}}}
    config["trainer"] = {"accelerator": "cpu"}
    half = 10**9
    monkeypatch.setattr(memory, "available", lambda _: 2 * half)
    most = half // Perceptual.bytes_per_target(128)
    check_memory(config, most)
    with pytest.raises(ArtError, match=rf"cache_targets=true: the features of {most + 1} images take .* leave it"):
        check_memory(config, most + 1)
    config["loss"]["perceptual"]["cache_targets"] = False
    check_memory(config, 10**9)


@pytest.mark.slow
def test_a_run_with_cached_targets_measures_what_one_without_does(train, tmp_path):
    results = []
    for cached in ("true", "false"):
        run_dir = tmp_path / cached
        assert train(f"loss.perceptual.cache_targets={cached}", "trainer.max_epochs=1", f"run_dir={run_dir}") == 0
        text = (run_dir / "result.json").read_text()
        results.append(float(re.search(r'"val/perceptual": ([\d.e-]+)', text)[1]))
    assert results[0] == pytest.approx(results[1], rel=1e-2)


@pytest.mark.slow
def test_images_that_change_are_refused(train, capsys, tmp_path):
    assert train("loss.perceptual.cache_targets=true", "data.random_flip=true", "run_dir=run") == 2
    assert "cache_targets=true: images must not change; set data.random_flip=false" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- crops


def test_crops_are_compared_in_training_and_whole_images_in_validation(x, x_hat, monkeypatch):
    seen = []
    original = losses.imagenet_units
    monkeypatch.setattr(losses, "imagenet_units", lambda images: seen.append(images.shape[-2:]) or original(images))
    loss = Perceptual("random", crop=0.5)
    loss(x_hat, x)
    with torch.no_grad():
        whole = loss(x_hat, x)
    assert seen == [(8, 8), (8, 8), (16, 16), (16, 16)]
    assert_close(whole, Perceptual("random")(x_hat, x).detach())


def test_a_crop_is_of_the_same_place_in_both_and_elsewhere_for_another_seed(x):
    places, loss = set(), Perceptual("random", crop=0.5)
    for seed in range(40):
        torch.manual_seed(seed)
        x_hat = x.clone().requires_grad_()
        a, b = loss._cropped(x_hat, x)
        assert_close(a, b)
        torch.rand(3)
        assert_close(loss._cropped(x_hat, x)[0], a)
        (gradient,) = torch.autograd.grad(a.sum(), x_hat)
        places.add(tuple(gradient[0, 0].nonzero()[0].tolist()))
    assert len(places) > 25
    assert {row for row, _ in places} >= {0, 8}  # from edge to edge


def test_crops_cannot_be_kept(train, capsys):
    assert train("loss.perceptual.crop=0.5", "loss.perceptual.cache_targets=true") == 2
    assert (
        "loss.perceptual.crop=0.5: crops differ from step to step; set cache_targets=false" in capsys.readouterr().err
    )
