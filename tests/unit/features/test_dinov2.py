import sys

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms import v2

from artart import ArtError
from artart.features.dinov2 import dinov2_features, dinov2_on
from artart.features.pretrained import IMAGENET_MEAN, IMAGENET_STD

pytestmark = pytest.mark.slow  # transformers alone takes seconds to import

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_from_before():
    dinov2_on.cache_clear()
    yield
    dinov2_on.cache_clear()


def test_features_are_the_class_token_of_the_authors_preprocessing(dinov2_weights):
    from transformers import Dinov2Model

    pixels = torch.randint(0, 256, (70, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = dinov2_features(pixels, str(dinov2_weights), CPU)
    net = Dinov2Model.from_pretrained(dinov2_weights).eval()
    resize = v2.Resize((224, 224), v2.InterpolationMode.BICUBIC, antialias=True)
    prepare = v2.Compose([v2.ToDtype(torch.float32, scale=True), resize, v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    with torch.no_grad():
        tokens = net(pixel_values=prepare(pixels[-3:])).last_hidden_state
    assert found.shape == (70, 24)
    assert found.dtype == torch.float64
    assert_close(found[-3:], tokens[:, 0].double(), rtol=0, atol=0.02)  # overshoot of bicubic is not clamped there


def test_gradients_and_dropout_are_off(dinov2_weights):
    net = dinov2_on(str(dinov2_weights), CPU)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_what_is_missing_is_reported_in_one_line_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ArtError, match=r"metrics.weights=facebook/dinov2-large: .*hf download facebook/dinov2-large"):
        dinov2_on("auto", CPU)
    with pytest.raises(ArtError, match=r"metrics.weights=.*: cannot be read \("):
        dinov2_on(str(tmp_path), CPU)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ArtError, match=r"metrics.weights=.*: is of kind clip; name a DINOv2"):
        dinov2_on(str(tmp_path), CPU)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ArtError, match=r"needs the library transformers; install it: pip install 'artart\[text\]'"):
        dinov2_on("auto", CPU)
