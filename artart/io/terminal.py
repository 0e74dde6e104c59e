"""What a person sees: log lines and progress bars that do not break each other."""

import logging
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


class TerminalHandler(logging.Handler):
    """Prints log lines above a running progress bar, unwrapped, so that paths can be copied; errors go to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        console = Console(stderr=True) if record.levelno >= logging.ERROR else get_console()
        style = "yellow" if record.levelno == logging.WARNING else None
        console.print(self.format(record), style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class Rate(ProgressColumn):
    """How much is done in a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.{0 if task.speed >= 10 else 1}f}/s")


def progress_bar() -> Progress:
    """A bar with count, rate, time spent and time left; silent where the output is not a terminal."""
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
    """A path as short as it can be written from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
