import pytest
import torch
import torchmetrics.image.fid
from torch import nn

from artart import ArtError
from artart.features import inception

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_from_before():
    inception.inception_on.cache_clear()
    yield
    inception.inception_on.cache_clear()


class Colours(nn.Module):
    """Stands in for Inception: nine numbers of an image of bytes."""

    arguments = None  # of the last

    def __init__(self, *arguments, **options):
        super().__init__()
        Colours.arguments = (*arguments, options)

    def forward(self, x):
        assert x.dtype == torch.uint8
        return nn.functional.adaptive_avg_pool2d(x.float(), (1, 3)).flatten(1)


def test_features_are_in_double_precision_and_in_order(monkeypatch):
    monkeypatch.setattr(torchmetrics.image.fid, "NoTrainInceptionV3", Colours)
    pixels = torch.randint(0, 256, (150, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = inception.inception_features(pixels, "auto", CPU)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.cat([Colours()(one[None]) for one in pixels]).double())


@pytest.mark.parametrize(("weights", "file"), [("auto", None), ("weights/inception.pth", "weights/inception.pth")])
def test_the_network_is_that_of_published_fids(monkeypatch, weights, file):
    monkeypatch.setattr(torchmetrics.image.fid, "NoTrainInceptionV3", Colours)
    inception.inception_on(weights, CPU)
    assert Colours.arguments == ("inception-v3-compat", ["2048"], file, {"antialias": False})


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ModuleNotFoundError("torch-fidelity"), r"metrics.features=inception: .*pip install 'artart\[metrics\]'"),
        (
            OSError("no route to host"),
            r"metrics.features=inception: no weights of Inception \(no route to host\); name its file",
        ),
    ],
)
def test_what_is_missing_is_reported_in_one_line(monkeypatch, error, sentence):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torchmetrics.image.fid, "NoTrainInceptionV3", fail)
    with pytest.raises(ArtError, match=sentence):
        inception.inception_on("auto", CPU)
