"""The page of a network's samples."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import artart
import artart.gallery
from artart.checkpoints.load import load
from artart.evaluation.held_out import held_out_data
from artart.generation import plan
from artart.io.images import to_model

FAST = ("num_images=3", "sampler.num_steps=2", "out=made", "label=none")


def tiles(text: str) -> list[dict[str, str]]:
    """The attributes of each tile: nearest, source, details and its image."""
    found = re.findall(r'<button class="tile"(.*?)</button>', text, re.DOTALL)
    return [dict(re.findall(r'(?:data-)?(nearest|source|details|src|alt)="([^"]*)"', one)) for one in found]


def pixels_of(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("diffusion", {"label": "none", "num_steps": 2}),
        ("gan", {"label": "none"}),
        ("text", {"prompt": "painting by hand", "num_steps": 2}),
    ],
)
def test_gallery_shows_samples_with_their_provenance(call, request, tmp_path, monkeypatch, kind, settings):
    run = request.getfixturevalue(f"{kind}_run")
    monkeypatch.chdir(tmp_path)
    words = [f"{'sampler.' * (key == 'num_steps')}{key}={value}" for key, value in settings.items()]
    assert call(artart.gallery, str(run), "nearest=false", "seed=4", "num_images=3", "out=made", *words) == 0
    text = Path("made/gallery.html").read_text()
    shown = tiles(text)
    model = artart.load(run, device="cpu")
    for tile, image, seed in zip(shown, model.sample(3, seed=4, **settings), (4, 5, 6), strict=True):
        assert np.array_equal(pixels_of(tile["src"]), np.asarray(image))
        assert f"seed={seed};" in tile["details"]
        assert tile["nearest"] == ""
    last = sorted((run / "samples").glob("epoch_????.png"))[-1]
    assert f"epoch {int(last.stem[6:])}" in text
    assert "http://" not in re.sub(r'data:[^"]*|src="[^"]*"', "", text), "nothing is loaded from elsewhere"


@pytest.mark.slow
def test_gallery_shows_the_nearest_training_image(call, judgeable_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = held_out_data(load(judgeable_run / "checkpoints/last.ckpt"))
    data.load()
    copies = data.pixels_of(data.train_ids[:3])
    monkeypatch.setattr(plan, "sample_images", lambda *of: iter([to_model(copies)[: len(of[3])]]))
    assert call(artart.gallery, str(judgeable_run), *FAST) == 0
    shown = tiles(Path("made/gallery.html").read_text())
    for tile, pixels, i in zip(shown, copies, data.train_ids, strict=False):
        assert torch.equal(torch.tensor(pixels_of(tile["nearest"])).permute(2, 0, 1), pixels)
        assert tile["source"] == f"distance 0.000, closer than held-out art; demo art, image {i}"


def test_gallery_of_an_autoencoder_is_refused_in_a_line(call, finished_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(artart.gallery, str(finished_run)) == 2
    assert "reproduces images and makes no new ones; name a network that does" in capsys.readouterr().err
    assert not Path("outputs").exists()
