"""Checks of a checkpoint's content. A file is not trusted: only classes that artart's own files name are built."""

import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from artart import ArtError
from artart.config.build import select_or_none
from artart.config.schema import hints_of, wrong_value
from artart.data.labels import num_classes_of
from artart.data.settings import DataSettings
from artart.io.ranges import MAX_IMAGE_SIZE
from artart.io.terminal import printable
from artart.io.weights import is_state_dict
from artart.objectives.base import Objective

CONTENT = {"config", "labels", "state_dict", "epoch", "global_step"}
GROUPS = ("model", "objective", "loss", "data")
DICTS = ("artart", "data", "metrics", "losses", "curves", "points")
LOADER = ("epoch", "batches", "seed", "images", "global_batch_size")  # the state of a loader
STEP = ("data.batch_size", "trainer.devices", "trainer.num_nodes", "seed")  # of config: what decides a step
OF_PROMPTS = ("num_tokens", "words", "prompts")
DATA = "artart.data.datamodule.ArtDataModule"  # only artart.evaluate builds it
NETWORKS = tuple(f"artart.models.{name}" for name in ("autoencoder", "conv_diffusion", "gan", "unet", "vit"))
OF_OBJECTIVES = ("reconstruction", "diffusion", "distillation", "gan", "losses", "adversarial", "regularizers")
PARTS = (
    *(f"artart.objectives.{name}" for name in OF_OBJECTIVES),
    *(f"artart.diffusion.{name}" for name in ("schedule", "noise_levels", "augment")),
    "artart.models.gan",  # for its discriminator
)


def is_whole(content: Mapping[str, Any]) -> bool:
    """Whether settings and weights have the form that artart writes."""
    config, weights, labels = content["config"], content["state_dict"], content["labels"]
    return (
        not _holds_tensor([content.get(key) for key in (*CONTENT - {"state_dict"}, *DICTS, "images_seen")])
        and all(isinstance(content.get(key, {}), dict) for key in DICTS)
        and is_state_dict(weights)
        and _are_labels(labels)
        and len(labels) > 0
        and all(isinstance(column, str) and column.isprintable() for column in labels)
        and _are_labels(content.get("data", {}).get("untrained_labels", {}))
        and all(is_count(content[key]) for key in ("epoch", "global_step"))
        and is_count(finished_epochs(content))
        and (content.get("images_seen") is None or is_count(content["images_seen"]))
        and is_count(content.get("num_losses", 0))
        and all(_is_inside(name) and is_count(length) for name, length in content.get("curves", {}).items())
        and all(map(_are_numbers, (content.get(key, {}) for key in ("metrics", "losses", "points"))))
        and isinstance(config, dict)
        and all(isinstance(config.get(group), dict) for group in GROUPS)
        and ("images_seen" not in content or "optimizer_states" not in content or _is_resumable(content))
        and is_count(config.get("image_size"))
        and 0 < config["image_size"] <= MAX_IMAGE_SIZE
        and ("first_stage" in content or config["model"].get("image_size") == config["image_size"])
        and ("first_stage" not in content or _is_first_stage(content["first_stage"]))
        and config["model"].get("num_classes") in (None, 0, num_classes_of(labels))
        and ("text" not in content or _is_text(content["text"]))
    )


def _is_first_stage(node: Any) -> bool:
    """Whether it has the form of `FrozenAutoencoder.content`, with its moments."""
    if not isinstance(node, dict) or not isinstance(settings := node.get("model"), dict):
        return False
    moments = node.get("moments")
    return (
        not _holds_tensor(settings)
        and is_state_dict(node.get("state_dict"))
        and isinstance(moments, Tensor)
        and moments.ndim == len(moments) == 2
        and moments.dtype == torch.float32
        and bool(moments.isfinite().all() and (moments[1] > 0).all())
    )


def _is_text(node: Any) -> bool:
    """Whether it has the form of `content` of a Vocabulary, or of Embeddings."""
    return (
        isinstance(node, dict)
        and node.keys() in ({*OF_PROMPTS, "tokenizer"}, {*OF_PROMPTS, "encoder", "sha256", "channels"})
        and all(isinstance(node.get(key, ""), str) for key in ("tokenizer", "encoder", "sha256"))
        and all(is_count(node.get(key, 0)) for key in ("num_tokens", "channels"))
        and isinstance(node["words"], dict)
        and all(isinstance(word, str) and is_count(number) for word, number in node["words"].items())
        and _are_labels({"prompts": node["prompts"]})
    )


def _are_labels(node: Any) -> bool:
    """Whether it holds lists of different names."""
    return isinstance(node, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
        for names in node.values()
    )


def _are_numbers(node: Mapping[Any, Any]) -> bool:
    """Whether it holds numbers by name; TensorBoard could write another type to any folder."""
    return all(isinstance(name, str) and isinstance(value, (int, float)) for name, value in node.items())


def _is_resumable(content: Mapping[str, Any]) -> bool:
    """Whether the state of a training has its form; `training.restore` checks the rest."""
    return (
        all(isinstance(content.get(key), dict) for key in ("loops", "callbacks"))
        and all(isinstance(content.get(key), list) for key in ("optimizer_states", "lr_schedulers"))
        and all(
            isinstance(one, dict) and {"state", "param_groups"} <= one.keys() for one in content["optimizer_states"]
        )
        and is_state_dict(content.get("current_model_state", {}))
        and _is_progress(content.get("ArtDataModule"), *LOADER)
        and _is_progress(select_or_none(content, "loops.fit_loop.epoch_progress.current"), "processed", "ready")
        and content.get("data", {}).keys() >= {"sha256", "num_train", "num_val"}
        and all(is_count(content["data"][key]) for key in ("num_train", "num_val"))
        and all(is_count(select_or_none(content["config"], key)) for key in STEP)
    )


def _is_progress(node: Any, *keys: str) -> bool:
    """Whether it is None or holds these counts."""
    return node is None or (isinstance(node, dict) and all(is_count(node.get(key)) for key in keys))


def finished_epochs(content: Mapping[str, Any]) -> int:
    """How many epochs the run had finished; a checkpoint from within an epoch counts those before it."""
    processed = select_or_none(content, "loops.fit_loop.epoch_progress.current.processed")
    return content["epoch"] + 1 if processed is None else processed


def _holds_tensor(node: Any) -> bool:
    if isinstance(node, (dict, list, tuple)):
        return any(map(_holds_tensor, node.values() if isinstance(node, dict) else node))
    return isinstance(node, Tensor)


def is_count(value: Any) -> bool:
    """Whether it is an int, 0 or more."""
    return type(value) is int and value >= 0


def _is_inside(name: Any) -> bool:
    """Whether it names a file within a folder."""
    return isinstance(name, str) and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def builder(node: Any, allowed: Container[str] = (), modules: Container[str] = PARTS) -> Callable[[], Any]:
    """A function that builds the objects described by plain data: a dict with a `_target_` is a call of that class.

    All classes are looked up here, before any is called.

    Args:
        node: nested plain data (`artart.io.plain`).
        allowed: full names of classes that may be built besides artart's own.
        modules: whose classes the node itself may name; deeper nodes may name those of PARTS. A network in a deeper
            node could have any size, because no weights are compared with it.

    Raises ArtError if a class is neither artart's nor allowed.
    """
    if isinstance(node, dict):
        is_call = "_target_" in node
        parts = {name: builder(value, allowed) for name, value in node.items() if name != "_target_"}
        if not is_call:
            return lambda: {name: part() for name, part in parts.items()}
        make = _class_named(node["_target_"], allowed, modules)
        return lambda: make(**{name: part() for name, part in parts.items()})
    if isinstance(node, (list, tuple)):
        items = [builder(value, allowed) for value in node]
        return lambda: [item() for item in items]
    return lambda: node


def _class_named(target: Any, allowed: Container[str], modules: Container[str]) -> Callable[..., Any]:
    """A class of artart by its exact full name, without following attributes; or one that the user allows."""
    module, _, name = str(target).rpartition(".")
    if module in modules:
        found = vars(import_module(module)).get(name)
        if inspect.isclass(found) and found.__module__ == module:
            return found
    if isinstance(target, str) and target in allowed:
        return getattr(import_module(module), name)
    wanted = printable(target)
    raise ArtError(f"wants to build {wanted}, not a class of artart; if you trust it: trusted_classes=[{wanted}]")


def targets(node: Any) -> Iterator[str]:
    """Every class that nested plain data of our own names."""
    if isinstance(node, dict) and "_target_" in node:
        yield node["_target_"]
    if isinstance(node, (dict, list, tuple)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from targets(value)


def is_usable(objective: Any) -> bool:
    """Whether an objective has the parts that are used."""
    if not isinstance(objective, Objective) or not hasattr(objective.loss, "terms"):
        return False
    schedule, noise_levels = (getattr(objective, name, None) for name in ("schedule", "noise_levels"))
    can_sample = hasattr(schedule, "times") and callable(noise_levels)
    return objective.mode == "reconstruct" or objective.one_step or (objective.mode == "sample" and can_sample)


def wrong_model(settings: Mapping[str, Any], num_weights: int) -> Iterator[str]:
    """Numbers of blocks or levels of a network that exceed the number of weights."""
    for name in ("depth", "num_res_blocks", "channel_mult"):
        num = len(value) if isinstance(value := settings.get(name), list) else value
        if isinstance(num, int) and num > num_weights:
            yield f"model.{name}={value}: is more than the {num_weights} weights of the file can fill"


def wrong_data(settings: Mapping[str, Any], allowed: Container[str] = ()) -> Iterator[str]:
    """Settings of the data that artart.evaluate could not use; it reports unknown keys itself. Nothing is built.

    Raises ArtError if a class is named that is neither artart's nor allowed.
    """
    builder({name: value for name, value in settings.items() if (name, value) != ("_target_", DATA)}, allowed)
    if settings.get("_target_", DATA) == DATA:
        hints = hints_of(DataSettings)
        for name in sorted(inspect.signature(DataSettings).parameters.keys() & settings):
            if "_target_" in str(settings[name]):
                yield f"data.{name}: holds a _target_"
            yield from wrong_value(f"data.{name}", settings[name], hints[name])
