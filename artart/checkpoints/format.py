"""The form of what a checkpoint holds: its number, and how files of older forms become those of now."""

from typing import Any

from artart.config.build import select_or_none
from artart.config.renames import METRICS, upgrade_config
from artart.diffusion.augment import Augment

FORMAT = 3  # of what a checkpoint holds; another number if an older artart could not use it


def is_older(content: dict[str, Any]) -> bool:
    """Whether an artart wrote it that had other names for settings; also of content of which nothing is known yet."""
    number = select_or_none(content, "artart.format")
    return not isinstance(number, int) or number < FORMAT


def upgrade(content: dict[str, Any]) -> None:
    """Make of the plain content of an older checkpoint what is written now, in place; nothing of it is trusted yet.

    Format 1 had one column of labels and no augmentation conditioning; format 2 had other names (`config.renames`).
    """
    if not is_older(content):
        return
    if isinstance(config := content.get("config"), dict):
        upgrade_config(config)
    if isinstance(metrics := content.get("metrics"), dict):
        content["metrics"] = {METRICS.get(name, name): value for name, value in metrics.items()}
    if isinstance(progress := content.get("ArtDataModule"), dict) and "pictures" in progress:
        progress["images"] = progress.pop("pictures")
    if "class_names" in content:
        _upgrade_format_1(content)


def _upgrade_format_1(content: dict[str, Any]) -> None:
    content["labels"] = {"class": content.pop("class_names")}
    nothing = {"_target_": f"{Augment.__module__}.{Augment.__name__}", "probability": 0.0}
    nothing["flips"] = select_or_none(content, "config.data.random_flip")
    for key, sign, unsaid in (
        ("model", "conditioned", {"augment_dim": 0}),
        ("objective", "schedule", {"augment": nothing}),
    ):
        settings = select_or_none(content, f"config.{key}")
        if isinstance(settings, dict) and sign in settings:
            content["config"][key] = {**unsaid, **settings}
