"""python docs/configuration.py: prints docs/configuration.md, made from conf/ and the signatures."""

import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object

from artart.config.build import CONF_DIR, options, select_or_none
from artart.config.commands import settings_of
from artart.config.describe import describe
from artart.config.schema import hints_of

COMMANDS = (
    *("train", "sweep", "generate", "evaluate", "prepare"),
    *("export", "inspect", "provenance", "compare", "gallery"),
)
GROUPS = (
    *("data", "model", "objective", "loss", "optimizer", "scheduler", "trainer", "callbacks", "logger"),
    *("schedule", "sampler", "regularizer", "filter", "sweep"),
)
HEAD = """# Configuration

Every setting with its default, the values that it takes and its meaning. Set a value on the command line with
`key=value`; choose an option of a group with `group=option`. `${key}` is the value of another key; `???` must be given.
The groups belong to `artart.train`; `data` also to `artart.prepare`, `sampler` also to `artart.generate`,
`artart.evaluate` and `artart.gallery`; `filter` to `artart.generate` alone. `artart.sweep` takes all settings of
`artart.train`, and the group `sweep`. Experiments are described in `conf/experiment/*.yaml`.

`python docs/configuration.py > docs/configuration.md` makes this page from `conf/` and the signatures.
"""


def text() -> str:
    """The page."""
    parts = [HEAD, *(_section(CONF_DIR / f"{name}.yaml", f"## python -m artart.{name}") for name in COMMANDS)]
    for group in GROUPS:
        parts.append(f"## {group}\n")
        parts += [_section(CONF_DIR / group / f"{name}.yaml", f"### {group}={name}") for name in options(group)]
    return "\n".join(parts)


def _section(path: Path, title: str) -> str:
    """The comment at the head of a file and a table of its settings; of a variant of another file its changes."""
    content = path.read_text(encoding="utf-8")
    lines, tree = content.splitlines(), yaml.safe_load(content)
    head = [line[2:] for line in takewhile(lambda line: line.startswith("# "), lines)]
    prefix = "" if path.parent == CONF_DIR or "@package _global_" in head else f"{path.parent.name}."
    summary = " ".join(line for line in head if line[:1] not in " @")
    if path.parent == CONF_DIR or "_target_:" in content:
        rows = list(_rows(lines, tree, prefix))
        table = ["| key | default | values | meaning |", "|---|---|---|---|", *rows, ""] if rows else []
    else:
        changes = ", ".join(f"`{prefix}{key}={value}`" for key, value, _ in _settings(lines) if value)
        table = [f"As `{path.parent.name}={tree['defaults'][0]}`, but {changes}.", ""] if changes else []
    return "\n".join([title, "", *([summary, ""] if summary else []), *table])


def _rows(lines: list[str], tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value, comment in _settings(lines):
        node, (hint, documented) = select_or_none(tree, key), _signature(tree, key)
        hint = settings_of(tree).get(f"{prefix}{key}", hint)
        if isinstance(node, Mapping):
            if node and "_target_" not in node:
                continue  # its keys have rows of their own
            value, hint = str(node.get("_target_", value)), hint if not node else None
            documented = documented or _summary(value)
        words = "" if hint in (None, Any) else describe(hint)
        cells = (f"`{prefix}{key}`", f"`{value}`", words, comment or documented.removesuffix("."))
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _settings(lines: list[str]) -> list[tuple[str, str, str]]:
    """Dotted keys of a YAML file, each with its value and the comment behind it, which later lines may continue.

    Hydra's own keys are left out.
    """
    path: list[tuple[int, str]] = []
    rows = list[tuple[str, str, str]]()
    for line in lines:
        if match := re.fullmatch(r"( *)(\w+): *([^#]*?)(?: *# (.*))?", line):
            path = [*((indent, name) for indent, name in path if indent < len(match[1])), (len(match[1]), match[2])]
            rows.append((".".join(name for _, name in path), match[3], match[4] or ""))
        elif rows and (match := re.fullmatch(r" {8,}# (.*)", line)):
            rows[-1] = (*rows[-1][:2], f"{rows[-1][2]} {match[1]}")
    return [row for row in rows if not re.match(r"defaults$|hydra\b|(.*\.)?_\w+_$", row[0])]


def _signature(tree: Mapping[str, Any], key: str) -> tuple[Any, str]:
    """Annotation and description of a setting in the signature of the class above it; None and "" without one."""
    node: Any = tree
    hint, documented = None, ""
    for part in key.split("."):
        if "_target_" in node:
            target = get_object(node["_target_"])
            hint, documented = hints_of(target).get(part), _arguments(target).get(part, "")
        elif typing.is_typeddict(hint):
            hint, documented = typing.get_type_hints(hint, include_extras=True).get(part), ""
        else:
            hint, documented = (typing.get_args(hint)[1] if typing.get_origin(hint) is Mapping else None), ""
        node = node.get(part)
    return hint, documented


def _arguments(target: Callable[..., Any]) -> dict[str, str]:
    """Descriptions of the arguments, from the docstring of a class or function of artart."""
    documented = inspect.getdoc(target.__init__ if inspect.isclass(target) else target) or ""
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", documented.partition("Args:\n")[2], re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries if target.__module__.startswith("artart.")}


def _summary(target: str) -> str:
    return (inspect.getdoc(get_object(target)) or "").partition("\n")[0] if target.startswith("artart.") else ""


if __name__ == "__main__":
    sys.stdout.write(text())
