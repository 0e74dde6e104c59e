"""The folder of a sweep by trials: the settings that it was begun with, and the processes that work in it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from artart import ArtError
from artart.io.files import dated, is_writable, new_folder, write_json
from artart.io.terminal import pasteable

SWEEPS = Path("outputs/sweeps")
SETTINGS = "sweep.json"
OF_THE_CALL = ("_target_", "dir", "space", "num_processes")  # keys of `sweep` that settings of a sweep do not hold
WORKER = "ARTART_SWEEP_WORKER"  # set in the environment of processes that work for another, which reports


class Begun(NamedTuple):
    """What a sweep was begun with."""

    words: Sequence[str]  # settings that its trials share, key=value
    space: Mapping[str, Any]  # `sweep.space`
    settings: Mapping[str, Any] = {}  # of `sweep`: the number of trials and how they are drawn and pruned


def choose(folder: str | None, words: Sequence[str], sweep: Mapping[str, Any]) -> tuple[Begun, bool]:
    """What a new sweep is to begin with, or what the one in the folder was begun with, and whether there is one.

    Where a sweep is continued, its settings that are not on the command line are those of before.

    Args:
        folder: `sweep.dir`.
        words: what was set on the command line, key=value.
        sweep: the section `sweep`; its space may be empty, like the words, where a sweep is continued.

    Raises ArtError if the folder is of something else or of other settings, or cannot be written.
    """
    own = [word for word in words if not re.match(r"[+~]*(sweep[.=@]|hydra\.searchpath=)", word)]
    search_path = [word for word in words if word.startswith("hydra.searchpath=")]
    for word in [word for word in own if re.match(r"[+~]*(run_dir|resume)=", word)]:
        raise ArtError(f"{word}: each trial has a folder of its own; that of the sweep is sweep.dir=DIR")
    settings = {key: value for key, value in sweep.items() if key not in OF_THE_CALL}
    given, place = Begun([*search_path, *own], json.loads(json.dumps(sweep["space"])), settings), Path(folder or SWEEPS)
    if not is_writable(place):
        raise ArtError(f"sweep.dir={folder or 'null'}: cannot be written; name another folder: sweep.dir=DIR")
    if folder is None or not place.exists():
        return given, False
    if not (place / SETTINGS).is_file():
        if place.is_dir() and not any(place.iterdir()):
            return given, False
        raise ArtError(f"sweep.dir={folder}: is no folder of artart.sweep; name a new one")
    begun = Begun(**json.loads((place / SETTINGS).read_text(encoding="utf-8")))
    if (own and given.words != begun.words) or (given.space or begun.space) != begun.space:
        raise ArtError(
            f"sweep.dir={folder}: was begun with other settings ({pasteable(place / SETTINGS)}); leave out all but "
            "those of sweep, or name a new folder"
        )
    named = {word.lstrip("+").partition("=")[0] for word in words}
    before = {key: value for key, value in begun.settings.items() if f"sweep.{key}" not in named}
    return begun._replace(settings={**settings, **before}), True


def claim(folder: str | None, begun: Begun) -> Path:
    """Create the folder of a sweep unless it exists, and write what it was begun with."""
    place = Path(folder) if folder else new_folder(dated(SWEEPS.name).absolute())
    write_json(place / SETTINGS, begun._asdict())
    return place


def run_workers(number: int, folder: Path) -> bool:
    """Run the command of this process in so many others, which share the cores; whether none of them was killed.

    If this process is stopped, they stop after their current step.
    """
    threads = str(max(1, (os.cpu_count() or 1) // number))
    environment = {"OMP_NUM_THREADS": threads} | os.environ | {WORKER: "1", "TTY_COMPATIBLE": "0"}  # without bars
    command = [sys.executable, "-m", "artart.sweep", *sys.argv[1:], f"sweep.dir={folder}"]
    workers = [subprocess.Popen(command, env=environment) for _ in range(number)]  # noqa: S603 - this command
    try:
        codes = [worker.wait() for worker in workers]
        return not any(codes)
    finally:
        for worker in workers:  # at once: soon after Ctrl-C, which reaches them too, it is no second signal to them
            worker.terminate()
        for worker in workers:
            worker.wait()
