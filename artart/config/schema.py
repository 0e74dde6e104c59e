"""Mistakes in a configuration, found before any work: all at once, each with key, value and remedy."""

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from artart import ArtError
from artart.config.build import CONF_DIR, as_dict, did_you_mean, listed, select, shown


class Limit(NamedTuple):
    """What a number may be."""

    kind: type[int] | type[float]
    lowest: float
    highest: float = float("inf")
    open: bool = False  # whether the limits themselves are left out
    optional: bool = False  # whether null is a value
    word: str = ""  # that may stand in place of a number

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if self.word and value == self.word:
            return True
        if isinstance(value, bool) or not isinstance(value, (int, self.kind)):
            return False
        return self.lowest < value < self.highest if self.open else self.lowest <= value <= self.highest

    def __str__(self) -> str:
        kind = "a whole number" if self.kind is int else "a number"
        lowest = f"above {self.lowest:g}" if self.open else f"at least {self.lowest:g}"
        highest = "" if self.highest == float("inf") else f" and {'below' if self.open else 'at most'} {self.highest}"
        return (
            f"{kind}, {lowest}{highest}{', or null' if self.optional else ''}{f', or {self.word}' if self.word else ''}"
        )


MAX_IMAGE_SIZE = 8192  # so that no checkpoint makes us reserve more
LIMITS = {
    "image_size": Limit(int, 8, MAX_IMAGE_SIZE),
    "seed": Limit(int, 0, 2**32 - 1),
    "batch_size": Limit(int, 1),
    "data.batch_size": Limit(int, 1),
    "data.val_fraction": Limit(float, 0, 0.9),
    "data.max_rejected_fraction": Limit(float, 0, 1),
    "data.max_pixels": Limit(int, 1),
    "data.min_size": Limit(int, 1),
    "data.min_per_label": Limit(int, 1),
    "data.num_workers": Limit(int, 1, optional=True),
    "data.num_demo_pictures": Limit(int, 4),
    "optimizer.lr": Limit(float, 0, open=True),
    "loss.perceptual.crop": Limit(float, 0.1, 1),
    "objective.perceptual_gate": Limit(float, 0, 1),
    "objective.label_dropout": Limit(float, 0, 1),
    "objective.augment.probability": Limit(float, 0, 1),
    "model.width": Limit(int, 8),
    "model.num_blocks": Limit(int, 1),
    "model.attention_size": Limit(int, 0),
    "model.patch_size": Limit(int, 1),
    "model.depth": Limit(int, 1),
    "model.num_heads": Limit(int, 1),
    "model.dropout": Limit(float, 0, 0.9),
    "sampler.num_steps": Limit(int, 1),
    "sampler.eta": Limit(float, 0, 1),
    "num_images": Limit(int, 1),
    "strength": Limit(float, 0.01, 1, optional=True),
    "guidance.weight": Limit(float, 0),
    "guidance.lowest": Limit(float, 0, 1),
    "guidance.highest": Limit(float, 0, 1),
    "trainer.devices": Limit(int, 1, word="auto"),
    "trainer.num_nodes": Limit(int, 1),
    "trainer.max_epochs": Limit(int, 1),
    "trainer.log_every_n_steps": Limit(int, 1),
    "trainer.check_val_every_n_epoch": Limit(int, 1),
    "callbacks.grid.every_n_epochs": Limit(int, 1),
    "callbacks.grid.num_images": Limit(int, 2),
    "callbacks.grid.guidance": Limit(float, 0),
    "callbacks.grid.batch_size": Limit(int, 1),
    "callbacks.ema.half_life_fraction": Limit(float, 0, open=True),
    "callbacks.ema.max_half_life": Limit(int, 1),
    "callbacks.copies.every_n_images": Limit(int, 1),
    "callbacks.copies.guidance": Limit(float, 0),
    "callbacks.copies.batch_size": Limit(int, 1),
    "callbacks.copies.num_images": Limit(int, 20),
    "callbacks.copies.stop_above": Limit(float, 0, 1, optional=True),
    "callbacks.checkpoints.every_n_epochs": Limit(int, 1),
    "callbacks.checkpoints.keep": Limit(int, 1, word="all"),
    "callbacks.last.every_minutes": Limit(float, 0, open=True, optional=True),
}
GROUPS = ("data", "model", "objective", "loss", "optimizer", "scheduler", "trainer", "callbacks", "logger")
CHOICES: dict[str, tuple[object, ...]] = {
    "score_mode": ("min", "max"),
    "compile": (True, False),
    "compare": (True, False),
    "show": (True, False),
    "data.fit": ("squash", "crop", "pad"),
    "data.residence": ("auto", "memory", "device"),
    "data.mirror": (True, False),
    "data.balance": (True, False),
    "data.exclude.duplicate": (True, False),
    "data.exclude.opt_out": (True, False),
    "data.exclude.ai_made": (True, False),
    "loss.perceptual.cache_targets": (True, False),
    "mode": ("reconstruct", "sample", "vary", "inpaint", "interpolate", None),
    "film": (True, False),
    "metrics.inception": (True, False),
    "device": ("auto", "cpu", "cuda", "mps"),
    "format": ("safetensors", "onnx"),
}


class PathKey(NamedTuple):
    """What a path may be."""

    words: tuple[str, ...] = ()  # values that are no paths
    folder: bool = False  # must be a folder that exists
    file: bool = False  # must be a file that exists


PATHS = {
    "data.root": PathKey(folder=True),
    "data.metadata": PathKey(file=True),
    "data.cache_dir": PathKey(),
    "loss.perceptual.weights": PathKey(("auto", "imagenet", "random"), file=True, folder=True),
    "resume": PathKey(("auto",), file=True),
    "start": PathKey(file=True),
    "run_dir": PathKey(),
    "checkpoint": PathKey(file=True),
    "metrics.weights": PathKey(("auto",), folder=True),
    "callbacks.copies.weights": PathKey(("auto",), folder=True),
    "guidance.network": PathKey(file=True),
    "input": PathKey(file=True, folder=True),
    "mask": PathKey(file=True),
    "out": PathKey(),
}
FILLED_IN = {  # null until the data and the objective are known
    "model.num_classes": 0,
    "model.conditioned": True,
    "model.augmented": False,
}
TEXTS = (*PATHS, "label")  # values that may hold anything a file name may


def check(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, paths made absolute (in cfg too), after a look for mistakes: all at once.

    What needs no imports is told first; then keys and values are held against the signature of each `_target_`.

    Raises:
        ArtError: one line per mistake, with key, value and remedy.
    """
    _refuse_empty(cfg)
    _make_paths_absolute(cfg)
    probe = cfg.copy()
    if "run_dir" in probe:
        probe.run_dir = probe.run_dir or "outputs/runs"  # a new folder gets its name later
    for key, stand_in in FILLED_IN.items():
        if OmegaConf.select(probe, key, default=stand_in) is None:
            OmegaConf.update(probe, key, stand_in)
    config = as_dict(probe)
    for look in (_wrong_values, wrong_arguments):
        if problems := list(look(config)):
            # A schedule stands in the objective too, a sampler in the grid: a mistake in it is told once.
            once = [one for one in problems if not any(one.endswith(f".{other}") for other in problems)]
            raise ArtError("\n".join(once))
    return as_dict(cfg)


def _refuse_empty(cfg: DictConfig) -> None:
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ArtError("\n".join(f"{key}: needs a value: {key}=..." for key in missing))


def _make_paths_absolute(cfg: DictConfig) -> None:
    for key, kind in PATHS.items():
        value = OmegaConf.select(cfg, key)
        if value == "":
            raise ArtError(f"{key}=: is empty; name a path, or null")
        if value is not None and value not in kind.words:
            if "${" in str(value):
                raise ArtError(f"{key}={value}: a name with ${{ in it cannot be told from a reference; rename it")
            OmegaConf.update(cfg, key, str(Path(str(value)).expanduser().absolute()))


def _wrong_values(config: Mapping[str, Any]) -> Iterator[str]:
    """Numbers out of range, words that are no choice, paths that lead nowhere."""
    for key, value in _present(config, LIMITS):
        if not LIMITS[key].allows(value):
            yield f"{key}={shown(value)}: must be {LIMITS[key]}"
    if config.get("seeds") is not None and not _are_seeds(config["seeds"]):
        wanted = f"two or more, each {LIMITS['seed']}, no neighbours equal: [1,2]"
        yield f"seeds={config['seeds']}: must be {wanted}"
    if "allow" in config and not _are_names(config["allow"]):
        yield f"allow={shown(config['allow'])}: must be a list of full names of classes, such as [mypkg.Net]"
    if "score" in config:  # a training
        for key in [group for group in GROUPS if group not in config]:
            yield f"{key}: is missing; choose {key}={listed(options(key))}"
    if "guidance" in config and not isinstance(config["guidance"], Mapping):
        yield f"guidance={shown(config['guidance'])}: has several settings; its strength is guidance.weight"
    if isinstance(config.get("experiment"), Mapping):
        yield "experiment: its file must begin with the line `# @package _global_`"
    for key, value in _present(config, CHOICES):
        if not any(type(value) is type(choice) and value == choice for choice in CHOICES[key]):  # True equals 1
            yield f"{key}={shown(value)}: must be {listed([shown(choice) for choice in CHOICES[key]])}"
    for key, value in _present(config, PATHS):
        kind = PATHS[key]
        if value is None or value in kind.words or not (kind.folder or kind.file):
            continue
        path = Path(value)
        if not ((kind.folder and path.is_dir()) or (kind.file and path.is_file())):
            wanted = listed((*kind.words, *["a file that exists"] * kind.file, *["a folder that exists"] * kind.folder))
            yield f"{key}={value}: must be {wanted}"


def _are_seeds(value: Any) -> bool:
    """Whether there is a way from each to the next."""
    if not isinstance(value, list) or len(value) < 2 or not all(map(LIMITS["seed"].allows, value)):
        return False
    return all(one != other for one, other in pairwise(value))


def _are_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def options(group: str) -> list[str]:
    """The names that a group of conf/ offers."""
    return sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))


def _present(config: Mapping[str, Any], keys: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    for key in keys:
        try:
            yield key, select(config, key)
        except KeyError:
            continue


def wrong_arguments(node: Any, key: str = "") -> Iterator[str]:
    """Keys and values that the `_target_` above them does not take."""
    if isinstance(node, list):
        for item in node:
            yield from wrong_arguments(item, key)
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield from _wrong_call(node, key)
        elif not key:
            yield from _unknown_root_keys(node)
            yield from _not_objects(node)
        for name, value in node.items():
            yield from wrong_arguments(value, f"{key}.{name}" if key else str(name))


def _unknown_root_keys(config: Mapping[str, Any]) -> Iterator[str]:
    """Root keys that train.yaml does not have; an experiment file can bring them in without Hydra noticing."""
    files = [OmegaConf.load(file) for file in CONF_DIR.glob("*.yaml")]
    known = {str(key) for file in files for key in file} | {group.name for group in CONF_DIR.iterdir()}
    for key in config:
        if key not in known:
            yield f"{key}: no such key{did_you_mean(key, known)}"


def _not_objects(config: Mapping[str, Any]) -> Iterator[str]:
    """Members of groups of objects that are neither objects nor null."""
    for group in ("callbacks", "logger"):
        for name, value in (config.get(group) or {}).items():
            if value is not None and not (isinstance(value, Mapping) and "_target_" in value):
                yield f"{group}.{name}={shown(value)}: needs a _target_, or null to leave it out"


def _wrong_call(node: Mapping[str, Any], key: str) -> Iterator[str]:
    try:
        target = get_object(node["_target_"])
    except Exception as error:  # noqa: BLE001 - whatever the module at the other end raises
        yield f"{key}._target_={node['_target_']}: cannot be imported ({' '.join(str(error).split())})"
        return
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return  # such as builtins: nothing is known of their arguments
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = _hints(target)
    for name, value in node.items():
        if name.startswith("_") and name.endswith("_"):
            continue
        if name in parameters and name in hints:
            yield from _wrong_type(f"{key}.{name}", value, hints[name])
        elif name not in parameters and not takes_any:
            remedy = (
                did_you_mean(name, parameters, prefix=f"{key}.")
                or f"; it takes {listed(list(parameters), 'and') or 'none'}"
            )
            yield f"{key}.{name}={shown(value)}: {node['_target_']} has no such argument{remedy}"


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the arguments; none where they cannot be resolved."""
    try:
        return typing.get_type_hints(inspect.unwrap(target.__init__) if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        return {}


def _wrong_type(key: str, value: Any, hint: Any) -> Iterator[str]:
    from typeguard import CollectionCheckStrategy, ForwardRefPolicy, TypeCheckError, check_type

    if "_target_" in str(value):
        return  # is or holds an object by then
    candidates = [value, tuple(value)] if isinstance(value, list) else [value]  # YAML has no tuples
    for candidate in candidates:
        try:
            check_type(
                candidate,
                hint,
                forward_ref_policy=ForwardRefPolicy.IGNORE,
                collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
            )
            return
        except TypeCheckError:
            continue
    yield f"{key}={shown(value)}: must be {_readable(hint)}"


def _readable(hint: Any) -> str:
    """An annotation as words: no module paths, null for None."""
    if typing.is_typeddict(hint):
        return f"keys {listed(list(hint.__annotations__), 'and')} with their values"
    text = hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=\w)", "", text).replace("NoneType", "null").replace("None", "null")
    if match := re.fullmatch(r"(?:Optional|Union)\[(.*)\]", text):
        text = match[1]
    text = re.sub(r"\b(?:Sequence|list)\[int\]", "a list of whole numbers, such as [1,2]", text)
    text = re.sub(r"\b(?:Sequence|list)\[str\]", "a list, such as [a,b]", text)
    return text.replace("Literal", "one of ")
