"""Annotations of parameters in words, for messages and the documentation."""

import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from artart.config.build import format_value, join_words
from artart.config.commands import is_union

WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", Path: "a path", type(None): "null"}
WORDS[Mapping] = WORDS[dict] = "settings such as {a: 1}"
WORDS[Callable] = "an object with a _target_"
ORDER = (bool, int, float, Literal, str, Path)  # of alternatives; others follow, null comes last
PLURALS = {int: "whole numbers such as [1,2]", float: "numbers such as [0.1,0.9]", str: "texts such as [a,b]"}
LIMITS = {Ge: "at least {0.ge}", Gt: "above {0.gt}", Le: "at most {0.le}", Lt: "below {0.lt}"}


def describe(hint: Any) -> str:
    """An annotation in words: `Annotated[int, Field(ge=1)] | None` is "a whole number, at least 1, or null"."""
    words = list(dict.fromkeys(_options(hint)))
    return ", or ".join(words) if any(", " in word for word in words) else join_words(words)


def _options(hint: Any) -> Iterator[str]:
    """The alternatives of an annotation in words, in a fixed order."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_union(hint):
        for one in sorted(arguments, key=lambda one: (_rank(one), describe(one))):
            yield from _options(one)
    elif origin is Literal:
        yield from map(format_value, arguments)
    elif origin is Annotated:
        yield _annotated(*arguments)
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        inner = typing.get_args(arguments[0]) or arguments
        yield next((f"a list of {PLURALS[one]}" for one in inner if one in PLURALS), "a list")
    elif hint is bool:
        yield from ("true", "false")
    elif typing.is_typeddict(hint):
        yield f"keys {join_words(list(hint.__annotations__), 'and')} with their values"
    else:
        yield WORDS.get(origin or hint) or str(getattr(hint, "__name__", hint))


def _rank(hint: Any) -> int:
    base = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else typing.get_origin(hint) or hint
    return ORDER.index(base) if base in ORDER else len(ORDER) + (base is type(None))


def _annotated(base: Any, *notes: Any) -> str:
    """A type with its limits, or the description of a rule."""
    limits = list[str]()
    for note in notes:
        for one in getattr(note, "metadata", None) or [note]:  # pydantic's Field holds several
            if hasattr(one, "words"):
                return str(one.words)
            if type(one) in LIMITS:
                limits.append(LIMITS[type(one)].format(one))
    return ", ".join([describe(base), *[join_words(limits, "and")] * bool(limits)])
