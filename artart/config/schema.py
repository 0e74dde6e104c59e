"""Checks a configuration before any work. The signatures are the schema.

Types, choices and ranges are annotations of the parameters of each `_target_`, such as
`num_steps: Annotated[int, Field(ge=1)] = 30`, and of `commands.SETTINGS`. pydantic checks them.
"""

import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from artart import ArtError
from artart.config import renames
from artart.config.build import (
    CONF_DIR,
    Config,
    as_dict,
    did_you_mean,
    flat_keys,
    format_value,
    join_words,
    options,
    select_or_none,
)
from artart.config.commands import SETTINGS, literals, settings_of
from artart.config.describe import describe
from artart.config.paths import make_paths_absolute
from artart.config.targets import check_kind, target_of
from artart.config.unfit import leave_out_unfit

GROUPS = ("data", "model", "objective", "loss", "optimizer", "scheduler", "trainer", "callbacks", "logger")
MAX_LINES = 3  # of mistakes


def check(cfg: DictConfig) -> dict[str, Any]:
    """Check a configuration and return it as plain data; paths become absolute, in cfg too.

    Mistakes are reported all at once: first those that need no imports, then keys and values of each `_target_`.

    Raises ArtError, one line per mistake, with key, value and remedy.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        values = {key: join_words(literals(SETTINGS.get(key))) or "..." for key in missing}
        raise ArtError("\n".join(f"{key}: needs a value: {key}={value}" for key, value in values.items()))
    make_paths_absolute(cfg)
    _refuse(_wrong_settings(_probed(cfg)))
    if "monitor" in cfg:
        leave_out_unfit(cfg)
    _refuse(_wrong_parts(_probed(cfg)))
    return as_dict(cfg)


def _probed(cfg: DictConfig) -> dict[str, Any]:
    """Plain settings, with a folder in the place of a new one, which is named later."""
    if cfg.get("run_dir", "none is needed"):
        return as_dict(cfg)
    before = cfg.run_dir
    try:  # a copy would take four times as long
        cfg.run_dir = "outputs/runs"
        return as_dict(cfg)
    finally:
        cfg.run_dir = before


def _refuse(problems: Iterator[str]) -> None:
    """Raises ArtError if there are problems, with MAX_LINES lines at most."""
    found = list(problems)
    # Schedule and sampler also occur in other parts, by interpolation: report a mistake in them once.
    once = [one for one in found if not any(one.endswith(f".{other}") for other in found)]
    more = [f"and {len(once) - MAX_LINES + 1} more"] if len(once) > MAX_LINES else []
    if once:
        raise ArtError("\n".join([*once[: MAX_LINES - len(more)], *more]))


def check_values(**values: object) -> None:
    """Raises ArtError, a line per mistake, if arguments from Python are not allowed for the settings of their names."""
    if problems := [line for key, value in values.items() for line in wrong_value(key, value, SETTINGS[key])]:
        raise ArtError("\n".join(problems))


def _wrong_settings(config: Config) -> Iterator[str]:
    """Values that `SETTINGS` forbids, and groups that are missing or not groups."""
    given = set(flat_keys(config))
    for key, hint in settings_of(config).items():
        value = select_or_none(config, key)
        if isinstance(value, Mapping) and "_target_" in value:
            yield f"{key}={value}: must be {describe(hint)}, no object"
        elif key in given:
            yield from wrong_value(key, value, hint)
    if "monitor" in config:  # a training
        for key in [group for group in GROUPS if group not in config]:
            yield f"{key}: is missing; choose {key}={join_words(options(key))}"
    for key, settings in (("guidance", "guidance.weight"), ("provenance", "provenance.certificate")):
        if key in config and not isinstance(config[key], Mapping):
            yield f"{key}={format_value(config[key])}: has several settings, such as {settings}"
    if isinstance(config.get("experiment"), Mapping):
        yield "experiment: its file must begin with the line `# @package _global_`"


def _wrong_parts(config: Config) -> Iterator[str]:
    """Unknown keys of experiment files, which Hydra accepts; nodes that should be objects; arguments of objects."""
    known = {key.partition(".")[0] for key in settings_of(config)} | {group.name for group in CONF_DIR.iterdir()}
    for key in config.keys() - known:
        yield renames.explain(key) or f"{key}: no such key{did_you_mean(key, known)}"
    for group in ("callbacks", "logger"):
        for name, value in (config.get(group) or {}).items():
            if value is not None and not (isinstance(value, Mapping) and "_target_" in value):
                yield f"{group}.{name}={format_value(value)}: needs a _target_, or null to leave it out"
    trusted = config.get("trusted_classes", [])
    for key, node in config.items():
        yield from wrong_arguments(node, key, [trusted] if isinstance(trusted, str) else trusted)


def wrong_arguments(node: Any, key: str, trusted: Collection[str] = ()) -> Iterator[str]:
    """A line for each key and value in nested plain data, named `key`, that the `_target_` above it forbids.

    `trusted` are full names of classes that may be named too, see `targets.target_of`.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield from _wrong_call(node, key, trusted)
        for name, value in node.items():
            yield from wrong_arguments(value, f"{key}.{name}", trusted)
    elif isinstance(node, list):
        for value in node:
            yield from wrong_arguments(value, key, trusted)


def _wrong_call(node: Mapping[str, Any], key: str, trusted: Collection[str]) -> Iterator[str]:
    name = str(node["_target_"])
    try:
        target = target_of(name, trusted)
        check_kind(key, target, bool(node.get("_partial_")))
    except ArtError as error:
        yield f"{key}._target_={name}: {error}"
        return
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return  # such as builtins, whose arguments are unknown
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = {name: value for name, value in node.items() if not re.fullmatch("_.*_", str(name))}
    hints = hints_of(target)
    known = {name: hints.get(name, Any) for name in [*parameters, *(node if takes_any else ())]}
    yield from _wrong_items(key, arguments, known, f"{node['_target_']} has no such argument")


def _wrong_items(key: str, items: Mapping[Any, Any], hints: Mapping[str, Any], unknown: str) -> Iterator[str]:
    """Names without an annotation, and values that do not fit theirs."""
    for name, value in items.items():
        if not isinstance(name, str):  # as YAML allows
            yield f"{key}.{name}={format_value(value)}: {unknown}; names are texts"
        elif name in hints:
            yield from wrong_value(f"{key}.{name}", value, hints[name])
        elif renamed := renames.explain(f"{key}.{name}={format_value(value)}"):
            yield renamed
        else:
            remedy = did_you_mean(name, hints, f"{key}.") or f"; it takes {join_words(list(hints), 'and') or 'none'}"
            yield f"{key}.{name}={format_value(value)}: {unknown}{remedy}"


def wrong_value(key: str, value: Any, hint: Any) -> Iterator[str]:
    if typing.is_typeddict(hint) and isinstance(value, Mapping):
        yield from _wrong_items(key, value, typing.get_type_hints(hint, include_extras=True), "no such key")
    elif isinstance(value, Mapping) and typing.get_origin(hint) is Mapping:
        yield from _wrong_items(key, value, dict.fromkeys(value, typing.get_args(hint)[1]), "no such key")
    elif not is_valid(value, hint):
        yield f"{key}={format_value(value)}: must be {describe(hint)}"


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the parameters; none where they cannot be resolved."""
    try:
        function = inspect.unwrap(target.__init__) if inspect.isclass(target) else target
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def is_valid(value: Any, hint: Any) -> bool:
    """Whether a value fits an annotation; a description of an object fits any."""
    if "_target_" in str(value):
        return True  # it becomes or holds an object
    if typing.is_typeddict(hint):
        return isinstance(value, Mapping)
    if (adapter := _adapter(hint)) is None:
        return True
    for candidate in [value, tuple(value)] if isinstance(value, list) else [value]:  # YAML has no tuples
        try:
            adapter.validate_python(candidate, strict=True)
            return True
        except ValidationError:
            continue
    return False


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """None for annotations that pydantic cannot check, such as protocols."""
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, SchemaError, TypeError):
        return None
