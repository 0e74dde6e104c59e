"""Losses: (x_hat, x), both (B, 3, S, S) in [-1, 1], to one number per picture (B,)."""

import copy
import functools
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import make_layers

from artart import ArtError
from artart.storage import load_weights

log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]

# ImageNet's mean and standard deviation of R, G and B in [0, 1]: what VGG-16 was trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def imagenet_units(x: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to zero mean and unit variance over ImageNet, in full precision."""
    mean = torch.tensor(IMAGENET_MEAN, device=x.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=x.device).view(3, 1, 1)
    return ((x.float() + 1) / 2 - mean) / std


class MSE:
    """Mean squared error of the pixels."""

    def __init__(self, units: Literal["imagenet", "model"] = "imagenet") -> None:
        """`imagenet` counts in standard deviations of ImageNet's channels, as the article does; `model` in [-1, 1]."""
        self.units = units

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        if self.units == "imagenet":
            x_hat, x = imagenet_units(x_hat), imagenet_units(x)
        return (x_hat.float() - x).square().mean(dim=(1, 2, 3))


class Perceptual:
    """Mean squared error of VGG-16's features at relu3_3, `features[:16]` (Johnson et al. 2016, arXiv 1603.08155).

    The filters are frozen and live outside every module tree, so no checkpoint carries them; gradients reach x_hat.
    """

    def __init__(self, weights: str = "auto") -> None:
        """
        Args:
            weights: `imagenet`: torchvision's, from its cache or by download. `auto`: the same, or else `random`.
                `random`: seeded random filters. Anything else: a .safetensors or .pth file with torchvision's names.
        """
        self.weights = weights

    def load(self) -> str:
        """Get the filters now rather than at the first batch, and say in words which ones they are.

        Raises:
            ArtError: if the weights asked for cannot be had.
        """
        return vgg16(self.weights).origin

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        features = vgg16_on(self.weights, x_hat.device)
        with torch.no_grad():
            wanted = features(imagenet_units(x)).float()
        return (features(imagenet_units(x_hat)).float() - wanted).square().mean(dim=(1, 2, 3))


class WeightedSum:
    """A weighted sum of named terms; a weight of zero leaves its term out of the computation."""

    def __init__(self, weights: Mapping[str, float], **terms: Loss) -> None:
        """Raises ValueError if weights and terms do not name the same things, or if there is nothing to sum."""
        if unknown := weights.keys() ^ terms.keys():
            name = sorted(unknown)[0]
            raise ValueError(f"loss.weights.{name}: weights name {sorted(weights)} but the terms are {sorted(terms)}")
        for name, term in terms.items():
            if not callable(term):
                raise ValueError(f"loss.{name}={term}: is no loss; to leave it out, set loss.weights.{name}=0")
        self.weights = weights
        self.terms = {name: term for name, term in terms.items() if weights[name]}
        if min(weights.values(), default=0) < 0:
            raise ValueError(f"loss.weights={dict(weights)}: a negative weight would seek the largest error")
        if not self.terms:
            raise ValueError(f"loss.weights={dict(weights)}: all are zero, which leaves nothing to learn from")

    def load(self) -> dict[str, str]:
        """Load what the terms need; say for each term that needs something what it got."""
        return {name: term.load() for name, term in self.terms.items() if isinstance(term, Perceptual)}

    def __call__(self, x_hat: Tensor, x: Tensor, factors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """`loss` and each term by its name, each (B,); `factors` (B,) scale terms within `loss`, picture by picture."""
        losses = {name: term(x_hat, x) for name, term in self.terms.items()}
        scaled = {name: loss * (factors or {}).get(name, 1.0) for name, loss in losses.items()}
        total = torch.stack([self.weights[name] * loss for name, loss in scaled.items()]).sum(dim=0)
        return {"loss": total, **losses}


class Filters(NamedTuple):
    """VGG-16 `features[:16]` and where its weights come from."""

    net: nn.Sequential
    origin: str


@functools.cache
@torch.inference_mode(False)
def vgg16(weights: str) -> Filters:
    """Frozen VGG-16 features up to relu3_3 on the CPU; one copy per process."""
    if weights == "random":
        return Filters(_frozen(_random_filters()), "random filters (seed 0)")
    if weights not in ("auto", "imagenet"):
        path = Path(weights).expanduser()
        return Filters(_frozen(_filters_from(load_weights(path), path)), path.name)
    try:
        with _connection_timeout(seconds=10):
            state = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # noqa: BLE001 - no connection, or a damaged file, of which torch raises nearly anything
        return _without_imagenet(weights, error)
    return Filters(_frozen(_filters_from(state, Path("IMAGENET1K_V1"))), "torchvision VGG16 IMAGENET1K_V1")


@functools.cache
@torch.inference_mode(False)  # tensors made in it could take part in no gradient
def vgg16_on(weights: str, device: torch.device) -> nn.Sequential:
    """The same filters on a device; one copy per process and device."""
    net = vgg16(weights).net
    return net if device.type == "cpu" else copy.deepcopy(net).to(device)


def _without_imagenet(weights: str, error: Exception) -> Filters:
    """Random filters in place of ImageNet's, said aloud; an error if they were asked for by name."""
    file = VGG16_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    remedy = (
        f"put {file} into {Path(torch.hub.get_dir(), 'checkpoints')}, "
        "or name a file: loss.perceptual.weights=FILE, or leave the term out: loss.weights.perceptual=0"
    )
    if weights == "imagenet":
        raise ArtError(
            f"loss.perceptual.weights=imagenet: no ImageNet weights here and none to download ({error}); {remedy}"
        )
    log.warning(
        "loss.perceptual.weights=auto: no ImageNet weights here and none to download (%s), so the perceptual loss uses "
        "RANDOM filters: it still compares textures, but knows nothing of pictures. To mend it, %s",
        error,
        remedy,
    )
    return Filters(_frozen(_random_filters()), "random filters (seed 0), because ImageNet's could not be had")


def _empty_filters() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):  # the layers draw weights that nobody keeps
        return make_layers([64, 64, "M", 128, 128, "M", 256, 256, 256])


def _random_filters() -> nn.Sequential:
    """He initialisation from a generator of its own: the global random state is left as it was."""
    net, generator = _empty_filters(), torch.Generator().manual_seed(0)
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return net


def _filters_from(state: Mapping[str, Tensor], path: Path) -> nn.Sequential:
    """Filters with the weights of a VGG-16 state dict with torchvision's names (`features.0.weight` ...)."""
    net = _empty_filters()
    for name, wanted in net.state_dict().items():
        found = state.get(f"features.{name}")
        if found is None or found.shape != wanted.shape:
            what = "no such tensor" if found is None else f"shape {tuple(found.shape)}"
            raise ArtError(
                f"loss.perceptual.weights={path}: features.{name}: {what} where VGG-16 has shape "
                f"{tuple(wanted.shape)}; give a VGG-16 with torchvision's names, at least up to relu3_3"
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
