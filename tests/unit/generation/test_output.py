"""Files and contact sheets."""

import numpy as np
import pytest
import torch
from PIL import Image

from artart.generation import output
from artart.generation.labels import label_in_name
from artart.generation.output import ContactSheet, Output
from artart.io.provenance import ImageProvenance


def noise(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_save_enlarges_by_squares_or_smoothly_and_says_so(tmp_path):
    pixels, made = noise(5, 7), {}
    for resample in ("nearest", "lanczos"):
        path = Output(tmp_path, 4, resample).save(pixels, f"{resample}.png", ImageProvenance("trained", {"seed": 1}))
        with Image.open(path) as image:
            assert "seed=1; scale=4<" in image.text["XML:com.adobe.xmp"]
            made[resample] = torch.tensor(np.array(image)).permute(2, 0, 1)
    assert torch.equal(made["nearest"], pixels.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert made["lanczos"].shape == (3, 20, 28)
    assert not torch.equal(made["lanczos"], made["nearest"])


@pytest.mark.parametrize(("height", "width", "box"), [(64, 64, (96, 96)), (200, 400, (48, 96)), (10, 5, (96, 48))])
def test_a_sheet_shows_images_of_any_size_whole(height, width, box):
    sheet = ContactSheet(32, "nearest")
    sheet.add(torch.zeros(3, height, width, dtype=torch.uint8))
    black = (sheet.draw(1) < 30).all(dim=0)
    assert black.shape == (100, 100)
    assert (int(black.any(dim=1).sum()), int(black.any(dim=0).sum())) == box


def test_captions_are_cut_to_their_image():
    sheet = ContactSheet(96, "nearest")
    for caption in ("painting", "a name that is much longer than its image is wide", ""):
        sheet.add(torch.full((3, 96, 96), 255, dtype=torch.uint8), caption)
    band = (sheet.draw(3) < 128).any(dim=0)[98:]
    places = [int(band[:, 2 + 98 * k : 100 + 98 * k].any(dim=0).sum()) for k in range(3)]
    assert places[1] > places[0] > 20
    assert places[2] == 0
    assert not band[:, 98:100].any()
    assert not band[:, 196:198].any()


def test_a_sheet_takes_no_more_than_it_holds(monkeypatch):
    monkeypatch.setattr(output, "MAX_IN_SHEET", 3)
    sheet = ContactSheet(96, "lanczos")
    for _ in range(5):
        sheet.add(noise(8, 8))
    assert sheet.draw(2).shape == (3, 198, 198)
    assert not sheet.has_room()


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [((0, 2), "_oil"), ((1, 0), "_a-b-c_Hélène-O-Hara"), ((2, 2), ""), ((2, 1), "_" + 40 * "x")],
)
def test_a_label_in_a_name_has_no_character_that_a_file_system_refuses(labels, wanted):
    assert label_in_name(labels, {"class": ["oil", "a/b: c"], "artist": ["Hélène, O'Hara", 99 * "x"]}) == wanted
