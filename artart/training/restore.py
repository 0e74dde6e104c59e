"""Checks that the training state in a checkpoint can be restored, before the run's folder is changed."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch.loops import _FitLoop
from packaging.version import Version
from torch import Tensor, nn
from torch.optim import Optimizer

from artart import ArtError
from artart.checkpoints.validate import LOADER, is_count, printable
from artart.config.build import build, select_or_none

OLDEST = Version("2")  # Lightning converts older checkpoints, which are not artart's
NUM_STEPS = 10**6  # of a schedule; any number will do


def misfit(content: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Why the training state of a checkpoint cannot be restored with these settings; None if it can.

    Args:
        content: of a file that `checkpoints.load.read` accepts, with a training state; this function may change it.
        config: settings with the same model, optimizer and schedule.
    """
    for look in (_look_at_version, _look_at_loops, _look_at_average, _look_at_callbacks, _look_at_optimizer):
        try:
            look(content, config)
        except ArtError:  # about settings
            raise
        except Exception as error:  # noqa: BLE001 - Lightning and torch raise anything
            return printable(f"{type(error).__name__}: {error}" if type(error) is not ValueError else error)
    return None


def _look_at_version(content: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if Version(content["pytorch-lightning_version"]) < OLDEST:
        raise ValueError("pytorch-lightning_version: is older than artart")


def _look_at_loops(content: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """The progress of loops and loader, whose fields Lightning copies into its counters unchecked."""
    wanted = _FitLoop(None, max_epochs=1).state_dict()  # type: ignore[arg-type]
    loops, state = content["loops"]["fit_loop"], content.get("ArtDataModule")
    for key, like in wanted.items():
        if key in loops and not key.endswith("state_dict"):
            _check_form(loops[key], like, f"loops.fit_loop.{key}")
    if not is_count(loops.get("epoch_loop.state_dict", {}).get("_batches_that_stepped", 0)):
        raise ValueError("loops.fit_loop: _batches_that_stepped is not a number of batches")
    loaders = loops.get("state_dict", {}).get("combined_loader", [])
    if loaders not in ([], [state]):
        raise ValueError("loops.fit_loop: its loader differs from ArtDataModule")
    if state is not None and (wrong := _wrong_loader(state, content["config"], content["data"]["num_train"])):
        raise ValueError(f"ArtDataModule.{wrong}: does not fit its settings")
    if not all(isinstance(name, str) and _is_number(value) for name, value in content.get("points", {}).items()):
        raise ValueError("points: are not numbers by name")


def _wrong_loader(state: Mapping[str, int], config: Mapping[str, Any], num_images: int) -> str | None:
    """The first field of a loader that contradicts the checkpoint's own settings."""
    num_processes = config["trainer"]["devices"] * config["trainer"]["num_nodes"]
    per_process = min(config["data"]["batch_size"], num_images // max(1, num_processes))
    wanted = (config["data"].get("seed", 0), num_images, per_process * num_processes)
    return next((key for key, value in zip(LOADER[2:], wanted, strict=True) if state[key] != value), None)


def _look_at_average(content: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """The weights of training, beside their average in `state_dict`."""
    if "current_model_state" not in content:
        return
    trained, averaged = (content[key] for key in ("current_model_state", "state_dict"))
    if {name: value.shape for name, value in trained.items()} != {name: v.shape for name, v in averaged.items()}:
        raise ValueError("current_model_state: has other weights than state_dict")
    number = select_or_none(content, "averaging_state.n_averaged")
    if len(content["averaging_state"]) != 1 or not isinstance(number, Tensor) or number.shape:
        raise ValueError("averaging_state: is not a number of steps")


def _look_at_callbacks(content: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """The states of artart's callbacks, loaded into new ones."""
    for name, node in config["callbacks"].items():
        if node is not None and str(node["_target_"]).startswith("artart."):
            callback = build(config["callbacks"], name)
            if state := content["callbacks"].get(callback.state_key):
                try:
                    callback.load_state_dict(deepcopy(state))
                except Exception as error:
                    raise ValueError(f"callbacks.{callback.state_key}: {type(error).__name__}: {error}") from error


def _look_at_optimizer(content: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """A step of optimizer and schedule on meta tensors, which take no memory."""
    if not len(content["optimizer_states"]) == len(content["lr_schedulers"]) == 1:
        raise ValueError("optimizer_states, lr_schedulers: are not one each")
    try:
        with torch.device("meta"):
            net: nn.Module = build(config, "model")
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer: Optimizer = build(config, "optimizer")(net.parameters())
        scheduler = build(config, "scheduler")(optimizer, total_steps=NUM_STEPS)["scheduler"]
        optimizer.step()
        scheduler.step()
    except Exception:  # noqa: BLE001 - an optimizer of the user's that cannot step on meta tensors
        return
    like = deepcopy(optimizer.state_dict()["param_groups"])
    optimizer.load_state_dict(content["optimizer_states"][0])
    scheduler.load_state_dict(content["lr_schedulers"][0])
    optimizer.step()
    scheduler.step()
    groups = [{key: group[key] for key in group if key in like[0]} for group in optimizer.state_dict()["param_groups"]]
    _check_form(groups, like, "optimizer_states.param_groups")


def _check_form(value: Any, like: Any, key: str) -> None:
    """Raises ValueError unless `value` has the types of `like`, and no further keys."""
    kinds = (dict, (list, tuple), bool, (int, float), Tensor)
    if like is None or value is None:
        fits = isinstance(value, (bool, type(None))) and isinstance(like, (bool, type(None)))
    else:
        fits = next(isinstance(value, kind) for kind in kinds if isinstance(like, kind))
        fits &= not isinstance(value, bool) or isinstance(like, bool)
        fits &= type(like) is not int or is_count(value)
    if not fits or (isinstance(like, (list, tuple)) and len(value) != len(like)):
        raise ValueError(f"{key}: has another type than in other checkpoints")
    if isinstance(like, dict):
        if missing := [name for name, one in like.items() if isinstance(one, dict) and name not in value]:
            raise ValueError(f"{key}.{missing[0]}: is missing")
        if unknown := value.keys() - like.keys():
            raise ValueError(f"{key}.{min(map(str, unknown))}: is unknown")
        for name in value:
            _check_form(value[name], like[name], f"{key}.{name}")
    elif isinstance(like, (list, tuple)):
        for one, other in zip(value, like, strict=True):
            _check_form(one, other, key)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
