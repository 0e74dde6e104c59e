"""Initialize a run with the weights of a checkpoint of another run, perhaps of other images and labels."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from artart import ArtError
from artart.checkpoints.load import read, weights_in
from artart.checkpoints.rebuild import prompts_of
from artart.checkpoints.validate import NETWORKS, PARTS, builder
from artart.config.build import Config, as_dict, format_value, options, select_or_none
from artart.config.cli import compose_config
from artart.config.compatibility import AUGMENTATION
from artart.config.schema import check
from artart.data.labels import LabelNames
from artart.io.terminal import printable

log = logging.getLogger(__name__)

MUST_MATCH = ("image_size", "model", "objective.parameterization", "schedule")  # the weights depend on these
FILLED_IN = ("num_classes", "conditioned", "augment_dim", "text")  # of the model: decided by the new run
MAY_DIFFER = (*FILLED_IN, "dropout")  # no weight depends on them
PARTS_OF_OBJECTIVE = ("objective", "loss")
FINETUNE = "experiment=finetune"  # which takes the objective of the checkpoint
DISTILLATION = ("diffusion", "distillation")  # objectives of init_from and of the run
TABLES = ("condition.label.weight", "label.weight")  # of denoisers and of generators: a row for each label


def with_objective_of(cfg: DictConfig, words: Sequence[str]) -> DictConfig:
    """The settings, composed anew for the objective of the checkpoint `cfg.init_from` if that is another.

    Loss and objective are then the checkpoint's. An objective among the `words` of the command line, key=value, counts.

    Raises ArtError if the file cannot be used.
    """
    if cfg.init_from is None or any(re.match(r"\+*objective=", word) for word in words):
        return cfg
    theirs = read(path := Path(cfg.init_from))["config"]
    its, ours = _kind(theirs), _kind(as_dict(cfg))
    if its == ours or (its, ours) == DISTILLATION or its not in options("objective"):
        return cfg
    _check_origin(path, theirs, PARTS_OF_OBJECTIVE)
    experiment = next((word.lstrip("+") for word in reversed(words) if re.match(r"\+*experiment=", word)), None)
    if its == "gan" and experiment:
        raise ArtError(f"init_from={path}: is a GAN, whose training goes on by experiment=gan alone; use that")
    if its != "distillation" and experiment not in (None, FINETUNE) and ours != "reconstruction":
        raise ArtError(
            f"init_from={path}: was trained by {its}, and {experiment} trains by {ours}; name another checkpoint, or "
            f"{FINETUNE}"
        )
    anew = compose_config("train", [f"objective={its}", *words])
    for key in PARTS_OF_OBJECTIVE if its == "reconstruction" else ():
        if not any(re.match(rf"\+*{key}\b", word) for word in words):
            OmegaConf.update(anew, key, theirs[key], merge=False)
    check(anew)
    return anew


def _kind(config: Config) -> str:
    """The name of the objective's class, which is that of its option in conf/."""
    return str(select_or_none(config, "objective._target_")).rpartition(".")[2].lower()


def adopt_config(cfg: DictConfig, words: Sequence[str]) -> dict[str, Any] | None:
    """Set in cfg the settings that the weights of the checkpoint `cfg.init_from` need; None if that is null.

    Returns `state_dict`, `labels` and `text`, its vocabulary or None, of the file. `words` were set on the command
    line, key=value.

    Raises ArtError if the file cannot be used, or the command line contradicts it.
    """
    if cfg.init_from is None:
        return None
    content = read(path := Path(cfg.init_from))
    theirs = content["config"] | {"schedule": select_or_none(content["config"], "objective.schedule")}
    own, given = as_dict(cfg), {word.lstrip("+").partition("=")[0]: word for word in words}  # the last counts
    _check_origin(path, theirs, MUST_MATCH)
    if "first_stage" in content:
        if own["first_stage"] not in (None, cfg.init_from):
            raise ArtError(f"first_stage={cfg.first_stage}: init_from={path} brings its own; set first_stage=null")
        cfg.first_stage = cfg.init_from
        if select_or_none(own, AUGMENTATION) and not any(f"{AUGMENTATION}.".startswith(f"{key}.") for key in given):
            OmegaConf.update(cfg, AUGMENTATION, 0)  # it is for images
    _check_agreement(path, theirs, own, given)
    for key in MUST_MATCH:
        if select_or_none(theirs, key) is not None and select_or_none(own, key) is not None:
            OmegaConf.update(cfg, key, select_or_none(theirs, key), merge=False)
    for key in FILLED_IN:
        if own["model"]["_target_"] == theirs["model"]["_target_"] and key in own["model"]:
            OmegaConf.update(cfg, f"model.{key}", own["model"][key], force_add=True)
        elif key in cfg.model:
            cfg.model[key] = None
    if "dropout" in cfg.model and _kind(own) == DISTILLATION[1]:
        cfg.model.dropout = 0.0  # samples are drawn without it
    if "model.dropout" in given and "dropout" in own["model"]:
        cfg.model.dropout = own["model"]["dropout"]
    return {**{key: content[key] for key in ("state_dict", "labels")}, "text": prompts_of(content, path)}


def _check_origin(path: Path, theirs: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Raises ArtError if settings of the checkpoint name classes that are not artart's, or hold words of Hydra."""
    try:
        for key in keys:
            builder(its := select_or_none(theirs, key), modules=NETWORKS if key == "model" else PARTS)
            if word := next(_hydra_words(its), None):
                raise ArtError(f"its {key} holds {printable(word)}, which no checkpoint of artart does")
    except ArtError as error:
        raise ArtError(f"init_from={path}: {str(error).partition(';')[0]}") from None


def _hydra_words(node: Any) -> Iterator[str]:
    """Words with a meaning for Hydra: interpolations, and its own keys except `_target_`."""
    if isinstance(node, dict):
        for name, value in node.items():
            if "${" in str(name) or (str(name)[:1] == str(name)[-1:] == "_" and name != "_target_"):
                yield str(name)
            yield from _hydra_words(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _hydra_words(value)
    elif isinstance(node, str) and ("${" in node or node == "???"):
        yield node


def _check_agreement(path: Path, theirs: Mapping[str, Any], own: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Raises ArtError if a word of the command line, by key in `given`, contradicts the checkpoint."""
    its, ours = map(_kind, (theirs, own))
    if its == "distillation":
        raise ArtError(f"init_from={path}: is distilled; name the network that it was distilled from")
    if its != ours and (its, ours) != DISTILLATION:
        raise ArtError(
            f"objective={ours}: init_from={path} was trained by {printable(its)}; add objective={printable(its)}"
        )
    for name, word in given.items():
        is_adopted = any(f"{name}.".startswith(f"{key}.") for key in MUST_MATCH)
        if is_adopted and name.rpartition(".")[2] not in MAY_DIFFER:
            both = [select_or_none(config, name) for config in (theirs, own)]
            if all(isinstance(one, Mapping) for one in both):
                both = [{key: value for key, value in one.items() if key not in MAY_DIFFER} for one in both]
            if both[0] not in (None, both[1]):
                raise ArtError(f"{word}: init_from={path} has {name}={printable(format_value(both[0]))}; leave it out")


def init_weights(net: nn.Module, content: Mapping[str, Any], label_names: LabelNames) -> None:
    """Fill a network with a checkpoint's weights.

    Labels are matched by column and name. New labels are initialized from "none" of their column, those of new columns
    at random. Only weights of the augmentation embedding may be missing.

    Raises ArtError if the shapes of weights differ.
    """
    weights = weights_in(content)
    own = net.state_dict()
    for name in own.keys() & {*TABLES}:
        weights[name] = table(own[name], weights.get(name), label_names, content["labels"])
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    if lost := [name for name in own if name not in fitting and "augmentation" not in name]:
        raise ArtError(f"init_from: the checkpoint has no weight {printable(lost[0])} of this shape; name another")
    net.load_state_dict(fitting, strict=False)
    if any(name in own and f"net.{name}" in content["state_dict"] for name in TABLES):
        known = [name in content["labels"].get(column, []) for column, names in label_names.items() for name in names]
        log.info("init_from: %d of %d labels are in the checkpoint", sum(known), len(known))


def table(fresh: Tensor, theirs: Tensor | None, names: LabelNames, known: LabelNames) -> Tensor:
    """Rows of `fresh` (R, W) for labels by column, from a checkpoint's table for those that it knows."""
    if theirs is None:
        return fresh
    rows, first = dict[tuple[str, str | None], int](), 0
    for column, own in known.items():
        rows |= {(column, name): first + k for k, name in enumerate((*own, None))}
        first += len(own) + 1
    wanted = [(column, name) for column, own in names.items() for name in (*own, None)]
    places = [rows.get(label, rows.get((label[0], None))) for label in wanted]
    return torch.stack([one if place is None else theirs[place] for one, place in zip(fresh, places, strict=True)])
