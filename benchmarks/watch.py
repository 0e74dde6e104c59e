"""Audit hook and canary module for fuzz_checkpoints.py: record what a command does while it reads a file."""

import os
import pickle
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

FORBIDDEN = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "pickle.find_class"),
}
WRITING = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod"}

CANARY = """from pathlib import Path

Path(__file__).with_name("imported").touch()


def sing(*_, **__):
    Path(__file__).with_name("sang").touch()
    return dict
"""


class Watch:
    """Records audit events while a command runs."""

    def __init__(self, folder: Path, *allowed: Path) -> None:
        """Args:
        folder: folder of the canary module, importable by all.
        allowed: where files may be written.
        """
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "canary.py").write_text(CANARY)
        sys.path.append(str(folder))
        self.allowed = tuple(f"{folder}/" for folder in allowed)
        self.seen: list[str] | None = None
        sys.addaudithook(self._hook)
        self.prove()

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is None:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {str(arguments)[:200]}")
        if event in WRITING or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 3):
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                self._written(event, path)

    def _written(self, event: str, path: Any) -> None:
        if isinstance(path, (str, bytes, os.PathLike)) and path:
            place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a Path would take longer
            in_vain = event in ("os.mkdir", "open") and os.path.isdir(place)  # noqa: PTH112 - is there, or has no name
            if not f"{place}/".startswith(self.allowed) and place != "/dev/null" and not in_vain:
                assert self.seen is not None
                self.seen.append(f"{event} {place}")

    def canary(self) -> list[str]:
        """Uses of the canary since the last call."""
        sys.modules.pop("canary", None)
        marks = [mark for mark in (self.folder / "imported", self.folder / "sang") if mark.exists()]
        for mark in marks:
            mark.unlink()
        return [f"the canary was {mark.name}" if mark.name == "imported" else "the canary sang" for mark in marks]

    def prove(self) -> None:
        """Trigger every event once; AssertionError unless it is recorded."""
        self.seen = []
        instantiate({"_target_": "canary.sing"})
        os.system("true")
        subprocess.run(["true"], check=True)
        pickle.loads(pickle.dumps(Path))
        (self.folder / "stray").write_text("nowhere that is allowed")
        with suppress(OSError), socket.socket() as plug:
            plug.connect(("127.0.0.1", 1))
        seen, self.seen = " ".join(self.seen), None
        assert all(word in seen for word in ("os.system", "Popen", "find_class", "stray", "socket.connect")), seen
        assert len(self.canary()) == 2
