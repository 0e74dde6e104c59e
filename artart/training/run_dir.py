"""One output folder a run: found or made once, never one that belongs to another run."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from artart import ArtError
from artart.config.build import in_sweep
from artart.io.files import atomic, new_folder
from artart.io.terminal import relative_to_cwd
from artart.training.callbacks.last import PREVIOUS

log = logging.getLogger(__name__)

RUNS = Path("outputs/runs")

LAST = "last.ckpt"
LOG = "train.log"
KEYS = {"data", "image_size", "run_dir", "seed"}  # that the settings of every training and preparation have

_locks: list[TextIO] = []  # of this process's run; the system frees it however the process ends
_lines = MemoryHandler(1_000_000, flushLevel=logging.CRITICAL + 1)  # logged before there is a file for them


class Plan(NamedTuple):
    """Where a run writes and where it goes on."""

    run_dir: Path | None = None  # None: a new folder
    checkpoint: Path | None = None  # None: from the start

    def is_in_its_folder(self) -> bool:
        """Whether a run goes on where it was, and not in a new folder."""
        if self.run_dir is None or self.checkpoint is None:
            return False
        return self.checkpoint.resolve().parent.parent == self.run_dir.resolve()


def plan(cfg: DictConfig) -> Plan:
    """The folder and checkpoint that `run_dir` and `resume` name. Writes nothing but a lock.

    Log lines are kept from here on, until `enter` opens the run's log.

    Raises:
        ArtError: if a run cannot go on in the folder, if a new one would mix with what it holds, or if the run has come
            to its end.
    """
    if in_sweep() and (cfg.run_dir or cfg.get("resume")):
        raise ArtError("run_dir and resume: each job of a sweep has a new folder of its own; leave them out")
    while _locks:
        _locks.pop().close()  # of an earlier run in the same process
    _lines.buffer.clear()
    logging.getLogger().addHandler(_lines)
    with _report_disk_errors(cfg):
        planned = _find(cfg)
        goes_on_from_last = planned.checkpoint and (cfg.resume == "auto" or planned.checkpoint.name == LAST)
        if planned.run_dir and goes_on_from_last and (limit := _reached(planned.run_dir, cfg)):
            asked = cfg.trainer[limit]
            raise ArtError(
                f"trainer.{limit}={asked}: the run in {planned.run_dir} has reached its end; to go on, ask for more, "
                f"such as trainer.{limit}={2 * asked}"
            )
        if planned.run_dir and planned.is_in_its_folder():
            _take(planned.run_dir)  # before its checkpoint is read, so that nobody goes on from it meanwhile
    return planned


def _find(cfg: DictConfig) -> Plan:
    run_dir = None if cfg.run_dir is None else Path(cfg.run_dir)
    if run_dir and cfg.data.root and run_dir.resolve() == Path(cfg.data.root).resolve():
        raise ArtError(f"run_dir={run_dir}: is the folder of your images, which is only read; name another")
    resume = cfg.get("resume")  # a preparation has no such key
    if resume == "auto" and not run_dir:
        return _newest_unfinished(cfg)
    held = sorted(run_dir.glob("checkpoints/*.ckpt")) if run_dir else []
    if run_dir and resume == "auto" and held:
        with _refused(f"run_dir={run_dir}", "name the folder of a run, or a new one"):
            _check_run(run_dir)
        if not (checkpoint := _newest_in(run_dir)):
            raise ArtError(
                f"run_dir={run_dir}: holds {held[0].name} but no {LAST}; name the checkpoint to go on from: resume=FILE"
            )
        return Plan(run_dir, checkpoint)
    checkpoint = None if resume in (None, "auto") else Path(resume)
    if checkpoint and (not run_dir or run_dir.resolve() == checkpoint.resolve().parent.parent):
        checkpoint = checkpoint.resolve()
        home = checkpoint.parent.parent
        with _refused(f"resume={resume}", "name a new folder to go on in: run_dir=DIR"):
            if checkpoint.parent.name != "checkpoints":
                raise ArtError("does not lie in checkpoints/ of a run")
            _check_run(home)
        return Plan(run_dir or home, checkpoint)
    if held:
        whose, remedy = ("another", "name a new folder") if checkpoint else ("a", "name another folder")
        if resume is None and "resume" in cfg:
            remedy = f"go on with it by resume=auto, or {remedy}"
        raise ArtError(f"run_dir={run_dir}: holds {whose} run already ({held[0].name}); {remedy}")
    if run_dir:
        _check_free(run_dir, f"run_dir={run_dir}")
    return Plan(run_dir, checkpoint)


def _newest_unfinished(cfg: DictConfig) -> Plan:
    """The newest run under outputs/runs with these settings that did not reach its end. Broken ones are passed over."""
    wanted = _comparable(yaml.safe_load(OmegaConf.to_yaml(cfg)))
    saved: list[tuple[float, Path]] = []
    for run_dir in RUNS.absolute().glob("*/*"):
        with _passing_over():
            if checkpoint := _newest_in(run_dir):
                saved.append((checkpoint.stat().st_mtime, checkpoint))
    for _, checkpoint in sorted(saved, reverse=True):
        run_dir = checkpoint.parent.parent
        with _passing_over():
            if _comparable(_settings(run_dir)) != wanted or _reached(run_dir, cfg):
                continue
            _check_run(run_dir)
            if _lock(run_dir):
                return Plan(run_dir, checkpoint)
    log.info("resume=auto: no unfinished run with these settings under %s; a new one begins", RUNS)
    return Plan()


@contextmanager
def _passing_over() -> Iterator[None]:
    """A folder that cannot be used is reported of in a line."""
    try:
        yield
    except (ArtError, OSError) as error:
        log.warning("resume=auto: passed over: %s", error)


def _newest_in(run_dir: Path) -> Path | None:
    """The checkpoint that a run goes on from: last.ckpt, or the one before it; None if there is neither."""
    places = (run_dir / "checkpoints" / name for name in (LAST, PREVIOUS))
    return next((path for path in places if path.is_file()), None)


@contextmanager
def _refused(key: str, remedy: str) -> Iterator[None]:
    """A mistake that is found in a folder becomes one of the call."""
    try:
        yield
    except ArtError as error:
        raise ArtError(f"{key}: {error}; {remedy}") from None


def _check_run(run_dir: Path) -> None:
    """Raises ArtError if a folder is none that a run goes on in: not made by artart.train, or with links out of it."""
    _settings(run_dir)
    if not (run_dir / LOG).is_file():
        raise ArtError(f"{run_dir} is not the folder of a run: it has no {LOG}")
    _check_links(run_dir)


def _check_free(folder: Path, key: str) -> None:
    """Raises ArtError if a new run would mix with what a folder holds; one that saved nothing may begin again."""
    with _refused(key, "name a new folder"):
        if any(folder.glob("checkpoints/*.ckpt")) or (folder / "result.json").exists():
            raise ArtError(f"{folder} holds a run or a result already")
        if not {*folder.glob("*"), *folder.glob(".hydra/*")} <= {folder / ".hydra", folder / ".hydra" / "lock"}:
            _settings(folder)
        _check_links(folder)


def _settings(run_dir: Path) -> dict[str, Any]:
    """What artart has noted of the settings of a run or a preparation.

    Raises:
        ArtError: if there is nothing, or something else.
    """
    file = run_dir / ".hydra" / "config.yaml"
    if not file.is_file():
        raise ArtError(f"{run_dir} is not the folder of a run: it has no .hydra/config.yaml")
    try:
        content = yaml.safe_load(file.read_text())
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - a YAML parser raises anything
        raise ArtError(f"{file} cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        raise ArtError(f"{file} holds no settings of artart")
    return content


def _check_links(run_dir: Path) -> None:
    """Raises ArtError if something might be written outside of the folder."""
    inside = os.path.realpath(run_dir)
    for path in run_dir.rglob("*"):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
            raise ArtError(f"{path} is a link that leads out of the run's folder")


def _lock(run_dir: Path) -> bool:
    """Reserve a folder for this process; False if another one has it. What lies there under its name is left as it is.

    Raises:
        OSError: if it cannot be written, or is a link.
    """
    place = run_dir / ".hydra" / "lock"
    file = os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _locks.append(file)
    return True


def _take(run_dir: Path) -> None:
    """Lock a folder, unless that is done; ArtError if another process has it."""
    if not _locks and not _lock(run_dir):
        raise ArtError(f"run_dir={run_dir}: another process is writing there; wait for it, or name another folder")


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("resume", "run_dir")}


def _reached(run_dir: Path, cfg: DictConfig) -> str | None:
    """The limit of the trainer that a run has come to: max_epochs or max_steps; None while there is more to do.

    Raises:
        ArtError: if its result.json is not what artart writes.
    """
    file = run_dir / "result.json"
    if not file.exists():
        return None
    try:
        result = json.loads(file.read_text() if file.is_file() else "")
        done = {"max_steps": result["steps"], "max_epochs": result["epochs"]}
        return next((limit for limit, number in done.items() if 0 <= cfg.trainer[limit] <= number), None)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtError(f"{file} is not the result of a run; move it away") from None


def claim_run_dir(cfg: DictConfig, planned: Plan) -> Path:
    """Take the run's folder: make it if it is new, and lock it. Nothing else is written. Sets cfg.run_dir.

    Raises:
        ArtError: if it cannot be written, or another process is writing there, or has written there since `plan`.
    """
    with _report_disk_errors(cfg):
        run_dir = planned.run_dir or _new_folder()
        (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
        _take(run_dir)
        if not planned.is_in_its_folder():
            _check_free(run_dir, f"run_dir={run_dir}")  # again: another run may have begun and ended meanwhile
    cfg.run_dir = str(run_dir)
    if planned.checkpoint:
        log.info("resume: going on from %s", relative_to_cwd(planned.checkpoint))
    return run_dir


@contextmanager
def _report_disk_errors(cfg: DictConfig) -> Iterator[None]:
    """An error of the disk becomes one line with the remedy."""
    try:
        yield
    except OSError as error:
        folder = error.filename or cfg.run_dir or RUNS
        raise ArtError(
            f"run_dir={cfg.run_dir or 'null'}: {folder}: {error.strerror}; name another folder: run_dir=DIR"
        ) from None


def note(cfg: DictConfig) -> None:
    """Write the settings and what was set on the command line into cfg.run_dir, unless they stand there.

    Raises:
        OSError: if they cannot be written.
    """
    texts = {"config.yaml": OmegaConf.to_yaml(cfg), "overrides.yaml": OmegaConf.to_yaml(overrides())}
    for name, text in texts.items():
        path = Path(cfg.run_dir, ".hydra", name)
        if not path.is_file() or path.read_bytes() != text.encode():
            with atomic(path) as file:
                file.write(text.encode())


def enter(cfg: DictConfig, log_name: str = LOG) -> None:
    """Send the log into cfg.run_dir, and what has been logged since `plan`.

    Raises:
        ArtError: if it cannot be written.
    """
    with _report_disk_errors(cfg):
        handler = logging.FileHandler(Path(cfg.run_dir, log_name), encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().removeHandler(_lines)
    for record in _lines.buffer:
        handler.handle(record)
    _lines.buffer.clear()
    logging.getLogger().addHandler(handler)


def overrides() -> list[str]:
    """What was set on the command line, key=value."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _new_folder() -> Path:
    """In a sweep <sweep.dir>/<job number>, else outputs/runs/<date>/<time>, made here and by nobody else."""
    if in_sweep():
        hydra = HydraConfig.get()
        folder = Path(hydra.sweep.dir, str(hydra.job.num)).absolute()
        _check_free(folder, f"hydra.sweep.dir={hydra.sweep.dir}")
        return folder
    return new_folder(RUNS.absolute() / f"{datetime.now():%Y-%m-%d/%H-%M-%S}")
