from functools import partial

import pytest
import torch
import torchmetrics.image.fid
import torchmetrics.image.kid
from torch import nn

from artart import ArtError
from artart.metrics import inception


class Colours(nn.Module):
    """Stands in for Inception: nine numbers of a picture of bytes."""

    num_features = 9

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x.float(), (1, 3)).flatten(1)


@pytest.fixture
def stand_in(monkeypatch):
    for module, name in (
        (torchmetrics.image.fid, "FrechetInceptionDistance"),
        (torchmetrics.image.kid, "KernelInceptionDistance"),
    ):
        monkeypatch.setattr(module, name, partial(getattr(module, name), feature=Colours()))


def pictures(seed, brightness=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 200, (100, 3, 8, 8), generator=generator) + brightness).to(torch.uint8)


def test_fid_and_kid_tell_others_from_the_same_kind(stand_in):
    found = inception.distances(pictures(0, brightness=50), pictures(1), pictures(2))
    assert found.keys() == {"fid", "kid"}
    for one in found.values():
        assert one["value"] > 10 * abs(one["real"]["value"])
        assert one["low"] <= one["value"] <= one["high"]


def test_the_subsets_of_kid_are_the_same_each_time_and_the_random_state_stays(stand_in):
    before = torch.random.get_rng_state()
    first = inception.distances(pictures(0), pictures(1), pictures(2))
    assert first == inception.distances(pictures(0), pictures(1), pictures(2))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ModuleNotFoundError("torch-fidelity"), r"metrics.inception=true: .*pip install 'artart\[metrics\]'"),
        (
            OSError("no route to host"),
            r"metrics.inception=true: Inception's weights cannot be had \(no route to host\)",
        ),
    ],
)
def test_what_is_missing_is_a_sentence(monkeypatch, error, sentence):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torchmetrics.image.fid, "FrechetInceptionDistance", fail)
    with pytest.raises(ArtError, match=sentence):
        inception.distances(pictures(0), pictures(1), pictures(2))
