"""Settings that an experiment makes for other options of a group than the chosen ones."""

import functools
import inspect
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from artart import ArtError
from artart.config.build import CONF_DIR, as_dict, flat_keys, join_words
from artart.config.targets import target_of

log = logging.getLogger(__name__)


def leave_out_unfit(cfg: DictConfig) -> None:
    """Remove settings that the chosen option of a group does not take but another does, and name them.

    Such as optimizer.betas of experiment=diffusion with optimizer=sgd, or callbacks.grid with callbacks=none.
    """
    left_out = list[str]()
    for group in [str(key) for key in cfg if (CONF_DIR / str(key)).is_dir() and isinstance(cfg[key], DictConfig)]:
        for key in list(_not_taken(as_dict(cfg[group], resolve=False), f"{group}.")):
            if key in _keys_of_options(group):
                place, _, name = key.rpartition(".")
                with open_dict(cfg):
                    del OmegaConf.select(cfg, place)[name]
                left_out.append(key)
    if left_out:
        log.info("%s: left out, since the chosen options have no use for it", join_words(left_out, "and"))


@functools.cache
def _keys_of_options(group: str) -> set[str]:
    """The dotted keys that the options of a group set in it."""
    contents = [as_dict(OmegaConf.load(file), resolve=False) for file in (CONF_DIR / group).glob("*.yaml")]
    return {key for one in contents for key in flat_keys(one.get(group, one), f"{group}.")}  # of the package _global_


def _not_taken(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Dotted keys that the `_target_` above them does not take; groups and extra arguments must have one themselves."""
    known, takes_any = _parameters(node)
    for name, value in node.items():
        is_object = isinstance(value, Mapping) and "_target_" in value
        needs_target = takes_any and isinstance(value, Mapping) and not is_object
        if name not in known and not name.startswith("_") and (not takes_any or needs_target):
            yield f"{prefix}{name}"
        elif is_object:
            yield from _not_taken(value, f"{prefix}{name}.")


def _parameters(node: Mapping[str, Any]) -> tuple[set[str], bool]:
    """The names of parameters of a node's `_target_`, and whether it takes any; without one it takes any."""
    if "_target_" not in node:
        return set(), True
    try:
        parameters = inspect.signature(target_of(str(node["_target_"]))).parameters
    except (ArtError, TypeError, ValueError):  # reported later, or unknown
        return set(node), False
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return set(parameters) or set(node), takes_any
