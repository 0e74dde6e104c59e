"""AlexNet and the heads of LPIPS; VGG-16 is in test_losses.py."""

import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close
from torchvision.models import AlexNet_Weights, alexnet

from artart import ArtError
from artart.features.pretrained import alexnet_on, lpips_heads

CPU = torch.device("cpu")
ALEXNET, HEADS = "alexnet_features_torchvision.safetensors", "lpips_lin_heads_v0.1.safetensors"
CHANNELS = [64, 192, 384, 256, 256]


def forget() -> None:
    alexnet_on.cache_clear()
    lpips_heads.cache_clear()


@pytest.fixture(autouse=True)
def no_weights_from_before_nor_for_after():
    forget()
    yield
    forget()


@pytest.fixture
def weights(alexnet_weights):
    return alexnet_weights


def sentence(error: pytest.ExceptionInfo) -> str:
    """What is said, which is one line."""
    said = str(error.value)
    assert "\n" not in said
    return said


# --- AlexNet


def test_alexnet_of_a_folder_is_torchvisions_up_to_relu5(weights):
    reference = alexnet(weights=None).features[:12]
    reference.load_state_dict({k.removeprefix("features."): v for k, v in load_file(weights / ALEXNET).items()})
    net, origin = alexnet_on(str(weights), CPU)
    assert origin == ALEXNET
    assert len(net) == 12
    assert isinstance(net[-1], nn.ReLU)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert_close(net(x), reference(x).detach(), rtol=1e-4, atol=1e-5)


def test_alexnet_is_loaded_once_frozen_and_draws_nothing(weights):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    net = alexnet_on(str(weights), CPU).net
    assert_close(torch.rand(1), wanted)
    assert alexnet_on(str(weights), CPU).net is net
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("first_in_inference_mode", [False, True])
def test_gradients_reach_the_image(weights, first_in_inference_mode):
    with torch.inference_mode(first_in_inference_mode):
        alexnet_on(str(weights), CPU)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    alexnet_on(str(weights), CPU).net(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_auto_takes_torchvisions_from_its_cache(monkeypatch):
    state = alexnet(weights=None).state_dict()
    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", lambda *args, **kwargs: state)
    net, origin = alexnet_on("auto", CPU)
    assert origin == "torchvision AlexNet IMAGENET1K_V1"
    assert_close(net.state_dict()["10.weight"], state["features.10.weight"])


def test_auto_offline_is_refused_with_remedies(offline):
    before = socket.getdefaulttimeout()
    with pytest.raises(ArtError, match=r"^metrics\.weights=auto: .*no network") as error:
        alexnet_on("auto", CPU)
    for remedy in ("put alexnet-owt-7be5be79.pth into ", f"a folder that holds {ALEXNET}", "metrics.weights=null"):
        assert remedy in sentence(error)
    assert offline == [10]
    assert socket.getdefaulttimeout() == before


def test_a_damaged_file_in_the_cache_is_reported_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"abc")
    with pytest.raises(ArtError, match=r"^metrics\.weights=auto: no ImageNet weights.*metrics\.weights=null"):
        alexnet_on("auto", CPU)


def test_what_could_not_be_had_is_asked_for_again(offline, monkeypatch):
    with pytest.raises(ArtError):
        alexnet_on("auto", CPU)
    state = alexnet(weights=None).state_dict()
    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", lambda *args, **kwargs: state)
    assert len(alexnet_on("auto", CPU).net) == 12


# --- the heads


def test_heads_are_one_weight_per_channel(weights):
    heads = lpips_heads(str(weights), CPU)
    assert [tuple(head.shape) for head in heads] == [(channels, 1, 1) for channels in CHANNELS]
    assert all((head >= 0).all() for head in heads)
    state = load_file(weights / HEADS)
    for k, head in enumerate(heads):
        assert_close(head.flatten(), state[f"alex.lin{k}.weight"].flatten(), rtol=0, atol=0)


def test_heads_of_torchmetrics_are_those_of_a_folder(weights):
    assert_close(lpips_heads("auto", CPU), lpips_heads(str(weights), CPU), rtol=0, atol=0)


@pytest.mark.slow
def test_torchmetrics_carries_the_authors_heads(true_weights):
    assert_close(lpips_heads("auto", CPU), lpips_heads(str(true_weights), CPU), rtol=0, atol=0)


# --- folders


@pytest.mark.parametrize(("load", "name"), [(alexnet_on, ALEXNET), (lpips_heads, HEADS)])
@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_a_folder_without_the_file_is_refused_by_its_name(load, name, folder, tmp_path):
    with pytest.raises(ArtError) as error:
        load(f"{tmp_path}/{folder}", CPU)
    said = sentence(error)
    assert said.startswith(f"metrics.weights={tmp_path}/{folder}: ")
    assert f"no file {name}" in said
    assert "auto or null" in said


def test_a_folder_may_lie_at_home(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    for name in (ALEXNET, HEADS):
        shutil.copy(weights / name, tmp_path / "mine")
    assert alexnet_on("~/mine", CPU).origin == ALEXNET
    assert len(lpips_heads("~/mine", CPU)) == 5


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    save_file({"features.0.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / ALEXNET)
    with pytest.raises(ArtError, match=r"features\.0\.weight: shape \(64, 3, 5, 5\).*\(64, 3, 11, 11\)") as error:
        alexnet_on(str(tmp_path), CPU)
    assert sentence(error).startswith(f"metrics.weights={tmp_path}: ")
    assert "give weights of AlexNet with torchvision's names" in sentence(error)


def test_a_file_that_stops_too_early_is_refused_by_the_name_of_the_tensor(weights, tmp_path):
    state = load_file(weights / ALEXNET)
    save_file({name: value for name, value in state.items() if ".10." not in name}, tmp_path / ALEXNET)
    with pytest.raises(ArtError, match=r"features\.10\.weight: no such tensor"):
        alexnet_on(str(tmp_path), CPU)


def test_a_missing_head_is_refused_by_its_name(weights, tmp_path):
    state = load_file(weights / HEADS)
    del state["alex.lin3.weight"]
    save_file(state, tmp_path / HEADS)
    with pytest.raises(
        ArtError, match=r"metrics\.weights=.*alex\.lin3\.weight: not a tensor of shape \(1, 256, 1, 1\)"
    ) as error:
        lpips_heads(str(tmp_path), CPU)
    assert sentence(error).startswith(f"metrics.weights={tmp_path}: ")


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 32, 1, 1), (192,)])
def test_a_head_of_another_shape_is_refused(weights, tmp_path, shape):
    """The first would pass for a head wherever shapes are broadcast."""
    save_file(load_file(weights / HEADS) | {"alex.lin1.weight": torch.zeros(shape)}, tmp_path / HEADS)
    with pytest.raises(ArtError, match=r"metrics\.weights=.*alex\.lin1\.weight"):
        lpips_heads(str(tmp_path), CPU)
