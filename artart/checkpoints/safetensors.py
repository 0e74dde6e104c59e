"""A checkpoint as one file to share: weights and facts, without paths."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from artart.checkpoints.format import FIRST_STAGE
from artart.checkpoints.load import Loaded
from artart.config.build import select_or_none
from artart.config.commands import PATHS, literals

OF_CONFIG = ("image_size", "model", "objective", "loss")  # what the network is rebuilt from
OF_DATA = (  # what decides pixels, labels and split
    *("resize_mode", "background", "random_flip", "val_fraction", "labels", "class_level", "min_per_label"),
    *("min_size", "exclude"),
)
OF_TEXT = ("captions", "max_tokens")
FILTERS = "loss.perceptual.weights"


def file_name(checkpoint: Path, suffix: str) -> str:
    """A name after a checkpoint and its run."""
    run = f"{checkpoint.parent.parent.name}_" if checkpoint.parent.name == "checkpoints" else ""
    return f"{run}{checkpoint.stem}.{suffix}"


def to_share(loaded: Loaded) -> dict[str, Any]:
    """Facts and settings of a checkpoint as plain data for JSON, without paths or anything else of this machine."""
    config = loaded.config
    shared = {key: config[key] for key in OF_CONFIG}
    shared["data"] = {key: config["data"][key] for key in OF_DATA if key in config["data"]}
    shared["trainer"] = {"precision": select_or_none(config, "trainer.precision")}
    if select_or_none(shared, FILTERS) not in (None, *literals(PATHS[FILTERS])):
        perceptual = {**shared["loss"]["perceptual"], "weights": "auto"}
        shared["loss"] = {**shared["loss"], "perceptual": perceptual}
    metrics = {name: value for name, value in loaded.facts["metrics"].items() if math.isfinite(value)}
    facts = _without_paths(loaded.facts)
    if (first_stage := loaded.objective.first_stage.content) is not None:
        facts["first_stage"] = {"model": first_stage["model"], "moments": first_stage["moments"].tolist()}
    text = {} if loaded.text is None else {"text": loaded.text.content}
    if text and Path(encoder := text["text"].get("encoder", "")).is_absolute():
        text["text"]["encoder"] = Path(encoder).name
    shared["data"] |= {key: config["data"][key] for key in OF_TEXT if text and key in config["data"]}
    return {**facts, **text, "metrics": metrics, "config": _without_paths(shared), "labels": loaded.label_names}


def weights_of(loaded: Loaded) -> dict[str, Tensor]:
    """The weights of the network and of its first stage, by name."""
    held = loaded.objective.first_stage.content or {"state_dict": {}}
    return loaded.net.state_dict() | {f"{FIRST_STAGE}{name}": one for name, one in held["state_dict"].items()}


def _without_paths(node: Any) -> Any:
    """Nested plain data without the items whose key or value holds a path separator."""
    if isinstance(node, Mapping):
        return {key: _without_paths(value) for key, value in node.items() if not (_is_path(key) or _is_path(value))}
    if isinstance(node, (list, tuple)):
        return [_without_paths(value) for value in node if not _is_path(value)]
    return node


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)
