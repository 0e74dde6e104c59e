"""A network's square, pasted into an image of another size."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms.v2.functional import pil_to_tensor

from artart.data.decode import resize
from artart.generation.original import Original, repainted, spread

MODES = ["stretch", "center_crop", "pad"]
SIZES = [(384, 304), (61, 200), (16, 16)]


def smooth(size: tuple[int, int]) -> Image.Image:
    """Red rises to the right, green downwards."""
    across, down = (np.linspace(0, 255, length) for length in size)
    pixels = np.stack(np.broadcast_arrays(across[None, :], down[:, None], 100.0), axis=-1)
    return Image.fromarray(pixels.round().astype(np.uint8))


def square(image: Image.Image, mode: str, side: int = 64) -> torch.Tensor:
    return torch.tensor(resize(image, side, mode)).permute(2, 0, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_paste_is_the_inverse_of_resize(size, mode):
    """Of what has no detail nothing is lost."""
    image = smooth(size)
    pasted = Original(lambda: image, mode).paste(square(image, mode))
    assert_close(pasted.int(), pil_to_tensor(image).int(), rtol=0, atol=8)


def test_paste_keeps_what_the_network_does_not_see():
    image = Image.effect_noise((61, 200), 80).convert("RGB")
    pasted = Original(lambda: image, "center_crop").paste(torch.zeros(3, 16, 16, dtype=torch.uint8))
    assert torch.equal(pasted[:, :69], pil_to_tensor(image)[:, :69])
    assert torch.equal(pasted[:, 130:], pil_to_tensor(image)[:, 130:])
    assert not pasted[:, 69:130].any()


@pytest.mark.parametrize("mode", MODES)
def test_paste_changes_only_what_the_mask_covers(mode):
    image, white = Image.effect_noise((90, 70), 80).convert("RGB"), np.zeros((70, 90), bool)
    white[20:41, 33:47] = True
    mask = Image.fromarray(255 * white.astype(np.uint8))
    made = Original(lambda: image, mode, mask).paste(torch.full((3, 16, 16), 255, dtype=torch.uint8))
    assert torch.equal(made[:, ~white], pil_to_tensor(image)[:, ~white])
    assert (made[:, white] == 255).all()


@pytest.mark.parametrize("mode", MODES)
def test_repainted_are_the_pixels_that_a_mask_touches(mode):
    white = np.zeros((64, 64), np.uint8)
    white[30, 17] = 255
    wanted = torch.zeros(1, 16, 16, dtype=torch.bool)
    wanted[0, 7, 4] = True
    assert torch.equal(repainted(Image.fromarray(white), 16, mode), wanted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(384, 304), (50, 200)])
def test_spread_is_the_inverse_of_repainted(size, mode):
    repaint = torch.zeros(1, 16, 16, dtype=torch.bool)
    repaint[0, 6:9, 6:10] = True
    mask = np.asarray(spread(repaint, size, mode))
    assert mask.shape == size[::-1]
    assert set(np.unique(mask)) == {0, 255}
    found = repainted(Image.fromarray(mask), 16, mode)
    assert (found & repaint).sum() == repaint.sum()
    assert found[0, 5:10, 5:11].sum() == found.sum()  # at most a pixel more at each side
