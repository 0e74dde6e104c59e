"""Links, paths, commands and settings that the documentation names exist."""

import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from artart import ArtError
from artart.config.build import CONF_DIR, options
from artart.config.commands import PATHS, literals
from artart.config.describe import describe
from artart.config.schema import check
from benchmarks.harness import parser_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [*PAGES, *sorted(CONF_DIR.rglob("*.yaml"))]
README = ROOT / "README.md"
NEEDED = {  # a setting that each command needs, whatever a word without a key stands for
    **dict.fromkeys(("generate", "evaluate", "export", "gallery"), f"checkpoint={README}"),
    "compare": f"runs=[{ROOT}]",
    "inspect": f"files=[{README}]",
    "provenance": "action=new-certificate",
    **dict.fromkeys(("train", "sweep", "prepare")),
}
REFERENCE = "configuration.md"
PLACEHOLDERS = {"SEED": "0", "NUMBER": "1000"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def links(page: Path) -> list[str]:
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(text: str) -> list[str]:
    """Lines of code blocks, continued lines joined, and what stands in backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"(\\\n|\n(?= )) *", " ", block).splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def commands(path: Path) -> list[list[str]]:
    """The words of each command that runs a module of artart or a benchmark, from the module on."""
    text = path.read_text()
    lines = code(text) if path.suffix == ".md" else re.findall(r"(?:python|torchrun) .*?(?=  |$)", text, re.MULTILINE)
    found = (re.search(r"-m (?=artart\.|benchmarks )(.*)", line) for line in lines)
    return [shlex.split(match[1], comments=True) for match in found if match]


def overrides_of(words: list[str]) -> list[str]:
    """The settings among the words of a command, with placeholders and paths replaced by values that exist."""
    sweep = "-m" in words
    overrides = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or value in ("NAME", "???") or key.startswith("-"):
            continue
        if key in PATHS and value not in map(str, literals(PATHS[key])):
            value = README if "a file" in describe(PATHS[key]) else ROOT
        elif sweep:
            value = value.split(",")[0]
        free = "++" * key.startswith(("first_stage_settings.", "sweep.space"))  # as the command adds it
        overrides.append(f"{free}{key}={PLACEHOLDERS.get(str(value), value)}")
    return overrides


def problem(words: list[str]) -> str | None:
    """What is wrong with a command; None if its module or benchmark, its options and its settings exist."""
    target, *rest = words
    if target == "benchmarks":
        name, *options = rest
        if name == "NAME":
            return None
        known = parser_of(name, import_module(f"benchmarks.{name}")).format_help()
        return ", ".join(word for word in options if word.startswith("--") and f"{word} " not in known) or None
    if find_spec(target) is None:
        return "no such module"
    command = target.removeprefix("artart.")
    if command not in NEEDED:
        return None
    overrides, needed = overrides_of(rest), NEEDED[command]
    if needed and f"{needed.partition('=')[0]}=" not in " ".join(overrides):
        overrides.append(needed)
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            check(compose(command, overrides))
    except (HydraException, ArtError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_docs_links_lead_to_files_and_headings(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_docs_paths_exist(page):
    text = re.sub(r"https?://\S+", "", page.read_text())
    named = re.findall(r"(?<![\w./~-])(?:artart|conf|docs|tests|benchmarks|\.ci|\.github)/[\w./-]*\w", text)
    named += [f"artart/{path}" for path in re.findall(r"`(\w+/\w+\.py)`", text) if not (ROOT / path).exists()]
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    "path", [TEXTS[0], *(pytest.param(path, marks=pytest.mark.slow) for path in TEXTS[1:])], ids=name
)
def test_docs_commands_and_their_settings_exist(path):
    assert [(words, wrong) for words in commands(path) if (wrong := problem(words))] == []


def test_docs_make_targets_exist_and_readme_names_those_of_ci():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        page.name: set(re.findall(r"^make ([a-z-]+)", "\n".join(code(page.read_text())), re.MULTILINE))
        for page in PAGES
    }
    assert set().union(*named.values()) <= targets
    assert set(re.findall(r"^make ([a-z-]+)", (ROOT / ".ci/run").read_text(), re.MULTILINE)) <= named["README.md"]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ("CONTRIBUTING.md", REFERENCE)], ids=name)
def test_docs_settings_exist(page):
    keys = set(re.findall(r"`([\w.]+)(?:=[^`]*)?`", (ROOT / "docs" / REFERENCE).read_text()))
    groups = {folder.name: options(folder.name) for folder in CONF_DIR.iterdir() if folder.is_dir()}
    settings = [text.split("=", 1) for text in code(page.read_text()) if re.fullmatch(r"[\w.]+=\S*", text)]
    for key, value in settings:
        is_option = value in groups.get(key, []) or value.isupper()
        assert is_option if key in groups else any(f"{one}.".startswith(f"{key}.") for one in keys), f"{key}={value}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_docs_tables_have_equal_rows(page):
    tables = re.findall(r"(?:^\|.*\|\n)+", page.read_text(), re.MULTILINE)
    for table in tables:
        rows = table.splitlines()
        assert re.fullmatch(r"\|( ?:?-+:? ?\|)+", rows[1]), rows[:2]
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(re.findall(r"\|", rows[0]))}, rows[0]
