"""Files of images, and their names."""

import numpy as np
import pytest
import torch
from PIL import Image

from artart.generation.labels import label_in_name
from artart.generation.output import Output
from artart.io.provenance import ImageProvenance


def noise(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_save_enlarges_by_squares_or_smoothly_and_says_so(tmp_path):
    pixels, made = noise(5, 7), {}
    for resample in ("nearest", "lanczos"):
        path = Output(tmp_path, 4, resample).save_enlarged(
            pixels, f"{resample}.png", ImageProvenance("trained", {"seed": 1})
        )
        with Image.open(path) as image:
            assert "seed=1; scale=4<" in image.text["XML:com.adobe.xmp"]
            made[resample] = torch.tensor(np.array(image)).permute(2, 0, 1)
    assert torch.equal(made["nearest"], pixels.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert made["lanczos"].shape == (3, 20, 28)
    assert not torch.equal(made["lanczos"], made["nearest"])


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [((0, 2), "_oil"), ((1, 0), "_a-b-c_Hélène-O-Hara"), ((2, 2), ""), ((2, 1), "_" + 40 * "x")],
)
def test_a_label_in_a_name_has_no_character_that_a_file_system_refuses(labels, wanted):
    assert label_in_name(labels, {"class": ["oil", "a/b: c"], "artist": ["Hélène, O'Hara", 99 * "x"]}) == wanted
