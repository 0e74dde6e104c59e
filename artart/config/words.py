"""The words of a command line, as people type them, made into words of Hydra's grammar."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from artart import ArtError
from artart.config import renames
from artart.config.build import CONF_DIR, join_words, options
from artart.config.commands import PATHS

MULTIRUN = {"-m", "--multirun"}
POSITIONAL = {
    "train": "data.root",
    "sweep": "data.root",
    "prepare": "data.root",
    "provenance": "action",
}  # the key of a word without one; others: checkpoint
LISTS = {"inspect": "files", "compare": "runs"}  # the key of all words without one
REMOVED = ("callbacks", "logger", "loss", "model", "optimizer", "scheduler")  # with ~ before the key
TEXTS = ("name", "label", "prompt", "negative_prompt", "data.background", "data.captions", "data.text_encoder")
HYDRA = ("hydra.sweep.dir", "hydra.sweeper.", "hydra.launcher.", "hydra.searchpath", "hydra.verbose")  # have an effect


def to_hydra(words: Sequence[str], command: str) -> list[str]:
    """Words for Hydra: options first, paths quoted, a path alone as the value of its key.

    Raises ArtError, one line for each word that has no effect, or has another name now.
    """
    is_sweep = bool(MULTIRUN & set(words))
    given, settings = _divided(["json=true" if word == "--json" else word for word in words])
    if command in LISTS:
        settings = _with_list(settings, LISTS[command])
    bare = [word for word in settings if _is_bare(word)]
    if len(bare) > 1:
        raise ArtError(f"{bare[0]}, {bare[1]}: need key=value; a name with blanks needs quotes: 'a b'")
    if bare and command in ("train", "sweep") and bare[0] in options("experiment") and not os.path.exists(bare[0]):
        raise ArtError(f"{bare[0]}: needs a key: experiment={bare[0]}")
    key = POSITIONAL.get(command, "checkpoint")
    settings = [f"{key}={word}" if word in bare else word for word in settings]
    renamed = [line for word in settings if (line := renames.explain(word, settings))]
    if wrong := [*renamed, *_without_effect(settings)]:
        raise ArtError("\n".join(wrong))
    return given + [quoted(word, is_sweep) for word in settings]


def _with_list(words: Sequence[str], key: str) -> list[str]:
    """Words of a command that takes any number of paths, of which those without a key become its value."""
    names = [word.removeprefix("checkpoint=") for word in words if _is_bare(word) or word.startswith("checkpoint=")]
    settings = [word for word in words if not _is_bare(word) and not word.startswith("checkpoint=")]
    files = ",".join(quoted(f"checkpoint={name}").removeprefix("checkpoint=") for name in names)
    return [*settings, f"{key}=[{files}]"] if names else settings


def _is_bare(word: str) -> bool:
    """Whether it is a path without a key; ~key and +key are Hydra's."""
    return ("=" not in word or os.path.exists(word)) and not re.match(r"~[\w@.]|\+", word)


def _divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options, which Hydra wants first, and settings."""
    given, settings, before = list[str](), list[str](), ""
    for word in words:
        is_value = before.startswith("--") and before not in MULTIRUN and "=" not in before + word
        (given if word.startswith("-") or is_value else settings).append(word)
        before = word
    return given, settings


def _without_effect(words: Sequence[str]) -> Iterator[str]:
    """A line for each setting of Hydra that artart does not use, and for settings that are removed."""
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if word.startswith("~") and key.partition(".")[0] not in (*REMOVED, "hydra") and not (CONF_DIR / key).is_dir():
            yield f"{word}: only settings of {join_words(REMOVED, 'and')} can be removed; leave it out, or set a value"
        if key.startswith("hydra.") and not key.startswith(HYDRA):
            yield f"{word}: has no effect; the folder of a run is run_dir=DIR, that of a sweep hydra.sweep.dir=DIR"
        if key == "hydra.verbose" and not re.fullmatch(r"(?!inf$|nan$|null$)\[?[a-z_][\w.,]*\]?", value, re.IGNORECASE):
            yield f"{word}: must be true, false or names of loggers such as [artart]"


def quoted(argument: str, is_sweep: bool = False) -> str:
    """Quote the path or text in key=value, in which Hydra's grammar misreads blanks, commas, accents, numbers and #.

    A label in braces, {column: name, ...}, has its own quotes, and so have several captions or prompts, [...].
    """
    if argument.startswith(("first_stage_settings.", "sweep.space")):
        argument = f"++{argument}"  # any setting of artart.train
    key, equals, value = argument.partition("=")
    name = key.lstrip("+").removeprefix("first_stage_settings.")
    if not equals or name not in (*PATHS, *TEXTS) or re.fullmatch(r"null|'.*'|\".*\"", value):
        return argument
    if is_sweep and "," in value and not os.path.exists(Path(value).expanduser()):
        return argument  # several paths
    if key in ("data.captions", "prompt") and value.startswith("["):
        return argument
    if key == "label" and value.startswith("{"):
        return f"{key}={value.replace('${', chr(92) + '${')}"
    escaped = re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + match[2].replace("'", "\\'"), value)
    return f"{key}='{escaped.replace('${', chr(92) + '${')}'"
