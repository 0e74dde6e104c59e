"""The format of checkpoints: its number, and the upgrade of older files."""

from contextlib import suppress
from typing import Any

import torch

from artart.config.build import select_or_none
from artart.config.renames import METRICS, upgrade_config

FIRST_STAGE = "first_stage."  # of its weights among those in a .safetensors file
FORMAT = 3  # raise it when an older artart could not use the files of this one


def is_older(content: dict[str, Any]) -> bool:
    """Whether the content, which may be anything, is of an older format."""
    number = select_or_none(content, "artart.format")
    return not isinstance(number, int) or number < FORMAT


def upgrade(content: dict[str, Any]) -> None:
    """Convert the content of an older checkpoint to the current format, in place; none of it is trusted yet.

    Format 2, of artart 0.1.0, had other names (`config.renames`).
    """
    if not is_older(content):
        return
    if isinstance(config := content.get("config"), dict):
        upgrade_config(config)
    if isinstance(metrics := content.get("metrics"), dict):
        content["metrics"] = {METRICS.get(name, name): value for name, value in metrics.items()}
    if isinstance(progress := content.get("ArtDataModule"), dict) and "pictures" in progress:
        progress["images"] = progress.pop("pictures")


def join_first_stage(content: dict[str, Any]) -> None:
    """Move weights and moments of the first stage from where a .safetensors file has them to where checkpoints do."""
    held, state = content.get("first_stage"), content["state_dict"]
    if isinstance(held, dict):
        names = [name for name in state if name.startswith(FIRST_STAGE)]
        held["state_dict"] = {name.removeprefix(FIRST_STAGE): state.pop(name) for name in names}
        with suppress(TypeError, ValueError, RuntimeError):  # `validate.is_whole` refuses anything but a tensor
            held["moments"] = torch.tensor(held.get("moments"))
