"""Log lines and progress bars that do not break each other."""

import logging
import re
from pathlib import Path

from rich import get_console
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# Control characters but tab and line feed, and those that change the direction of writing
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """A text from a file, such as a name, as one line of at most 300 characters that cannot move the cursor."""
    line = " ".join(str(text).encode(errors="backslashreplace").decode().split())
    return "".join(char if char.isprintable() else "?" for char in line)[:300]


class TerminalHandler(logging.Handler):
    """Prints log lines above a running progress bar, unwrapped, so that paths can be copied; errors go to stderr.

    Control characters, which may come from file names, are replaced.
    """

    def emit(self, record: logging.LogRecord) -> None:
        console = Console(stderr=True) if record.levelno >= logging.ERROR else get_console()
        style = "yellow" if record.levelno == logging.WARNING else None
        line = CONTROL.sub("?", self.format(record))
        console.print(line, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.{0 if task.speed >= 10 else 1}f}/s")


def progress_bar() -> Progress:
    """A bar with count, rate, elapsed and remaining time; nothing is shown if the output is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=get_console(),
        disable=not get_console().is_terminal,
        transient=True,
    )


def relative_to_cwd(path: Path) -> Path:
    """A path relative to the current folder, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
