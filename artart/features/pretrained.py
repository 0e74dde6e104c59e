"""Networks that others have trained and that are only asked: VGG-16, AlexNet, and the heads of LPIPS.

They are frozen and live outside every module tree, so no checkpoint carries them; gradients reach the images.
"""

import copy
import functools
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import torch
import torchmetrics
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, VGG16_Weights, alexnet
from torchvision.models.vgg import make_layers

from artart import ArtError
from artart.io.files import load, load_weights

log = logging.getLogger(__name__)

# ImageNet's mean and standard deviation of R, G and B in [0, 1]: what these networks were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ALEXNET_FILE: Final = "alexnet_features_torchvision.safetensors"  # in the folder that metrics.weights names
HEADS_FILE: Final = "lpips_lin_heads_v0.1.safetensors"
CHANNELS: Final = (64, 192, 384, 256, 256)  # of AlexNet's five layers


class Filters(NamedTuple):
    """A network and where its weights come from."""

    net: nn.Sequential
    origin: str


def imagenet_units(x: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to zero mean and unit variance over ImageNet, in full precision."""
    mean = torch.tensor(IMAGENET_MEAN, device=x.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=x.device).view(3, 1, 1)
    return ((x.float() + 1) / 2 - mean) / std


@functools.cache
@torch.inference_mode(False)
def vgg16(weights: str) -> Filters:
    """VGG-16 `features[:16]`, up to relu3_3, on the CPU; one copy per process.

    Args:
        weights: `imagenet`: torchvision's, from its cache or by download. `auto`: the same, or else `random`.
            `random`: seeded random filters. Anything else: a .safetensors or .pth file with torchvision's names.

    Raises:
        ArtError: if the weights asked for cannot be had.
    """
    if weights == "random":
        return Filters(_frozen(_random_filters()), "random filters (seed 0)")
    key = f"loss.perceptual.weights={weights}"
    if weights not in ("auto", "imagenet"):
        path = Path(weights).expanduser()
        return Filters(_frozen(_filled(_empty_vgg16(), load_weights(path), key, "VGG-16")), path.name)
    try:
        state = _torchvisions(VGG16_Weights.IMAGENET1K_V1)
    except Exception as error:  # noqa: BLE001 - no connection, or a damaged file, of which torch raises nearly anything
        return _without_imagenet(weights, error)
    return Filters(_frozen(_filled(_empty_vgg16(), state, key, "VGG-16")), "torchvision VGG16 IMAGENET1K_V1")


@functools.cache
@torch.inference_mode(False)  # tensors made in it could take part in no gradient
def vgg16_on(weights: str, device: torch.device) -> nn.Sequential:
    """The same filters on a device; one copy per process and device."""
    net = vgg16(weights).net
    return net if device.type == "cpu" else copy.deepcopy(net).to(device)


@functools.cache
@torch.inference_mode(False)
def alexnet_on(weights: str, device: torch.device) -> Filters:
    """AlexNet `features[:12]`, up to relu5, on a device; one copy per process and device.

    Args:
        weights: `auto`: torchvision's, from its cache or by download; else a folder that holds ALEXNET_FILE.

    Raises:
        ArtError: if the weights cannot be had.
    """
    key = f"metrics.weights={weights}"
    state: Mapping[str, Tensor]
    if weights != "auto":
        state, origin = load_weights(_inside(weights, ALEXNET_FILE)), ALEXNET_FILE
    else:
        try:
            state, origin = _torchvisions(AlexNet_Weights.IMAGENET1K_V1), "torchvision AlexNet IMAGENET1K_V1"
        except Exception as error:  # noqa: BLE001 - as above
            raise ArtError(
                f"{key}: no ImageNet weights of AlexNet here and none to download ({error}); "
                f"{_put(AlexNet_Weights.IMAGENET1K_V1.url)}, or name a folder that holds {ALEXNET_FILE}: "
                "metrics.weights=DIR, or leave out what needs them: metrics.weights=null"
            ) from None
    with torch.random.fork_rng(devices=[]):
        net = alexnet().features[:12]
    return Filters(_frozen(_filled(net, state, key, "AlexNet")).to(device), origin)


def alexnet_for(setting: str, weights: str, without: str | None = None) -> str:
    """Get AlexNet and the heads of LPIPS before any work, and say in words which they are.

    Args:
        setting: the key that asks for them, which errors name.
        weights: its value, as for `alexnet_on`.
        without: what to set instead to do without; None: null.

    Raises:
        ArtError: if they cannot be had.
    """
    try:
        lpips_heads(weights, torch.device("cpu"))
        return alexnet_on(weights, torch.device("cpu")).origin
    except ArtError as error:
        message = str(error).replace(", auto or null", " or auto, or do without: metrics.weights=null")
        message = message.replace("metrics.weights=null", without or f"{setting}=null")
        raise ArtError(message.replace("metrics.weights", setting)) from None


@functools.cache
@torch.inference_mode(False)
def lpips_heads(weights: str, device: torch.device) -> Sequence[Tensor]:
    """The weights of LPIPS v0.1 for the channels of AlexNet's five layers, each (C, 1, 1), on a device.

    Args:
        weights: `auto`: those that torchmetrics carries; else a folder that holds HEADS_FILE.

    Raises:
        ArtError: if they cannot be had.
    """
    if weights == "auto":
        state = load(Path(torchmetrics.__path__[0], "functional", "image", "lpips_models", "alex.pth"))
        names = [f"lin{i}.model.1.weight" for i in range(len(CHANNELS))]
    else:
        state = load_weights(path := _inside(weights, HEADS_FILE))
        names = [f"alex.lin{i}.weight" for i in range(len(CHANNELS))]
        for name, channels in zip(names, CHANNELS, strict=True):
            if name not in state or state[name].shape != (1, channels, 1, 1):
                raise ArtError(
                    f"metrics.weights={weights}: {path.name}: {name}: not a tensor of shape {(1, channels, 1, 1)}, "
                    "which LPIPS v0.1 has; give its heads, or metrics.weights=null"
                )
    return [state[name][0].to(device) for name in names]


def _inside(folder: str, name: str) -> Path:
    """A file of a folder of weights; ArtError if it is not there."""
    path = Path(folder).expanduser() / name
    if not path.is_file():
        raise ArtError(f"metrics.weights={folder}: has no file {name}; name a folder that holds it, auto or null")
    return path


def _torchvisions(weights: VGG16_Weights | AlexNet_Weights) -> Mapping[str, Tensor]:
    """torchvision's weights, from its cache or by download, checked by their hash."""
    with _connection_timeout(seconds=10):
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)


def _put(url: str) -> str:
    return f"put {url.rpartition('/')[2]} into {Path(torch.hub.get_dir(), 'checkpoints')}"


def _without_imagenet(weights: str, error: Exception) -> Filters:
    """Random filters in place of VGG-16's, said aloud; an error if ImageNet's were asked for by name."""
    remedy = (
        f"{_put(VGG16_Weights.IMAGENET1K_V1.url)}, "
        "or name a file: loss.perceptual.weights=FILE, or leave the term out: loss.weights.perceptual=0"
    )
    if weights == "imagenet":
        raise ArtError(
            f"loss.perceptual.weights=imagenet: no ImageNet weights here and none to download ({error}); {remedy}"
        )
    log.warning(
        "loss.perceptual.weights=auto: no ImageNet weights here and none to download (%s), so the perceptual loss uses "
        "RANDOM filters: it still compares textures, but knows nothing of images. To mend it, %s",
        error,
        remedy,
    )
    return Filters(_frozen(_random_filters()), "random filters (seed 0), because ImageNet's could not be had")


def _empty_vgg16() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):  # the layers draw weights that nobody keeps
        return make_layers([64, 64, "M", 128, 128, "M", 256, 256, 256])


def _random_filters() -> nn.Sequential:
    """He initialisation from a generator of its own: the global random state is left as it was."""
    net, generator = _empty_vgg16(), torch.Generator().manual_seed(0)
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return net


def _filled(net: nn.Sequential, state: Mapping[str, Tensor], key: str, network: str) -> nn.Sequential:
    """A network with the weights of a state dict with torchvision's names (`features.0.weight` ...)."""
    for name, wanted in net.state_dict().items():
        found = state.get(f"features.{name}")
        if found is None or found.shape != wanted.shape:
            what = "no such tensor" if found is None else f"shape {tuple(found.shape)}"
            raise ArtError(
                f"{key}: features.{name}: {what} where {network} has shape "
                f"{tuple(wanted.shape)}; give weights of {network} with torchvision's names"
            )
        wanted.copy_(found)
    return net


def _frozen(net: nn.Sequential) -> nn.Sequential:
    return net.requires_grad_(False).eval().to(memory_format=torch.channels_last)


@contextmanager
def _connection_timeout(seconds: float) -> Iterator[None]:
    """torch.hub's download has no timeout of its own and would wait for minutes behind a silent firewall."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
