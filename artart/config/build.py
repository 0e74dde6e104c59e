"""The configuration in conf/, and how to make plain data and objects from it."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from artart import ArtError
from artart.io.terminal import first_line

HERE = Path(__file__).resolve().parents[1]
# In a wheel, or in a checkout.
CONF_DIR = HERE / "conf" if (HERE / "conf" / "train.yaml").is_file() else HERE.parent / "conf"

Config = Mapping[str, Any]  # plain settings

NICKNAMES = {  # keys as other programs call them
    "batch": ("data.batch_size", "batch_size"),
    "epoch": ("trainer.max_epochs",),
    "folder": ("data.root", "input"),
    "gpus": ("trainer.devices", "device"),
    "learning_rate": ("optimizer.lr",),
    "n": ("num_images", "data.num_demo_images"),
    "output": ("out", "run_dir"),
    "path": ("data.root", "checkpoint"),
    "resolution": ("image_size", "scale"),
    "size": ("image_size", "scale"),
    "steps": ("trainer.max_steps", "sampler.num_steps"),
}


def as_dict(cfg: DictConfig | ListConfig, resolve: bool = True) -> dict[str, Any]:
    """Plain dicts and lists, with every interpolation resolved unless asked otherwise."""
    config = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def select_or_none(config: Config, key: str) -> Any:
    """config["a"]["b"] for "a.b"; None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def build(config: Config, key: str, **more: Any) -> Any:
    """Instantiate config[key]; `more` are arguments that a file cannot hold.

    Raises ArtError if that fails, with the reason.
    """
    try:
        return instantiate(config[key], _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__ or error
        reason = first_line(cause)
        raise ArtError(reason if re.match(r"[\w.]+[=:]", reason) else f"{key}: {reason}") from error


def build_all(config: Config, key: str) -> list[Any]:
    """Instantiate the members of a group, except those that are null."""
    return [thing for thing in (build(config, key) or {}).values() if thing is not None]


def is_command() -> bool:
    """Whether this process was called as a command, and not from Python."""
    return HydraConfig.initialized()


def overrides() -> list[str]:
    """What was set on the command line, key=value, with the folders that --config-dir added."""
    return [*_search_path(), *HydraConfig.get().overrides.task]


def _search_path() -> list[str]:
    """The setting for folders with more options, such as that of --config-dir; empty if there are none."""
    sources = HydraConfig.get().runtime.config_sources if is_command() else []
    added = [f"{one.schema}://{one.path}" for one in sources if one.provider not in ("hydra", "main", "schema")]
    return [f"hydra.searchpath={added}"] * bool(added)


def in_multirun() -> bool:
    """Whether this is one job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def in_sweep() -> bool:
    """Whether runs of this process are compared: jobs of a multirun, or trials of artart.sweep."""
    return in_multirun() or (HydraConfig.initialized() and HydraConfig.get().job.config_name == "sweep")


def options(group: str) -> list[str]:
    """The names of the options of a group of conf/."""
    return sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))


def option(group: str, name: str) -> dict[str, Any]:
    """What an option of a group in conf/ holds, on top of the options of that group in its defaults."""
    node = as_dict(OmegaConf.load(CONF_DIR / group / f"{name}.yaml"), resolve=False)
    bases = node.pop("defaults", [])
    return {key: value for base in bases for key, value in option(group, base).items()} | node


def did_you_mean(key: str, known: Iterable[str], prefix: str = "") -> str:
    """A question that names the key meant, by its spelling, its last part or another common name; empty if unclear."""
    by_name = {name: name for name in known}
    last_parts = {name.rpartition(".")[2]: name for name in sorted(by_name, key=lambda name: -name.count("."))}
    usual = next((name for name in NICKNAMES.get(key, ()) if name in by_name), None)
    for names in (by_name, last_parts):
        if not usual and (close := difflib.get_close_matches(key, names, n=1, cutoff=0.7)):
            usual = names[close[0]]
    return f"; did you mean {prefix}{usual}?" if usual else ""


def compose(config_name: str, overrides: Sequence[str] = (), return_hydra_config: bool = False) -> DictConfig:
    """A configuration of conf/, and of the folders that --config-dir added, for `key=value` each in `overrides`."""
    words = [*(word for word in _search_path() if word not in overrides), *overrides]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return hydra.compose(config_name, words, return_hydra_config)


def known_keys(config_name: str, choices: Sequence[str] = ()) -> list[str]:
    """Every key of a configuration with these options of its groups, as far as it has them, dotted, inner and outer."""
    try:
        cfg = compose(config_name, choices)
    except HydraException:
        cfg = compose(config_name)
    return list(flat_keys(as_dict(cfg, resolve=False)))


def flat_keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of nested plain data, dotted, inner and outer."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat_keys(value, f"{prefix}{key}.")


def format_value(value: object) -> str:
    """A value as the command line writes it."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def join_words(words: Sequence[str], last: str = "or") -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)
