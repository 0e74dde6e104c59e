"""What the folders of runs hold: settings, result, curves and grids, of unfinished and failed runs too."""

import csv
import json
import logging
import math
import os
import re
import shlex
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout

from artart import ArtError
from artart.config.build import flat_keys, select_or_none
from artart.config.paths import FIRST_STAGE, SET_ASIDE, load_yaml, read_settings
from artart.io.files import sha256
from artart.io.terminal import pasteable, relative_to_cwd

log = logging.getLogger(__name__)

JOBS = ".jobs"  # of a sweep: a file for each job that has ended
KIDS = ("samples/kid_alexnet", "samples/kid_no_memorization")  # that training logs

Curve = list[tuple[float, float]]  # step and value


class Run(NamedTuple):
    """A run, as far as its folder tells."""

    folder: Path
    status: str  # finished, pruned, running, unfinished, failed: ..., unreadable: ...
    settings: Mapping[str, Any]  # by dotted key; none of a job without a folder, or if they cannot be read
    words: Sequence[str]  # of its command line
    result: Mapping[str, Any]  # of result.json
    evaluation: Mapping[str, Any] = {}  # metrics.json of evaluations of its checkpoints
    name: str = ""  # unique among the runs that are compared

    @property
    def monitor(self) -> str:
        return str(self.settings.get("monitor", ""))

    @property
    def sign(self) -> int:
        """-1 if the greatest score is the best."""
        return -1 if self.settings.get("mode") == "max" else 1

    @property
    def kids(self) -> dict[str, float]:
        """The KIDs of its samples by metric, those of an evaluation first; KIDs of reconstructions are others."""
        found = {} if "psnr" in self.evaluation else self.evaluation
        judged = {key: one["value"] for key, one in found.items() if key.startswith("kid_")}
        logged = {**self.result.get("best", {}), **self.result.get("last", {})}
        return judged | {key: logged[key] for key in KIDS if key in logged}

    @property
    def has_memorized(self) -> bool:
        """By an evaluation, else by the last test in training; result.json leaves out the infinite KID of copies.

        The best checkpoint by that KID holds no copies, whatever the last one does.
        """
        judged, last = self.evaluation.get("memorization", {}), self.result.get("last", {})
        by_training = KIDS[0] in last and not math.isfinite(last.get(KIDS[1], math.inf))
        return bool(judged.get("has_memorized", by_training and self.monitor != KIDS[1]))

    @property
    def score(self) -> float:
        """The best value of `monitor`, of a run that has not finished so far; NaN if there is none."""
        value = self.result.get("best", {}).get(self.monitor)
        return float(value) if isinstance(value, int | float) else math.nan

    @property
    def command(self) -> str:
        """The command that repeats the run."""
        kept = [word for word in self.words if not word.startswith(("run_dir=", "resume="))]
        plain = (re.sub(r"^([^=]+=)'([^']*)'$", r"\1\2", word) for word in kept)  # artart quotes paths itself
        return " ".join(["python -m artart.train", *map(shlex.quote, plain)])

    def curves(self) -> dict[str, Curve]:
        """Logged values by name, of TensorBoard's files or else of metrics.csv."""
        found = defaultdict[str, Curve](list)
        events, tables = (_files(self.folder, pattern) for pattern in ("events.out.tfevents.*", "metrics.csv"))
        values = [value for file in events for value in _scalars(file)]
        for name, step, value in values or (value for file in tables for value in _cells(file)):
            found[name].append((step, value))
        return dict(found)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in folders: of runs, of sweeps, or with runs below them; evaluations among them belong to the runs.

    Raises ArtError if there is none.
    """
    found, evaluations = dict[Path, Run](), dict[Path, Mapping[str, Any]]()
    for folder in folders:
        if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises for a long name
            raise ArtError(f"runs: {folder} is no folder; name folders of runs or sweeps")
        read = {file.parent: _read_json(file, dict) for file in sorted(folder.rglob("metrics.json"))}
        evaluations |= {place: one for place, one in read.items() if "checkpoint_sha256" in one}
        for settings in _files(folder, ".hydra/config.yaml"):
            run = settings.parent.parent
            if not (run / "prepare.log").exists():
                found[run] = read_run(run)
        found |= {run.folder: run for run in _failed_jobs(folder) if run.folder not in found}
    if not found:
        raise ArtError(f"runs: there is no run in {', '.join(map(str, folders))}; name folders of runs or sweeps")
    runs = [*_evaluated([run if run.result else _so_far(run) for run in found.values()], evaluations)]
    return [run._replace(name=name) for run, name in zip(runs, names_of(runs), strict=True)]


def read_run(folder: Path) -> Run:
    """The run in a folder; what cannot be read is left out and named in its status."""
    try:
        config = read_settings(folder)
    except (ArtError, OSError) as error:
        return Run(folder, f"unreadable: {error}", {}, (), {})
    values = ((key, select_or_none(config, key)) for key in flat_keys(config))
    settings = {key: value for key, value in values if not isinstance(value, Mapping)}
    words = list[str]()
    with suppress(OSError, ValueError, TypeError, yaml.YAMLError):
        found = load_yaml((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
        words = [str(word) for word in found or []]
    result = _read_json(folder / "result.json", dict)
    result = {key: one for key, one in result.items() if key not in ("best", "last") or isinstance(one, dict)}
    ended = _job(folder.parent / JOBS / f"{folder.name}.json")[1]
    if result and ended == "ok":
        status = "finished"
    else:
        status = "running" if _is_locked(folder) else "unfinished" if ended == "ok" else ended
    return Run(folder, status, settings, words, result)


def _read_json(path: Path, kind: type) -> Any:
    """Plain data of a kind, dict or list; an empty one if there is no such file, half of one, or another kind."""
    with suppress(OSError, ValueError, RecursionError):
        if isinstance(content := json.loads(path.read_text(encoding="utf-8")), kind):
            return content
    return kind()


def _job(file: Path) -> tuple[list[str], str]:
    """Words and status of a job of a sweep; "ok" if it has not ended, or the file is damaged."""
    match _read_json(file, list):
        case [_, [*words], _, _, str(status)]:
            return [*map(str, words)], status
    return [], "ok"


def _is_locked(folder: Path) -> bool:
    """Whether another process is writing there."""
    place = folder / ".hydra" / "lock"
    with suppress(OSError, NotImplementedError):
        try:
            if place.is_file():
                with FileLock(place, timeout=0, fallback_to_soft=False):
                    return False
        except Timeout:
            return True
    return False


def _failed_jobs(folder: Path) -> Iterator[Run]:
    """The jobs of sweeps that failed before they had a folder."""
    for file in _files(folder, f"{JOBS}/*.json"):
        words, status = _job(file)
        if status != "ok":
            yield Run(file.parent.parent / file.stem, status, {}, words, {})


def _files(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder, job 2 before job 10, without those of a run's first stage and those that were set aside."""

    def is_part(place: Path) -> bool:
        of_run = place.name == FIRST_STAGE and (place.parent / ".hydra").is_dir()
        return place != folder and (of_run or place.name.startswith(SET_ASIDE))

    found = (file for file in folder.rglob(pattern) if not any(map(is_part, file.parents)))
    return sorted(found, key=_by_number)


def _by_number(path: Path) -> list[str | int]:
    """A key that sorts job 2 before job 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def _so_far(run: Run) -> Run:
    """A run that has not finished, with the best value of `monitor` and the last values of all that it has logged."""
    logged = run.curves()
    values = [value for _, value in logged.get(run.monitor, ()) if math.isfinite(value)]
    best = {run.monitor: min(values, key=lambda value: run.sign * value)} if values else {}
    return run._replace(result={"best": best, "last": {name: curve[-1][1] for name, curve in logged.items()}})


def _evaluated(runs: Sequence[Run], evaluations: Mapping[Path, Mapping[str, Any]]) -> Iterator[Run]:
    """The runs with the evaluations of their checkpoints, of which later ones count; a warning names all others."""
    hash_of, used = cache(sha256), set[Path]()
    for run in runs:
        own = dict[str, Any]()
        for place, one in evaluations.items():
            file = run.folder / "checkpoints" / str(one.get("checkpoint"))
            with suppress(OSError):
                if file.is_file() and hash_of(file) == one["checkpoint_sha256"]:
                    own |= one
                    used.add(place)
        yield run._replace(evaluation=own)
    if others := ", ".join(pasteable(relative_to_cwd(place)) for place in evaluations if place not in used):
        log.warning("no run here has the checkpoint of these evaluations: %s", others)


def _scalars(file: Path) -> Iterator[tuple[str, float, float]]:
    """Name, step and value of the numbers in a file of TensorBoard, up to where it is cut off."""
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

    with suppress(Exception):  # of a line that is being written
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    yield value.tag, event.step, value.simple_value
                elif value.HasField("tensor") and len(value.tensor.float_val) == 1:
                    yield value.tag, event.step, value.tensor.float_val[0]


def _cells(file: Path) -> Iterator[tuple[str, float, float]]:
    """The same of a table of the CSV logger."""
    with suppress(OSError, ValueError, KeyError, TypeError, csv.Error):
        for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
            step = float(row.pop("step"))
            yield from ((name, step, float(value)) for name, value in row.items() if value)


def names_of(runs: Sequence[Run]) -> list[str]:
    """Short names: the folders from where they part."""
    parts = [run.folder.resolve().parts for run in runs]
    shared = next((k for k, same in enumerate(zip(*parts, strict=False)) if len(set(same)) > 1), len(parts[0]) - 1)
    return ["/".join(own[shared:]) or pasteable(run.folder) for run, own in zip(runs, parts, strict=True)]
