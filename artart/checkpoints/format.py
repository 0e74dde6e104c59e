"""The form of what a checkpoint holds: its number, and how files of older forms become those of now."""

from typing import Any

from artart.config.build import found
from artart.diffusion.augment import Augment

FORMAT = 2  # of what a checkpoint holds; another number if an older artart could not use it

RENAMED = {  # classes and functions that older checkpoints name, to their names of now
    "artart.callbacks.checkpoints.Checkpoints": "artart.training.callbacks.checkpoints.Checkpoints",
    "artart.callbacks.copies.Copies": "artart.training.callbacks.memorization.Copies",
    "artart.callbacks.ema.EMA": "artart.training.callbacks.ema.EMA",
    "artart.callbacks.grid.ReconstructionGrid": "artart.training.callbacks.grid.ReconstructionGrid",
    "artart.callbacks.grid.SampleGrid": "artart.training.callbacks.grid.SampleGrid",
    "artart.callbacks.guard.FiniteLoss": "artart.training.callbacks.guard.FiniteLoss",
    "artart.callbacks.last.Last": "artart.training.callbacks.last.Last",
    "artart.callbacks.progress.RunProgress": "artart.training.callbacks.progress.RunProgress",
    "artart.curves.ContinuedCSVLogger": "artart.training.loggers.ContinuedCSVLogger",
    "artart.diffusion.draws.Constant": "artart.diffusion.noise_levels.Constant",
    "artart.diffusion.draws.LogitNormal": "artart.diffusion.noise_levels.LogitNormal",
    "artart.losses.LPIPS": "artart.objectives.losses.LPIPS",
    "artart.losses.MSE": "artart.objectives.losses.MSE",
    "artart.losses.Perceptual": "artart.objectives.losses.Perceptual",
    "artart.losses.WeightedSum": "artart.objectives.losses.WeightedSum",
    "artart.objectives.Diffusion": "artart.objectives.diffusion.Diffusion",
    "artart.objectives.Reconstruction": "artart.objectives.reconstruction.Reconstruction",
    "artart.optim.constant": "artart.training.lr_schedules.constant",
    "artart.optim.cosine": "artart.training.lr_schedules.cosine",
    "artart.optim.step": "artart.training.lr_schedules.step",
}


def upgrade(content: dict[str, Any]) -> None:
    """Make of the plain content of an older checkpoint what is written now, in place; nothing of it is trusted yet."""
    rename_targets(content.get("config"))
    if "class_names" in content:
        _from_format_1(content)


def rename_targets(node: Any) -> None:
    """Give every `_target_` in nested plain data its name of now, in place; no part is visited twice."""
    waiting, met = [node], set()
    while waiting:
        one = waiting.pop()
        if not isinstance(one, (dict, list)) or id(one) in met:
            continue
        met.add(id(one))
        if isinstance(one, dict) and isinstance(target := one.get("_target_"), str):
            one["_target_"] = RENAMED.get(target, target)
        waiting += one.values() if isinstance(one, dict) else one


def _from_format_1(content: dict[str, Any]) -> None:
    """Labels had one column, and no network was told of augmentation."""
    content["labels"] = {"class": content.pop("class_names")}
    nothing = {"_target_": f"{Augment.__module__}.{Augment.__name__}", "probability": 0.0}
    nothing["flips"] = found(content, "config.data.mirror")
    for key, sign, unsaid in (
        ("model", "conditioned", {"augmented": False}),
        ("objective", "schedule", {"augment": nothing}),
    ):
        settings = found(content, f"config.{key}")
        if isinstance(settings, dict) and sign in settings:
            content["config"][key] = {**unsaid, **settings}
