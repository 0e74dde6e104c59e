"""The device of a loaded network, and the precision in which it is evaluated there."""

from typing import Any, Literal

import torch
from torch import nn

from artart import ArtError
from artart.config.build import Config, select_or_none

Precision = Literal["32-true", "bf16-mixed"]


def best_device(name: str) -> torch.device:
    """The device cpu, cuda or mps; for `auto` the fastest available. Raises ArtError if it is not available."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, here in available.items() if here)
    if not available[name]:
        raise ArtError(f"device={name}: not available; device=cpu works everywhere")
    return torch.device(name)


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device is a GPU that has bf16 in hardware."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def precision_for(device: torch.device, config: Config, can_sample: bool, asked: Precision | None) -> Precision:
    """The precision that is asked for; without one that of training, on a GPU that computes in bf16.

    Raises ArtError if bf16 is asked for a network that reconstructs, whose outputs are compared with their inputs.
    """
    if asked == "bf16-mixed" and not can_sample:
        raise ArtError("precision=bf16-mixed: is for networks that sample; leave it out")
    is_full = not can_sample or str(select_or_none(config, "trainer.precision")).startswith("32")
    return asked or ("bf16-mixed" if computes_in_bf16(device) and not is_full else "32-true")


def evaluate_in_bf16(net: nn.Module, device: torch.device) -> None:
    """Evaluate a network in bf16, as training under bf16-mixed does; its outputs are float32."""
    forward = net.forward

    def in_bf16(*args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return forward(*args, **kwargs).float()

    net.forward = in_bf16


def check_numbers(x: torch.Tensor, source: object) -> None:
    """Raise FloatingPointError if the outputs of a network, loaded from `source`, are not finite."""
    if not x.isfinite().all():
        raise FloatingPointError(f"checkpoint={source}: its outputs are not finite; take an earlier checkpoint")
