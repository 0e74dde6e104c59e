"""Contact sheets."""

import pytest
import torch

from artart.io import contact_sheet
from artart.io.contact_sheet import ContactSheet


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
    monkeypatch.setattr(contact_sheet, "MAX_IN_SHEET", 3)
    sheet = ContactSheet(96, "lanczos")
    for _ in range(5):
        sheet.add(torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert sheet.draw(2).shape == (3, 198, 198)
    assert not sheet.has_room()


def test_letters_of_many_scripts_are_drawn():
    """A font without a letter draws the same box for all."""
    sheet = ContactSheet(96, "nearest")
    for letter in "éłИΝ":
        sheet.add(torch.full((3, 96, 96), 255, dtype=torch.uint8), letter)
    bands = [sheet.draw(4)[:, 98:, 2 + 98 * k : 20 + 98 * k] for k in range(4)]
    assert not any(torch.equal(bands[i], bands[j]) for i in range(4) for j in range(i))
