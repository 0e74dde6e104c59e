"""Old names and their replacements, for old checkpoints and old command lines."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

CLASSES = {  # of what is built from a checkpoint, by their full name
    "artart.diffusion.draws.LogitNormal": "artart.diffusion.noise_levels.LogitNormal",
    "artart.losses.LPIPS": "artart.objectives.losses.LPIPS",
    "artart.losses.MSE": "artart.objectives.losses.MSE",
    "artart.losses.Perceptual": "artart.objectives.losses.Perceptual",
    "artart.losses.WeightedSum": "artart.objectives.losses.WeightedSum",
    "artart.objectives.Diffusion": "artart.objectives.diffusion.Diffusion",
    "artart.objectives.Reconstruction": "artart.objectives.reconstruction.Reconstruction",
}
KEYS = {  # of all commands; keys below them keep their names
    "score": "monitor",
    "score_mode": "mode",
    "start": "init_from",
    "allow": "trusted_classes",
    "film": "save_trajectory",
    "compare": "side_by_side",
    "guidance.lowest": "guidance.interval",
    "guidance.highest": "guidance.interval",
    "metrics.inception": "metrics.features",
    "data.fit": "data.resize_mode",
    "data.mirror": "data.random_flip",
    "data.balance": "data.class_balanced",
    "data.residence": "data.storage",
    "data.num_demo_pictures": "data.num_demo_images",
    "objective.prediction": "objective.parameterization",
    "objective.noise_level": "objective.noise_levels",
    "objective.perceptual_gate": "objective.perceptual_max_noise",
    "objective.label_dropout": "objective.class_dropout_prob",
    "model.augmented": "model.augment_dim",
    "model.width": "model.model_channels",
    "model.multipliers": "model.channel_mult",
    "model.num_blocks": "model.num_res_blocks",
    "model.attention_size": "model.attn_resolutions",
    "callbacks.guard": "callbacks.terminate_on_nan",
    "callbacks.copies": "callbacks.memorization",
    "callbacks.best.keep": "callbacks.best.save_top_k",
    "callbacks.checkpoints.keep": "callbacks.checkpoints.save_top_k",
    "callbacks.last.every_minutes": "callbacks.last.train_time_interval",
}
KEYS_OF_VIT = {"model.width": "model.hidden_size"}
METRICS = {
    "samples/kd": "samples/kid_alexnet",
    "samples/honest_kd": "samples/kid_no_memorization",
    "copies/rate": "memorization/rate",
    "copies/rate_ratio": "memorization/rate_ratio",
    "copies/rate_third": "memorization/rate_third",
}
VALUES: dict[str, dict[Any, Any]] = {  # by the new key
    "monitor": METRICS,
    "mode": {"vary": "img2img"},
    "data.resize_mode": {"squash": "stretch", "crop": "center_crop"},
    "model.augment_dim": {True: 9, False: 0},
    "metrics.features": {True: "inception", False: "alexnet"},
    "callbacks.best.save_top_k": {"all": -1},
    "callbacks.best.monitor": METRICS,
    "callbacks.checkpoints.save_top_k": {"all": -1},
    "callbacks.checkpoints.monitor": METRICS,
}


def explain(word: str, words: Sequence[str] = ()) -> str | None:
    """The replacement of key=value, which may begin with + or ~, in one line; None if it has no old name.

    `words` are the whole command line, which names the kind of network.
    """
    key, equals, value = word.lstrip("+~").partition("=")
    if any(re.match(rf"\+*{re.escape(key.partition('.')[0])}\._target_=", other) for other in words):
        return None  # a user's own class, which can have any parameter
    keys = KEYS | KEYS_OF_VIT if {"model=vit", "experiment=diffusion_vit"} & {*words} else KEYS
    old = next((one for one in keys if key == one or key.startswith(f"{one}.")), key)
    new = keys.get(old, old) + key[len(old) :]
    new_values = {str(one).lower(): str(other) for one, other in VALUES.get(new, {}).items()}
    values = ",".join(new_values.get(one, one) for one in value.split(","))
    if key == new and value == values:
        return None
    return f"{word}: renamed to {new}" if value == values else f"{word}: now {new}{equals}{values}"


def upgrade_config(config: dict[str, Any]) -> None:
    """Rename keys, values and classes in the configuration of an older checkpoint, in place."""
    _upgrade_classes(config)
    model = config.get("model")
    is_vit = isinstance(model, dict) and str(model.get("_target_")).endswith(".ViT")
    for old, new in (KEYS | KEYS_OF_VIT if is_vit else KEYS).items():
        *place, name = old.split(".")
        if (node := _node(config, place)) is not None and name in node:
            changed = {new.rpartition(".")[2] if key == name else key: value for key, value in node.items()}
            node.clear()
            node.update(changed)  # in the same order
    for key, values in VALUES.items():
        *place, name = key.split(".")
        if (node := _node(config, place)) is not None and isinstance(value := node.get(name), (str, bool)):
            node[name] = values.get(value, value)
    if isinstance(model, dict) and type(size := model.get("attn_resolutions")) is int:
        model["attn_resolutions"] = [side for side in _map_sides(model) if side <= size]


def _node(config: Mapping[str, Any], place: Sequence[str]) -> dict[str, Any] | None:
    """A part of a configuration; None if there is none, or it is of a class that is not artart's."""
    node: Any = config
    for name in place:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or not str(node.get("_target_", "artart.")).startswith("artart."):
        return None
    return node


def _map_sides(model: Mapping[str, Any]) -> list[int]:
    """The sides of a U-Net's maps; none if the settings are not those of a U-Net."""
    try:
        side = model["image_size"] // (model.get("patch_size") or 1)
        return [side >> level for level in range(min(len(model["channel_mult"]), 64)) if side >> level > 0]
    except (KeyError, TypeError, RuntimeError):  # the last of tensors: nothing has been checked yet
        return []


def _upgrade_classes(node: Any) -> None:
    """Rename every `_target_` in nested plain data, in place."""
    if isinstance(node, dict) and isinstance(target := node.get("_target_"), str):
        node["_target_"] = CLASSES.get(target, target)
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _upgrade_classes(value)
