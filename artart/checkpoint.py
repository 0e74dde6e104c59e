"""From a checkpoint file back to a network; nothing but artart's own classes is ever built from it."""

import inspect
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from artart import ArtError, storage
from artart.config import build
from artart.objectives import Objective

CONTENT = {"config", "class_names", "state_dict", "epoch", "global_step"}
MODULES = (
    "artart.models.conv_diffusion",
    "artart.objectives",
    "artart.losses",
    "artart.diffusion.schedule",
    "artart.diffusion.draws",
)


class Loaded(NamedTuple):
    """What a checkpoint holds, ready for use: in evaluation mode."""

    net: nn.Module
    objective: Objective
    config: dict[str, Any]
    class_names: list[str]


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's plain content.

    Raises:
        ArtError: if the file is missing, damaged or not a checkpoint of artart.
    """
    content = storage.load(path)
    if not isinstance(content, dict) or not content.keys() >= CONTENT or not _is_whole(content):
        raise ArtError(f"{path}: not a checkpoint of artart; name one that artart.train wrote, such as last.ckpt")
    return content


def _is_whole(content: Mapping[str, Any]) -> bool:
    """Whether settings and weights are what artart writes."""
    config, groups = content["config"], ("model", "objective", "loss")
    return (
        isinstance(content["state_dict"], dict)
        and isinstance(config, dict)
        and "image_size" in config
        and all(isinstance(config.get(group), dict) for group in groups)
    )


def load(path: Path, allow: Collection[str] = (), device: str = "cpu") -> Loaded:
    """Rebuild network and objective.

    Args:
        path: a file that artart.train wrote.
        allow: full names of further classes that may be built.
        device: where the network goes, as for `best_device`.

    Raises:
        ArtError: if the file cannot be used or asks for a class that is neither artart's nor allowed.
    """
    place = best_device(device)
    content = read(path)
    config = content["config"]
    for key in ("model", "objective", "loss"):
        if "${" in str(config.get(key)):
            raise ArtError(f"{path}: its {key} holds an interpolation (${{...}}), which no checkpoint of artart does")
        for target in _targets(config.get(key)):
            if target not in allow and not _is_ours(target):
                raise ArtError(
                    f"{path}: wants to build {target}, not a class of artart; if you trust it: allow=[{target}]"
                )
    net = build(config, "model")
    weights = {
        name.removeprefix("net."): value for name, value in content["state_dict"].items() if name.startswith("net.")
    }
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtError(f"{path}: weights and network do not fit ({str(error).splitlines()[1].strip()})") from None
    return Loaded(
        net.eval().to(place), build(config, "objective", loss=build(config, "loss")), config, content["class_names"]
    )


def best_device(name: str) -> torch.device:
    """The device cpu, cuda or mps; for `auto` the fastest here.

    Raises:
        ArtError: if it is not here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, here in available.items() if here)
    if not available[name]:
        raise ArtError(f"device={name}: not here; device=cpu works everywhere")
    return torch.device(name)


def check_numbers(x: torch.Tensor, source: object) -> None:
    """Raises FloatingPointError if a network, loaded from `source`, made something else than numbers."""
    if not x.isfinite().all():
        raise FloatingPointError(f"checkpoint={source}: its network makes no numbers; take an earlier checkpoint")


def _targets(node: Any) -> Iterator[Any]:
    """Every `_target_` in nested plain data."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)


def _is_ours(target: Any) -> bool:
    """Whether a name is exactly that of a class defined in one of our modules; attribute paths are not followed."""
    module, _, name = str(target).rpartition(".")
    if module not in MODULES:
        return False
    found = vars(import_module(module)).get(name)
    return inspect.isclass(found) and found.__module__ == module
