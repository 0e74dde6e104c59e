"""What a checkpoint may hold: whatever a file says, nothing is done with it that artart's own files do not ask for."""

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from torch import Tensor

from artart.checks import LIMITS
from artart.config import found
from artart.data.datamodule import ArtDataModule
from artart.data.labels import num_classes_of
from artart.objectives import Diffusion
from artart.signatures import wrong_arguments

CONTENT = {"config", "labels", "state_dict", "epoch", "global_step"}
GROUPS = ("model", "objective", "loss", "data")
DICTS = ("artart", "data", "metrics", "curves", "points")
LARGEST = 8192  # pixels on a side, that no file makes us reserve more
DEEPEST, MOST = 50, 100_000  # settings within settings, and how many of them
DATA = "artart.data.datamodule.ArtDataModule"  # only artart.evaluate makes it, and nothing else of that module
MODULES = (
    "artart.models.conv_diffusion",
    "artart.models.unet",
    "artart.models.vit",
    "artart.objectives",
    "artart.losses",
    "artart.diffusion.schedule",
    "artart.diffusion.draws",
    "artart.diffusion.augment",
)


def is_whole(content: Mapping[str, Any]) -> bool:
    """Whether settings and weights are what artart writes."""
    config, weights, labels = content["config"], content["state_dict"], content["labels"]
    return (
        _is_plain([content.get(key) for key in (*CONTENT - {"state_dict"}, *DICTS, "images_seen")])
        and all(isinstance(content.get(key, {}), dict) for key in DICTS)
        and isinstance(weights, dict)
        and all(isinstance(name, str) and _is_held(value) for name, value in weights.items())
        and isinstance(labels, dict)
        and len(labels) > 0
        and all(column.isprintable() and _are_names(names) for column, names in labels.items())
        and all(_is_count(content[key]) for key in ("epoch", "global_step"))
        and _is_count(finished_epochs(content))
        and _is_count(content.get("images_seen") or 0)
        and all(_is_inside(name) and _is_count(length) for name, length in content.get("curves", {}).items())
        and all(isinstance(value, (int, float)) for value in content.get("metrics", {}).values())
        and ("images_seen" not in content or "optimizer_states" not in content or _can_go_on(content))
        and isinstance(config, dict)
        and all(isinstance(config.get(group), dict) for group in GROUPS)
        and _is_count(config.get("image_size"))
        and 0 < config["image_size"] <= LARGEST
        and config["model"].get("image_size") == config["image_size"]
        and config["model"].get("num_classes") in (None, 0, num_classes_of(labels))
    )


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _can_go_on(content: Mapping[str, Any]) -> bool:
    """Whether the state of a training is there in its form; what is in it is Lightning's."""
    return (
        all(isinstance(content.get(key), dict) for key in ("loops", "callbacks"))
        and all(isinstance(content.get(key), list) for key in ("optimizer_states", "lr_schedulers"))
        and all(
            isinstance(one, dict) and {"state", "param_groups"} <= one.keys() for one in content["optimizer_states"]
        )
        and isinstance(content.get("current_model_state", {}), dict)
        and all(_is_held(value) for value in content.get("current_model_state", {}).values())
        and _is_progress(content.get("ArtDataModule"), "batches", "pictures", "global_batch_size")
        and _is_progress(found(content, "loops.fit_loop.epoch_progress.current"), "processed", "ready")
        and content.get("data", {}).keys() >= {"sha256", "num_train", "num_val"}
        and all(_is_count(content["data"][key]) for key in ("num_train", "num_val"))
    )


def _is_progress(node: Any, *keys: str) -> bool:
    """Whether it says how far something is, if it is there at all."""
    return node is None or (isinstance(node, dict) and all(_is_count(node.get(key)) for key in keys))


def finished_epochs(content: Mapping[str, Any]) -> int:
    """How many epochs a checkpoint's run had finished; one from within an epoch counts those before it."""
    processed = found(content, "loops.fit_loop.epoch_progress.current.processed")
    return content["epoch"] + 1 if processed is None else processed


def _is_plain(node: Any) -> bool:
    """Whether all is texts and numbers in dicts and lists, so few and flat that no file can keep who reads it busy."""
    level = [node]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict) and all(isinstance(name, str) for name in one):
                below += one.values()
            elif isinstance(one, (list, tuple)):
                below += one
            elif not (one is None or isinstance(one, (str, float)) or (isinstance(one, int) and abs(one) < 2**63)):
                return False
            if len(below) > MOST:
                return False
        if not below:
            return True
        level = below
    return False


def _is_held(value: Any) -> bool:
    """Whether it is a tensor of real numbers, every one of which the file holds."""
    return (
        isinstance(value, Tensor)
        and not value.is_complex()
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_inside(name: str) -> bool:
    """Whether it is a file in a sub-folder, and in no other."""
    return len(parts := name.split("/")) >= 2 and not {"", ".", ".."} & set(parts)


def targets(node: Any) -> Iterator[Any]:
    """Every `_target_` in nested plain data."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from targets(value)


def is_ours(target: Any) -> bool:
    """Whether a name is exactly that of a class defined in one of our modules; attribute paths are not followed."""
    module, _, name = str(target).rpartition(".")
    if module not in MODULES:
        return False
    found = vars(import_module(module)).get(name)
    return inspect.isclass(found) and found.__module__ == module


def is_usable(objective: Any) -> bool:
    """Whether an objective has the parts that its uses take for granted."""
    is_diffusion = isinstance(objective, Diffusion)
    return (
        getattr(objective, "mode", None) in ("reconstruct", "sample")
        and hasattr(objective.loss, "terms")
        and (not is_diffusion or (hasattr(objective.schedule, "times") and callable(objective.noise_level)))
    )


def wrong_model(settings: Mapping[str, Any], num_weights: int) -> Iterator[str]:
    """What no network of ours is: numbers out of range, more blocks or levels than weights to fill them."""
    for name, value in settings.items():
        num = len(value) if isinstance(value, list) else value
        if (limit := LIMITS.get(f"model.{name}")) and not limit.allows(value):
            yield f"model.{name}={value}: must be {limit}"
        elif name in ("depth", "num_blocks", "multipliers") and isinstance(num, int) and num > num_weights:
            yield f"model.{name}={value}: is more than its {num_weights} weights are for"


def wrong_data(settings: Mapping[str, Any]) -> Iterator[str]:
    """What artart.evaluate could not use; keys that it does not know it tells itself."""
    if settings.get("_target_", DATA) == DATA:
        known = inspect.signature(ArtDataModule).parameters.keys() & settings
        for name in sorted(known):
            if "_target_" in str(settings[name]):
                yield f"data.{name}: holds a _target_"
            elif (limit := LIMITS.get(f"data.{name}")) and not limit.allows(settings[name]):
                yield f"data.{name}={settings[name]}: must be {limit}"
        yield from wrong_arguments({"_target_": DATA, **{name: settings[name] for name in known}}, "data")


def printable(text: object) -> str:
    """What a file says, cut to what fits into a line of ours; nothing in it moves the cursor."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(text).split()))[:300]
