import logging
import sys
from pathlib import Path

import pytest

from artart.io import terminal
from artart.io.terminal import CLOSED_PIPE, TerminalHandler, escaped, pasteable, printable


def test_escaped_shows_what_would_move_the_cursor():
    assert escaped("a\x1b[2J\u202eb\tc\n") == "a\\x1b[2J\\u202eb\tc\n"
    assert printable("a\nb\x1b[31m\u200b") == "a b\\x1b[31m\\u200b"


def test_pasteable_is_quoted_for_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pasteable(tmp_path / "my run" / "a.ckpt") == "'my run/a.ckpt'"
    assert pasteable(tmp_path / "run") == "run"
    assert pasteable(Path("/it's")) == "'/it'\"'\"'s'"


def test_pasteable_is_quoted_for_a_shell_of_windows(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert pasteable(Path("/my run/it's.ckpt")) == '"/my run/it\'s.ckpt"'
    assert pasteable(Path("/run")) == "/run"


def test_a_closed_pipe_has_an_exit_code_of_its_own(monkeypatch):
    class Closed:
        def print(self, *_, **__):
            raise SystemExit(1)  # as rich does

    monkeypatch.setattr(terminal, "get_console", Closed)
    with pytest.raises(SystemExit) as stop:
        TerminalHandler().emit(logging.makeLogRecord({"msg": "line", "levelno": logging.INFO}))
    assert stop.value.code == CLOSED_PIPE
