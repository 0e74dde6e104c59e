"""Weights of pretrained networks: from torchvision's cache, of transformers, or from files with the right tensors.

The networks are frozen and live outside every module tree, so no checkpoint contains them; gradients reach the images.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import WeightsEnum

from artart import ArtError
from artart.io.late import constant
from artart.io.terminal import first_line
from artart.io.weights import load_weights, shapes_in

# ImageNet's mean and standard deviation of R, G and B in [0, 1]: what these networks were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INPUT_SIZE: Final = 224  # side in pixels
SUFFIXES: Final = (".safetensors", ".pth", ".pt")  # of weights in a folder
MAX_SHOWN_REASONS: Final = 3
TIMEOUT: Final = 10  # seconds for a connection; torch.hub waits for minutes behind a firewall that drops packets

Shapes = Mapping[str, tuple[int, ...]]  # of tensors, by name


class WeightsNotFoundError(ArtError):
    """No file holds the weights."""


class Filters(NamedTuple):
    """A network and where its weights come from."""

    net: nn.Sequential
    origin: str


def imagenet_units(x: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to zero mean and unit variance over ImageNet, in full precision."""
    mean, std = (constant(values, x.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((x.float() + 1) / 2 - mean) / std


def resized(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to 224 px (bicubic, antialiased), as these networks were trained, in `imagenet_units`."""
    large = F.interpolate(images, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True)
    return imagenet_units(large.clamp(-1, 1))


def frozen(net: nn.Sequential) -> nn.Sequential:
    """The network in evaluation mode, its parameters without gradients."""
    return net.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def filled(net: nn.Sequential, source: str | WeightsEnum, what: str) -> Filters:
    """Fill a network that was built on the meta device, and freeze it.

    Args:
        net: layers that torchvision names `features.0.weight` ...
        source: torchvision's weights, from its cache or by download; or a file or folder, as for `find_weights`.
        what: the name of the network, for errors.

    Raises ArtError if no file fits, or if torchvision's weights are neither here nor can be downloaded.
    """
    shapes = {f"features.{name}": tuple(value.shape) for name, value in net.state_dict().items()}
    state: Mapping[str, Tensor]
    if isinstance(source, str):
        state, origin = find_weights(source, [shapes], f"{what} with torchvision's names")
    else:
        state, origin = _of_torchvision(source), f"torchvision {str(source).replace('_Weights.', ' ')}"
    net.load_state_dict({name.removeprefix("features."): state[name].float() for name in shapes}, assign=True)
    return Filters(frozen(net), origin)


def _of_torchvision(weights: WeightsEnum) -> Mapping[str, Tensor]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # noqa: BLE001 - no connection; or a damaged file, on which torch raises anything
        name, cache = weights.url.rpartition("/")[2], Path(torch.hub.get_dir(), "checkpoints")
        raise ArtError(f"no usable {name} in {cache}, and no download ({first_line(error)})") from None
    finally:
        socket.setdefaulttimeout(before)


def find_weights(source: str, forms: Sequence[Shapes], what: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of the first form that a file holds, in the form's order, and the name of the file.

    Args:
        source: a file of weights (.safetensors, or a state dict of torch.save), or a folder with one file that fits.
        forms: names and shapes of the tensors that are needed; a file may hold others too.
        what: name of the weights, for errors.

    Raises WeightsNotFoundError if no file fits; ArtError if several fit.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    else:
        files = [path]
    fitting, reasons = list[tuple[Path, Shapes]](), list[str]()
    for file in files:
        try:
            found = shapes_in(file)
            reason = _misfit(found, forms[0])
            fitting += [(file, form) for form in forms if _misfit(found, form) is None][:1]
        except ArtError as error:
            reason = str(error).removeprefix(f"{file}: ")
        reasons.append(f"{file.name}: {reason}")
    if not fitting:
        shown = "; ".join(reasons[:MAX_SHOWN_REASONS]) or f"no file that ends in {', '.join(SUFFIXES)}"
        raise WeightsNotFoundError(f"no {what} there ({shown})")
    if len(fitting) > 1:
        raise ArtError(f"{what} is in {' and in '.join(file.name for file, _ in fitting)}")
    ((file, form),) = fitting
    state = load_weights(file)
    return {name: state[name] for name in form}, file.name


def _misfit(found: Shapes, wanted: Shapes) -> str | None:
    """The first tensor that is missing or of another shape; None if all are there."""
    for name, shape in wanted.items():
        if name not in found:
            return f"no tensor {name}"
        if found[name] != shape:
            return f"{name} has shape {found[name]}, not {shape}"
    return None


@contextmanager
def transformers_for(key: str, name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The library transformers, and arguments with which it reads a network from its cache or a folder.

    Raises ArtError, which names the key and the name of the network, if it is missing or cannot read it.
    """
    try:
        import transformers
    except ImportError:
        remedy = "install it: pip install 'artart[text]'"
        raise ArtError(f"{key}={name}: needs the library transformers; {remedy}") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield transformers, {"local_files_only": True, "trust_remote_code": False}
    except ArtError:
        raise
    except (OSError, ValueError) as error:
        where = "" if Path(name).is_dir() else f"; download it: hf download {name}; or name a folder"
        raise ArtError(f"{key}={name}: cannot be read ({first_line(error)}){where}") from None
