"""Keys and values of a configuration held against the signatures of what they are to build."""

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import OmegaConf

from artart.config import CONF_DIR, did_you_mean, listed, shown


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
