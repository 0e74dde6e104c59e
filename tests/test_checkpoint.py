"""What a checkpoint may and may not do."""

import pytest
import torch
from torch.testing import assert_close

from artart import ArtError, checkpoint


@pytest.fixture
def content(finished_run) -> dict:
    return torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture
def save(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "other.ckpt")
        return tmp_path / "other.ckpt"

    return save


def test_it_gives_back_the_network_ready_for_use(finished_run, content):
    loaded = checkpoint.load(finished_run / "checkpoints" / "last.ckpt")
    assert not loaded.net.training
    assert loaded.label_names == {"class": ["drawing", "engraving", "iconography", "painting", "sculpture"]}
    assert loaded.config["image_size"] == 16
    assert_close(loaded.net.state_dict(), {k.removeprefix("net."): v for k, v in content["state_dict"].items()})


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "artart.models.conv_diffusion.nn.Sequential",  # an attribute path through one of our modules
        "artart.objectives._no_class",  # ours, but a function
        "artart.objectives.WeightedSum",  # a class, but not defined there
        "artart.train.cli",
        "conv_diffusion.ConvDiffusionModel",
    ],
)
@pytest.mark.parametrize("place", ["model", "objective", "loss", "deep"])
def test_it_builds_only_classes_of_ours(content, save, target, place):
    node = content["config"]["loss"]["mse"] if place == "deep" else content["config"][place]
    node["_target_"] = target
    with pytest.raises(ArtError, match=f"wants to build {target}"):
        checkpoint.load(save(content))


@pytest.mark.parametrize("part", ["config", "state_dict"])
@pytest.mark.parametrize("value", [None, 3, {}])
def test_a_checkpoint_in_pieces_is_a_sentence(content, save, part, value):
    content[part] = value
    with pytest.raises(ArtError, match=r"not a checkpoint of artart|weights and network do not fit"):
        checkpoint.load(save(content))


def test_an_interpolation_cannot_bring_in_a_class(content, save):
    """It is a text like any other."""
    content["config"]["loss"]["mse"] = "${oc.create:'{_target_: pathlib.Path}'}"
    with pytest.raises(ArtError, match="is no loss"):
        checkpoint.load(save(content))


class OfTheUser(torch.nn.Module):
    def __init__(self, image_size: int) -> None:
        super().__init__()


def test_a_class_of_the_users_own_is_built_if_it_is_allowed_by_name(content, save, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mypkg", __import__("types").SimpleNamespace(Net=OfTheUser))
    content["config"]["model"] = {"_target_": "mypkg.Net", "image_size": 16}
    content["state_dict"] = {}
    with pytest.raises(ArtError, match=r"allow=\[mypkg\.Net\]"):
        checkpoint.load(save(content))
    assert isinstance(checkpoint.load(save(content), allow=["mypkg.Net"]).net, OfTheUser)


def test_weights_of_another_network_are_a_sentence(content, save):
    content["state_dict"]["net.enc1.0.weight"] = torch.zeros(1)
    with pytest.raises(ArtError, match=r"weights and network do not fit.*enc1\.0\.weight"):
        checkpoint.load(save(content))


@pytest.mark.parametrize("other", [{"state_dict": {}}, [1, 2], {"weights": torch.zeros(2)}])
def test_a_file_of_somebody_else_is_a_sentence(save, other):
    with pytest.raises(ArtError, match="not a checkpoint of artart"):
        checkpoint.load(save(other))


def test_a_checkpoint_of_format_1_is_read(diffusion_run, save):
    """It held the names of the classes alone."""
    content = torch.load(diffusion_run / "checkpoints" / "last.ckpt", weights_only=True)
    of_now = checkpoint.load(diffusion_run / "checkpoints" / "last.ckpt")
    content["class_names"] = content.pop("labels")["class"]
    content["artart"]["format"] = 1
    for key in ("labels", "min_per_label"):
        del content["config"]["data"][key]
    loaded = checkpoint.load(path := save(content))
    assert loaded.label_names == of_now.label_names
    assert_close(loaded.net.state_dict(), of_now.net.state_dict())
    assert checkpoint.describe(path)["labels"] == of_now.label_names
