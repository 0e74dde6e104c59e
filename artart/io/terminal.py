"""Log lines and progress bars."""

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich import get_console, progress
from rich.console import Console
from rich.text import Text

CLOSED_PIPE = 141  # exit code: 128 + SIGPIPE, which Windows does not have
# Control characters except tab and line feed, and those that change the writing direction
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escaped(text: object) -> str:
    """A text with control characters as escapes, such as \\x1b, so that it cannot move the cursor."""
    return CONTROL.sub(lambda found: _escape(found[0]), str(text))


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def first_line(error: BaseException) -> str:
    """Of its message; the name of its class if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable(text: object) -> str:
    """A text from a file, such as a name, as one line of at most 300 characters that cannot move the cursor."""
    line = " ".join(str(text).encode(errors="backslashreplace").decode().split())
    return "".join(char if char.isprintable() else _escape(char) for char in line)[:300]


class TerminalHandler(logging.Handler):
    """Prints log lines above a running progress bar, unwrapped, so that paths can be copied; errors go to stderr.

    Control characters, which may come from file names, are escaped.

    Raises SystemExit with CLOSED_PIPE, if nobody reads the lines any more.
    """

    def emit(self, record: logging.LogRecord) -> None:
        console = Console(stderr=True) if record.levelno >= logging.ERROR else get_console()
        style = "yellow" if record.levelno == logging.WARNING else None
        line = escaped(self.format(record))
        try:
            console.print(line, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)
        except SystemExit:  # of rich
            raise SystemExit(CLOSED_PIPE) from None


@contextmanager
def only_errors() -> Iterator[None]:
    """Print errors alone among log lines; log files get all."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, TerminalHandler)]
    for handler in handlers:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setLevel(logging.NOTSET)


class Rate(progress.ProgressColumn):
    """Steps per second."""

    def render(self, task: progress.Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.{0 if task.speed >= 10 else 1}f}/s")


def progress_bar() -> progress.Progress:
    """A bar with count, rate, elapsed and remaining time; nothing is shown if the output is not a terminal."""
    console, name, count = get_console(), progress.TextColumn("{task.description}"), progress.MofNCompleteColumn()
    times = progress.TimeElapsedColumn(), progress.TextColumn("left"), progress.TimeRemainingColumn()
    columns = (name, progress.BarColumn(bar_width=None), count, Rate(), *times)
    return progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def relative_to_cwd(path: Path) -> Path:
    """A path relative to the current folder, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def pasteable(path: Path) -> str:
    """A path as a shell reads it: relative to the current folder if it is below it, quoted if need be."""
    text = str(relative_to_cwd(path))
    return subprocess.list2cmdline([text]) if sys.platform == "win32" else shlex.quote(text)
