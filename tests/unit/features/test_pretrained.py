"""Weights are found by the tensors inside files; VGG-16's are used in tests/unit/objectives/test_losses.py."""

import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close
from torchvision.models import AlexNet_Weights, alexnet

from artart import ArtError
from artart.features.alexnet import HEAD_NAMES, alexnet_for, alexnet_on, lpips_heads
from artart.features.pretrained import find_weights
from artart.features.vgg import vgg16

CPU = torch.device("cpu")
CHANNELS = [64, 192, 384, 256, 256]


def forget() -> None:
    for cached in (alexnet_on, lpips_heads, vgg16):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def no_weights_from_before_nor_for_after():
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def state(alexnet_weights):
    """AlexNet's tensors under torchvision's names."""
    return load_file(alexnet_weights / "alexnet.safetensors")


@pytest.fixture(scope="module")
def heads():
    """Heads that are not those of torchmetrics, under the names of the development data."""
    generator = torch.Generator().manual_seed(0)
    return {f"alex.lin{k}.weight": torch.rand(1, num, 1, 1, generator=generator) for k, num in enumerate(CHANNELS)}


def error_of(weights: object) -> str:
    """The line that refuses these weights of AlexNet."""
    with pytest.raises(ArtError) as error:
        alexnet_for("metrics.weights", str(weights))
    line = str(error.value)
    assert line.startswith(f"metrics.weights={weights}: ")
    assert line.endswith("; name a file or folder: metrics.weights=PATH, or do without: metrics.weights=null")
    assert "\n" not in line
    return line


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=not path.stem.startswith("old"))


# --- what is recognised


A, B = {"features.0.weight": (2, 3), "features.1.bias": (4,)}, {"lin.weight": (1, 5)}


def tensors(*forms, fill: float = 0.0):
    return {name: torch.full(shape, fill) for form in forms for name, shape in form.items()}


@pytest.mark.parametrize("name", ["a.safetensors", "X.PTH", "old.pth", "whatever.pt"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_find_weights_recognises_a_file_by_its_tensors_whatever_its_name(tmp_path, name, is_folder):
    save(tensors(A, B, fill=2.0), tmp_path / name)
    save(tensors(B), tmp_path / "other.safetensors")
    save({"features.0.weight": torch.zeros(2, 4), "features.1.bias": torch.zeros(4)}, tmp_path / "shape.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"abc")
    (tmp_path / "notes.txt").write_text("features.0.weight")
    (tmp_path / "folder.pth").mkdir()
    found, file = find_weights(str(tmp_path if is_folder else tmp_path / name), [A], "A")
    assert file == name
    assert_close(found, tensors(A, fill=2.0))


def test_find_weights_takes_the_first_form_that_a_file_holds(tmp_path):
    save(tensors(B), tmp_path / "b.pth")
    assert list(find_weights(str(tmp_path), [A, B], "A or B")[0]) == list(B)
    save(tensors(A, B), tmp_path / "b.pth")
    assert list(find_weights(str(tmp_path), [A, B], "A or B")[0]) == list(A)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no A there (no file that ends in .safetensors, .pth, .pt)"),
        (["b.pth"], "no A there (b.pth: no tensor features.0.weight)"),
        (["a.pt", "a.safetensors"], "A is in a.pt and in a.safetensors"),
    ],
)
def test_find_weights_refuses_none_and_several(tmp_path, names, message):
    for name in names:
        save(tensors(A if name.startswith("a") else B), tmp_path / name)
    with pytest.raises(ArtError) as error:
        find_weights(str(tmp_path), [A], "A")
    assert str(error.value) == message


def test_find_weights_runs_nothing_of_a_file(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"features.0.weight": torch.zeros(2, 3), "bomb": Bomb()}, tmp_path / "a.pth")
    with pytest.raises(ArtError, match=r"a\.pth: holds Python objects"):
        find_weights(str(tmp_path), [A], "A")
    assert not (tmp_path / "harm").exists()


def test_find_weights_reads_only_headers_of_files_that_do_not_fit(tmp_path, monkeypatch):
    save(tensors(A), tmp_path / "a.safetensors")
    save(tensors(B), tmp_path / "b.safetensors")
    read = []
    monkeypatch.setattr("artart.features.pretrained.load_weights", lambda file: read.append(file.name) or tensors(A))
    find_weights(str(tmp_path), [A], "A")
    assert read == ["a.safetensors"]


# --- AlexNet


def test_alexnet_of_a_folder_is_torchvisions_up_to_relu5(alexnet_weights, state):
    reference = alexnet(weights=None).features[:12]
    reference.load_state_dict({name.removeprefix("features."): value for name, value in state.items()})
    net, origin = alexnet_on(str(alexnet_weights), CPU)
    assert origin == "alexnet.safetensors"
    assert len(net) == 12
    assert isinstance(net[-1], nn.ReLU)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert_close(net(x), reference(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", ["folder", "random"])
def test_networks_are_loaded_once_frozen_and_draw_nothing(alexnet_weights, weights):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    load = (lambda: vgg16("random")) if weights == "random" else (lambda: alexnet_on(str(alexnet_weights), CPU))
    net = load().net
    assert_close(torch.rand(1), wanted)
    assert load().net is net
    assert not net.training
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in net.parameters())


@pytest.mark.parametrize("first_in_inference_mode", [False, True])
def test_gradients_reach_the_image(alexnet_weights, first_in_inference_mode):
    with torch.inference_mode(first_in_inference_mode):
        alexnet_on(str(alexnet_weights), CPU)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    alexnet_on(str(alexnet_weights), CPU).net(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_weights_in_half_precision_are_used_in_full(tmp_path, state):
    save({name: value.half() for name, value in state.items()}, tmp_path / "half.pt")
    assert {parameter.dtype for parameter in alexnet_on(str(tmp_path), CPU).net.parameters()} == {torch.float32}


def test_auto_takes_torchvisions_from_its_cache(monkeypatch):
    state = alexnet(weights=None).state_dict()
    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", lambda *args, **kwargs: state)
    net, origin = alexnet_on("auto", CPU)
    assert origin == "torchvision AlexNet IMAGENET1K_V1"
    assert_close(net.state_dict()["10.weight"], state["features.10.weight"])


def test_auto_offline_is_refused_with_remedies(offline):
    before = socket.getdefaulttimeout()
    assert "no usable alexnet-owt-7be5be79.pth in " in error_of("auto")
    assert offline == [10]
    assert socket.getdefaulttimeout() == before


def test_a_damaged_file_in_the_cache_is_reported_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"abc")
    assert f"no usable alexnet-owt-7be5be79.pth in {tmp_path}" in error_of("auto")


def test_only_the_first_line_of_torchs_error_is_shown(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", fail)
    assert "no download (first)" in error_of("auto")


def test_what_could_not_be_had_is_asked_for_again(offline, monkeypatch):
    error_of("auto")
    state = alexnet(weights=None).state_dict()
    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", lambda *args, **kwargs: state)
    assert len(alexnet_on("auto", CPU).net) == 12


def test_a_missing_path_is_refused(tmp_path):
    assert "no such file" in error_of(tmp_path / "nowhere")


def test_a_tensor_of_another_shape_is_refused(tmp_path, state):
    save(state | {"features.0.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "a.pth")
    assert "a.pth: features.0.weight has shape (64, 3, 5, 5), not (64, 3, 11, 11)" in error_of(tmp_path)


def test_a_file_that_stops_too_early_is_refused_by_the_name_of_the_tensor(tmp_path, state):
    save({name: value for name, value in state.items() if ".10." not in name}, tmp_path / "a.pth")
    assert "a.pth: no tensor features.10.weight" in error_of(tmp_path / "a.pth")


def test_two_alexnets_in_a_folder_are_refused(tmp_path, state):
    for name in ("one.pth", "two.safetensors"):
        save(state, tmp_path / name)
    assert "is in one.pth and in two.safetensors" in error_of(tmp_path)
    assert alexnet_for("metrics.weights", str(tmp_path / "two.safetensors")) == "two.safetensors"


def test_a_folder_may_lie_at_home(alexnet_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(alexnet_weights, tmp_path / "mine")
    assert alexnet_for("metrics.weights", "~/mine") == "alexnet.safetensors"


# --- the heads of LPIPS


@pytest.mark.parametrize("names", HEAD_NAMES)
@pytest.mark.parametrize("is_one_file", [True, False])
def test_heads_of_a_file_are_used_beside_alexnet_or_apart(tmp_path, state, heads, names, is_one_file):
    renamed = {names.format(k): value for k, value in enumerate(heads.values())}
    if is_one_file:
        save(state | renamed, path := tmp_path / "all.pth")
    else:
        save(state, tmp_path / "net.safetensors")
        save(renamed, tmp_path / "more.pth")
        path = tmp_path
    found = lpips_heads(str(path), CPU)
    assert [tuple(head.shape) for head in found] == [(num, 1, 1) for num in CHANNELS]
    assert_close(found, [head[0] for head in heads.values()], rtol=0, atol=0)
    assert alexnet_for("metrics.weights", str(path)).startswith(("all", "net"))


@pytest.mark.parametrize("change", [None, "missing", (1, 1, 1, 1), (192,)])
def test_heads_are_torchmetrics_where_none_fit(tmp_path, state, heads, change):
    """The third would pass for a head wherever shapes are broadcast."""
    more = {} if change is None else dict(heads)
    if change == "missing":
        del more["alex.lin3.weight"]
    elif change:
        more["alex.lin1.weight"] = torch.zeros(change)
    save(state | more, tmp_path / "a.pth")
    assert_close(lpips_heads(str(tmp_path / "a.pth"), CPU), lpips_heads("auto", CPU), rtol=0, atol=0)


def test_two_files_of_heads_are_refused(tmp_path, state, heads):
    save(state, tmp_path / "net.pth")
    for name in ("v0.0.pth", "v0.1.pth"):
        save(heads, tmp_path / name)
    assert "LPIPS v0.1 of AlexNet is in v0.0.pth and in v0.1.pth" in error_of(tmp_path)


def test_heads_of_torchmetrics_are_those_of_the_file(alexnet_weights):
    assert_close(lpips_heads("auto", CPU), lpips_heads(str(alexnet_weights), CPU), rtol=0, atol=0)
    assert all((head >= 0).all() for head in lpips_heads("auto", CPU))


@pytest.mark.slow
def test_true_weights_are_recognised_by_their_tensors(true_weights):
    assert_close(lpips_heads("auto", CPU), lpips_heads(str(true_weights), CPU), rtol=0, atol=0)
    assert "alexnet" in alexnet_for("metrics.weights", str(true_weights))
    assert "vgg16" in vgg16(str(true_weights)).origin
