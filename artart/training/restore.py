"""Checks that the training state in a checkpoint can be restored, before the run's folder is changed."""

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loops import _FitLoop
from torch import Tensor, nn

from artart import ArtError
from artart.checkpoints.load import DISCRIMINATOR
from artart.checkpoints.validate import is_count
from artart.config.build import Config, build, select_or_none
from artart.io.terminal import printable
from artart.objectives.losses import TrainingLoss
from artart.training.module import is_fused, optimizer_for, set_fused

MIN_LIGHTNING = 2  # it converts older checkpoints, which are not artart's
NUM_STEPS = 10**6  # of a schedule; any number will do


def unusable(path: Path, reason: str) -> ArtError:
    """The error for a checkpoint whose training state cannot be restored."""
    return ArtError(
        f"resume={path}: its training state cannot be used ({reason}); take an earlier checkpoint, or begin with its "
        f"weights: init_from={path}"
    )


def check_state(path: Path, content: Mapping[str, Any], config: Config) -> None:
    """Raise ArtError unless the training state of a checkpoint can be restored with these settings.

    `checkpoints.load.read` has accepted the `content`, which this function may change; model, optimizer and schedule
    of the settings are those of the checkpoint.
    """
    try:
        if int(content["pytorch-lightning_version"].partition(".")[0]) < MIN_LIGHTNING:
            raise ValueError("pytorch-lightning_version: is older than artart")
        _check_loops(content)
        _check_average(content)
        with torch.device("meta"):
            loss = build(config, "loss")
            net = None
            with suppress(Exception):  # a network of the user's that cannot be built there
                net = build(config, "model")
        if net is not None:
            loss.begin_with(net)
        _check_discriminator(content, loss.discriminator)
        _check_callbacks(content, config)
        if net is not None:
            _check_optimizer(content, config, net, loss)
    except ArtError:  # about settings
        raise
    except Exception as error:
        reason = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise unusable(path, printable(reason)) from error


def _check_loops(content: Mapping[str, Any]) -> None:
    """The progress of loops and loader, whose fields Lightning copies into its counters unchecked."""
    loops, state = content["loops"]["fit_loop"], content.get("ArtDataModule")
    for key, like in _FitLoop(None, max_epochs=1).state_dict().items():  # type: ignore[arg-type]
        if like and key in loops:
            _check_form(loops[key], like, f"loops.fit_loop.{key}")
    if loops.get("state_dict", {}).get("combined_loader", []) not in ([], [state]):
        raise ValueError("loops.fit_loop: its loader differs from ArtDataModule")
    if state is not None:
        own, num_images = content["config"], content["data"]["num_train"]
        num_processes = own["trainer"]["devices"] * own["trainer"]["num_nodes"]
        batch_size = min(own["data"]["batch_size"], num_images // max(1, num_processes)) * num_processes
        wanted = {"seed": own["data"].get("seed", 0), "images": num_images, "global_batch_size": batch_size}
        if wrong := [key for key, value in wanted.items() if state[key] != value]:
            raise ValueError(f"ArtDataModule.{wrong[0]}: does not fit its settings")


def _check_average(content: Mapping[str, Any]) -> None:
    """The weights of training, beside their average in `state_dict`."""
    if "current_model_state" in content:
        if _shapes(content["current_model_state"]) != _shapes(content["state_dict"]):
            raise ValueError("current_model_state: has other weights than state_dict")
        number = select_or_none(content, "averaging_state.n_averaged")
        if len(content["averaging_state"]) != 1 or not isinstance(number, Tensor) or number.shape:
            raise ValueError("averaging_state: is not a number of steps")


def _check_discriminator(content: Mapping[str, Any], discriminator: nn.Module | None) -> None:
    """The weights of a discriminator, which is no part of the network; the settings of the loss may differ."""
    wanted = {} if discriminator is None else discriminator.state_dict(prefix=DISCRIMINATOR)
    found = {name: value for name, value in content["state_dict"].items() if name.startswith(DISCRIMINATOR)}
    if _shapes(found) != _shapes(wanted):
        raise ValueError("its discriminator is not that of loss")


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _check_callbacks(content: Mapping[str, Any], config: Config) -> None:
    """The states of artart's callbacks, loaded into new ones."""
    for name, node in config["callbacks"].items():
        if node is not None and str(node["_target_"]).startswith("artart."):
            callback = build(config["callbacks"], name)
            if state := content["callbacks"].get(callback.state_key):
                try:
                    callback.load_state_dict(deepcopy(state))
                except Exception as error:
                    raise ValueError(f"callbacks.{callback.state_key}: {type(error).__name__}: {error}") from error


def _check_optimizer(content: Mapping[str, Any], config: Config, net: nn.Module, loss: TrainingLoss) -> None:
    """A step of optimizer and schedule on meta tensors, which take no memory."""
    if not len(content["optimizer_states"]) == len(content["lr_schedulers"]) == 1:
        raise ValueError("optimizer_states, lr_schedulers: are not one each")
    try:
        optimizer = optimizer_for(make := build(config, "optimizer"), net, loss)
        for parameter in (one for group in optimizer.param_groups for one in group["params"]):
            parameter.grad = torch.zeros_like(parameter)
        scheduler = build(config, "scheduler")(optimizer, total_steps=NUM_STEPS)["scheduler"]
        optimizer.step()
        scheduler.step()
    except Exception:  # noqa: BLE001 - an optimizer of the user's that cannot step on meta tensors
        return
    set_fused(content["optimizer_states"], is_fused(make, can_fuse=False))
    like = deepcopy(optimizer.state_dict()["param_groups"])
    optimizer.load_state_dict(content["optimizer_states"][0])
    scheduler.load_state_dict(content["lr_schedulers"][0])
    optimizer.step()
    scheduler.step()
    groups = [{key: group[key] for key in group if key in like[0]} for group in optimizer.state_dict()["param_groups"]]
    _check_form(groups, like, "optimizer_states.param_groups")


def _check_form(value: Any, like: Any, key: str) -> None:
    """Raises ValueError unless `value` has the types of `like`, and no further keys."""
    if like is None or isinstance(like, bool):  # such as torch's foreach, which may be either
        fits = value is None or isinstance(value, bool)
    elif isinstance(like, (list, tuple)):
        fits = isinstance(value, (list, tuple)) and len(value) == len(like)
    elif isinstance(like, int):
        fits = is_count(value)
    elif isinstance(like, float):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        fits = isinstance(value, type(like))
    if not fits:
        raise ValueError(f"{key}: has another type than in other checkpoints")
    if isinstance(like, dict):
        if unknown := value.keys() - like.keys():
            raise ValueError(f"{key}.{min(map(str, unknown))}: is unknown")
        for name, one in like.items():
            if name in value:
                _check_form(value[name], one, f"{key}.{name}")
            elif isinstance(one, dict):
                raise ValueError(f"{key}.{name}: is missing")
    elif isinstance(like, (list, tuple)):
        for one, other in zip(value, like, strict=True):
            _check_form(one, other, key)
