"""The settings that the trials of a sweep draw: their ranges and choices, as `sweep.space` names them."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from artart import ArtError
from artart.config.build import CONF_DIR, Config, did_you_mean, flat_keys, format_value, select_or_none
from artart.config.schema import wrong_value

EXAMPLE = "sweep.space={optimizer.lr: {low: 1e-4, high: 1e-2, log: true}}"
FORMS = "{low: ..., high: ...} or {choices: [...]}"
SHARED = ("run_dir", "resume", "monitor", "mode", "sweep", "experiment")  # by all trials


class Range(TypedDict, total=False):
    """Keys of a range, or of choices."""

    low: float
    high: float
    log: bool
    step: float
    choices: list[Any]


class Parameter(NamedTuple):
    """A setting that trials draw: one of `choices`, or a number from low to high, both included."""

    key: str
    choices: Sequence[str] = ()  # as on the command line
    low: float = 0.0
    high: float = 0.0
    log: bool = False  # uniform in its logarithm
    step: float | None = None
    is_int: bool = False

    def word(self, value: float | str) -> str:
        """The setting as on the command line."""
        return f"{self.key}={value}"


def parameters(space: Mapping[str, Any], config: Config, words: Sequence[str]) -> list[Parameter]:
    """The parameters in `sweep.space`, whose keys are dotted, nested or both; null removes one.

    Args:
        space: plain data.
        config: the settings of artart.train that trials share.
        words: those of them that were set on the command line, key=value.

    Raises ArtError, one line per mistake, with key, value and remedy.
    """
    known = {*flat_keys(config), *(path.name for path in CONF_DIR.iterdir() if path.is_dir())}.difference(SHARED)
    given = dict(_leaves(space))
    nodes = {key: node for key, node in given.items() if node is not None}
    if problems := [line for key, node in nodes.items() for line in _mistakes(key, node, known)]:
        raise ArtError("\n".join(problems[:3]))
    if not nodes:
        raise ArtError(f"sweep.space: is empty; name settings with their ranges: {EXAMPLE}")
    for word in [word for word in words if word.lstrip("+").partition("=")[0] in nodes]:
        raise ArtError(f"{word}: is drawn by sweep.space; leave it out")
    if config["monitor"].endswith("/loss") and any(key.partition(".")[0] in ("loss", "objective") for key in nodes):
        raise ArtError(f"monitor={config['monitor']}: cannot compare trials whose loss differs; choose another metric")
    return [_parameter(key, node, select_or_none(config, key)) for key, node in nodes.items()]


def _leaves(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, node in space.items():
        if isinstance(node, Mapping) and node and not node.keys() & Range.__annotations__.keys():
            yield from _leaves(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", node


def _mistakes(key: str, node: Any, known: set[str]) -> Iterator[str]:
    place = f"sweep.space.{key}"
    if key in SHARED:
        yield f"{place}: is the same in all trials; leave it out of sweep.space"
    elif key.rpartition(".")[0] in known and key not in known and not isinstance(node, Mapping):
        yield f"{place}={format_value(node)}: no such key; a setting needs {FORMS}"
    elif key not in known:
        yield f"{place}: no such key{did_you_mean(key, known) or '; --cfg job shows them all'}"
    elif not isinstance(node, Mapping) or not ({"low", "high"} <= node.keys() or "choices" in node):
        yield f"{place}={format_value(node)}: needs {FORMS}"
    elif wrong := [*wrong_value(place, node, Range)]:
        yield from wrong
    elif "choices" in node:
        if more := node.keys() - {"choices"}:
            yield f"{place}.{min(more)}: has no effect beside choices; leave it out"
        if len(set(map(_text, node["choices"]))) < max(2, len(node["choices"])):
            yield f"{place}.choices={node['choices']}: needs two or more different values"
    else:
        yield from _wrong_range(place, **node)


def _wrong_range(place: str, low: float, high: float, log: bool = False, step: float | None = None) -> Iterator[str]:
    if not (low < high and math.isfinite(high - low)):
        yield f"{place}.low={low}: must be below high={high}, and both finite"
    elif log and low <= 0:
        yield f"{place}.low={low}: must be above 0 with log=true"
    elif step is not None and (log or not 0 < step <= high - low):
        yield f"{place}.step={step}: must be above 0 and at most high - low, without log; or leave it out"


def _parameter(key: str, node: Mapping[str, Any], value: Any) -> Parameter:
    """`value` is that of the shared settings: a number that is not whole there may be so in no trial."""
    if "choices" in node:
        return Parameter(key, tuple(map(_text, node["choices"])))
    numbers = [node[name] for name in ("low", "high", "step") if name in node]
    is_int = all(type(number) is int for number in numbers) and not isinstance(value, float)
    kind = int if is_int else float
    step = kind(node["step"]) if "step" in node else None
    return Parameter(key, (), kind(node["low"]), kind(node["high"]), node.get("log", False), step, is_int)


def _text(choice: object) -> str:
    """A choice as the command line writes it."""
    plain = isinstance(choice, str) and re.fullmatch(r"[\w.+/-]+", choice)
    return str(choice) if plain else json.dumps(choice)
