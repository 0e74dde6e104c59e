"""Types and ranges of the commands' settings that are no parameters of artart's classes.

They are checked before anything slow is imported, so this module imports little.
"""

import os
import types
import typing
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from annotated_types import Len
from pydantic import Field

from artart import ArtError
from artart.config.build import Config, format_value, join_words, overrides
from artart.io.ranges import Count, Fraction, ImageSize, NonNegative, Positive, Rule, Seed

AnyPath = Annotated[str, Rule(lambda _: True, "a path")]
File = Annotated[str, Rule(os.path.isfile, "a file that exists")]  # Path.is_file raises for a long name
Folder = Annotated[str, Rule(os.path.isdir, "a folder that exists")]

PATHS: dict[str, Any] = {  # words.py quotes them, paths.py makes them absolute, except literals
    "data.root": Folder | None,
    "data.metadata": File | None,
    "data.opt_out": File | None,
    "data.cache_dir": AnyPath | None,
    "loss.perceptual.weights": Literal["auto", "imagenet", "random"] | File | Folder,
    "resume": Literal["auto"] | File | None,
    "init_from": File | None,
    "first_stage": Literal["auto"] | File | None,
    "run_dir": AnyPath | None,
    "sweep.dir": AnyPath | None,
    "checkpoint": File,
    "metrics.weights": Literal["auto"] | File | Folder | None,
    "callbacks.memorization.weights": Literal["auto"] | File | Folder | None,
    "guidance.network": File | None,
    "input": File | Folder | None,
    "mask": File | None,
    "prompts": File | None,
    "evaluation": Folder | None,
    "filter.root": Folder,
    "filter.weights": Literal["auto"] | File | Folder,
    "registry": AnyPath | None,
    "provenance.certificate": File | None,
    "provenance.key": File | None,
    "out": AnyPath | None,
}
SEEDS = Rule(
    lambda seeds: all(one != other for one, other in pairwise(seeds)),
    "two or more, each a whole number, at least 0 and at most 4294967295, no neighbours equal: [1,2]",
)
INTERVAL = Rule(lambda ends: ends[0] < ends[1], "two noise levels from 0 to 1 that rise: [low,high]")
TRAINING: dict[str, Any] = {"monitor": str, "mode": Literal["min", "max"]}  # of artart.train
SETTINGS: dict[str, Any] = PATHS | {
    "image_size": ImageSize,
    "seed": Seed,
    "compile": Literal["default", "reduce-overhead", "max-autotune"] | None,
    "first_stage_settings": dict[str, Any],
    "data.num_workers": Count | None,  # artart.evaluate has keys of data without a class
    "trainer.max_epochs": Count,  # Lightning and torch give no ranges
    "trainer.devices": Count | Literal["auto"],
    "trainer.num_nodes": Count,
    "trainer.log_every_n_steps": Count,
    "trainer.check_val_every_n_epoch": Count,
    "optimizer.lr": Positive,
    "mode": Literal["reconstruct", "sample", "img2img", "inpaint", "interpolate"] | None,
    "show": bool,
    "scale": Annotated[int, Field(ge=1, le=16)],
    "resample": Literal["lanczos", "nearest"],
    "batch_size": Count,
    "device": Literal["auto", "cpu", "cuda", "mps"],
    "precision": Literal["32-true", "bf16-mixed"] | None,
    "trusted_classes": Annotated[
        list[str] | str, Rule(lambda _: True, "a list of full names of classes, such as [mypkg.Net]")
    ],
    "num_images": Count,
    "label": Any,
    "prompt": str | list[str] | None,
    "negative_prompt": str | None,
    "guidance.weight": NonNegative,
    "guidance.interval": Annotated[list[Fraction], Len(2, 2), INTERVAL],
    "save_trajectory": bool,
    "strength": Annotated[float, Field(ge=0.01, le=1)] | None,
    "seeds": Annotated[list[Seed], Len(2), SEEDS] | None,
    "side_by_side": bool,
    "attribute": Annotated[int, Field(ge=0, le=16)],
    "metrics.features": Literal["alexnet", "inception", "dinov2"],
    "format": Literal["safetensors", "onnx", "hub"],
    "licence": str | None,
    "nearest": bool,
    "files": Annotated[list[str], Len(1)],
    "runs": Annotated[list[str], Len(1)],
    "json": bool,
    "action": Literal["new-certificate"],
    "name": Annotated[str, Rule(lambda name: 0 < len(name.encode()) <= 64, "a name of 1 to 64 bytes in UTF-8")],
    "days": Annotated[int, Field(ge=1, le=3650)],
    "refuse_memorized": bool,
    "allowed_labels": Annotated[list[str | int | float | bool], Len(1)] | None,
}


def settings_of(config: Config) -> dict[str, Any]:
    """The settings of the command that has this configuration; for artart.train `mode` is Lightning's."""
    return SETTINGS | TRAINING if "monitor" in config else SETTINGS


MODE_KEYS = {  # of artart.generate: the modes that take a key
    "input": ("reconstruct", "img2img", "inpaint"),
    "side_by_side": ("reconstruct",),
    "save_trajectory": ("sample",),
    "strength": ("img2img",),
    "mask": ("inpaint",),
    "seeds": ("interpolate",),
    "attribute": ("sample", "img2img", "inpaint", "interpolate"),
    "allowed_labels": ("sample", "img2img", "inpaint", "interpolate"),
    "refuse_memorized": ("sample",),
    "filter": ("sample",),
}
OF_SAMPLES = ("num_images", "seed", "label", "prompt", "prompts", "negative_prompt", "sampler", "guidance")
TRY = {"reconstruct": "input=FILE_OR_FOLDER side_by_side=true", "sample": "num_images=16"}  # by mode
OF_STEPS = ("sampler", "guidance", "save_trajectory")  # what diffusion takes and a GAN does not
NEEDED = {"input": "FILE_OR_FOLDER", "mask": "FILE", "seeds": "[1,2]"}  # prompts can take the place of seeds


def arguments_of(mode: str, one_step: bool) -> str:
    """Arguments of artart.generate that show what a network can do, which samples in one step or in several."""
    return TRY[mode] + " save_trajectory=true" * (mode == "sample" and not one_step)


def check_mode(config: Config, mode: str, able: Sequence[str]) -> None:
    """Hold the keys of artart.generate against a mode, one of those that the network is `able` to do.

    Raises ArtError if a key is missing that the mode needs, or one is given that it does not take.
    """
    if mode == "reconstruct" and (words := _given(OF_SAMPLES)):
        raise ArtError(f"{words[0]}: {config['checkpoint']} reproduces images and makes no new ones; leave it out")
    for key, modes in MODE_KEYS.items():
        value = config.get(key)
        if mode in modes and key in NEEDED and value is None and not (key == "seeds" and config["prompts"]):
            why = f"; {config['checkpoint']} reproduces images and makes no new ones" if mode == "reconstruct" else ""
            raise ArtError(f"{key}: needs a value: {key}={NEEDED[key]}{why}")
        if mode not in modes and value not in (None, False):
            fit = [one for one in modes if one in able]
            others = f", or mode={join_words(fit)}" if fit else ""
            raise ArtError(f"{key}={format_value(value)}: mode={mode} does not take it; leave it out{others}")
    given = [f"data.{key}={format_value(value)}" for key, value in config["data"].items() if value is not None]
    if given and not config["attribute"] and not config["refuse_memorized"]:
        raise ArtError(f"{given[0]}: needs attribute=NUMBER or refuse_memorized=true; set one, or leave it out")
    if config["save_trajectory"] and (config["refuse_memorized"] or config.get("filter")):
        raise ArtError("save_trajectory=true: would show images that are refused; leave it out")
    certificate, key = (config["provenance"][name] for name in ("certificate", "key"))
    if (certificate is None) != (key is None):
        missing = "certificate" if certificate is None else "key"
        raise ArtError(f"provenance.{missing}: needs a value: provenance.{missing}=FILE; a signature takes both")
    if mode == "inpaint" and Path(config["input"]).is_dir():
        raise ArtError(f"input={config['input']}: mode=inpaint takes one image, not a folder")


def check_sampling(config: Config, one_step: bool, num_steps: int | None) -> None:
    """Raises ArtError if the command line sets what has no effect on a network of such an objective."""
    path = config["checkpoint"]
    if one_step and (words := _given(OF_STEPS)):
        raise ArtError(f"{words[0]}: {path} is of a GAN, which makes an image in one step; leave it out")
    if num_steps is not None and (words := _given(("sampler", "guidance", "negative_prompt"))):
        raise ArtError(f"{words[0]}: {path} is distilled, with the steps and guidance of its training; leave it out")


def _given(keys: Collection[str]) -> list[str]:
    """What the command line sets of these keys, or within them."""
    return [word for word in overrides() if word.lstrip("+").partition("=")[0].partition(".")[0] in keys]


def literals(hint: Any) -> list[Any]:
    """The literal values of an annotation."""
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    return [value for one in typing.get_args(hint) if is_union(hint) for value in literals(one)]


def is_union(hint: Any) -> bool:
    """Whether an annotation has alternatives."""
    return typing.get_origin(hint) in (Union, types.UnionType)
