"""The output folder of a run: found or created once, never that of another run."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout
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
KEYS = {"data", "image_size", "run_dir", "seed"}  # in the settings of every training and preparation

_locks: list[FileLock] = []  # of the run of this process; the system releases it however the process ends
_early = MemoryHandler(1_000_000, flushLevel=logging.CRITICAL + 1)  # log lines from before the log file is open
_handlers: list[logging.Handler] = []  # the log file of the run of this process


class Plan(NamedTuple):
    """Where a run writes and what it resumes."""

    run_dir: Path | None = None  # None: a new folder
    checkpoint: Path | None = None  # None: from the start

    @property
    def is_in_place(self) -> bool:
        """Whether the run is resumed in its own folder."""
        if self.run_dir is None or self.checkpoint is None:
            return False
        return self.checkpoint.resolve().parent.parent == self.run_dir.resolve()


def plan(cfg: DictConfig) -> Plan:
    """The folder and the checkpoint that `run_dir` and `resume` name. Writes nothing but a lock.

    Log lines are kept from here on until `open_log` opens the run's log.

    Raises:
        ArtError: if a run cannot resume in the folder, a new one would mix with its content, or the run has finished.
    """
    if in_sweep() and (cfg.run_dir or cfg.get("resume")):
        raise ArtError("run_dir and resume: each job of a sweep has its own new folder; leave them out")
    while _locks:
        _locks.pop().release()  # of an earlier run in the same process
    _early.buffer.clear()
    logging.getLogger().addHandler(_early)
    with _disk_errors(cfg):
        planned = _find(cfg)
        resumes_last = planned.checkpoint and (cfg.resume == "auto" or planned.checkpoint.name == LAST)
        if planned.run_dir and resumes_last and (limit := _reached(planned.run_dir, cfg)):
            raise ArtError(
                f"trainer.{limit}={cfg.trainer[limit]}: the run in {planned.run_dir} has finished; to continue it, "
                f"raise the limit, such as trainer.{limit}={2 * cfg.trainer[limit]}"
            )
        if planned.run_dir and planned.is_in_place:
            _take(planned.run_dir)  # before its checkpoint is read, so that no other process resumes it meanwhile
    return planned


def _find(cfg: DictConfig) -> Plan:
    run_dir = None if cfg.run_dir is None else Path(cfg.run_dir)
    resume = cfg.get("resume")  # prepare has no such key
    if run_dir and cfg.data.root and run_dir.resolve() == Path(cfg.data.root).resolve():
        raise ArtError(f"run_dir={run_dir}: is the folder of your images, which is only read; name another")
    if resume == "auto" and not run_dir:
        return _newest_unfinished(cfg)
    held = sorted(run_dir.glob("checkpoints/*.ckpt")) if run_dir else []
    if run_dir and resume == "auto" and held:
        with _prefixed(f"run_dir={run_dir}", "name the folder of a run, or a new one"):
            _check_run(run_dir)
        if checkpoint := _newest_in(run_dir):
            return Plan(run_dir, checkpoint)
        raise ArtError(f"run_dir={run_dir}: holds {held[0].name} but no {LAST}; name a checkpoint: resume=FILE")
    checkpoint = None if resume in (None, "auto") else Path(resume)
    if checkpoint and (not run_dir or run_dir.resolve() == checkpoint.resolve().parent.parent):
        checkpoint = checkpoint.resolve()
        with _prefixed(f"resume={resume}", "name a new folder to resume in: run_dir=DIR"):
            if checkpoint.parent.name != "checkpoints":
                raise ArtError("does not lie in checkpoints/ of a run")
            _check_run(checkpoint.parent.parent)
        return Plan(run_dir or checkpoint.parent.parent, checkpoint)
    if held:
        whose, remedy = ("another", "name a new folder") if checkpoint else ("a", "name another folder")
        if resume is None and "resume" in cfg:
            remedy = f"resume it by resume=auto, or {remedy}"
        raise ArtError(f"run_dir={run_dir}: holds {whose} run already ({held[0].name}); {remedy}")
    if run_dir:
        _check_free(run_dir, f"run_dir={run_dir}")
    return Plan(run_dir, checkpoint)


def _newest_unfinished(cfg: DictConfig) -> Plan:
    """The newest run under outputs/runs with these settings that has not finished; damaged ones are skipped."""
    wanted = _comparable(yaml.safe_load(OmegaConf.to_yaml(cfg)))
    saved: list[tuple[float, Path]] = []
    for run_dir in RUNS.absolute().glob("*/*"):
        with _skipped():
            if checkpoint := _newest_in(run_dir):
                saved.append((checkpoint.stat().st_mtime, checkpoint))
    for _, checkpoint in sorted(saved, reverse=True):
        run_dir = checkpoint.parent.parent
        with _skipped():
            if _comparable(_settings(run_dir)) != wanted or _reached(run_dir, cfg):
                continue
            _check_run(run_dir)
            if _lock(run_dir):
                return Plan(run_dir, checkpoint)
    log.info("resume=auto: no unfinished run with these settings under %s; a new one begins", RUNS)
    return Plan()


@contextmanager
def _skipped() -> Iterator[None]:
    """A folder that cannot be used is reported in one line."""
    try:
        yield
    except (ArtError, OSError) as error:
        log.warning("resume=auto: skipped: %s", error)


def _newest_in(run_dir: Path) -> Path | None:
    """The checkpoint that a run resumes: last.ckpt, or the one before it; None if there is neither."""
    places = (run_dir / "checkpoints" / name for name in (LAST, PREVIOUS))
    return next((path for path in places if path.is_file()), None)


@contextmanager
def _prefixed(key: str, remedy: str) -> Iterator[None]:
    """Put key and remedy around an error about a folder."""
    try:
        yield
    except ArtError as error:
        raise ArtError(f"{key}: {error}; {remedy}") from None


def _check_run(run_dir: Path) -> None:
    """Raises ArtError if artart.train did not make the folder, or if it holds links out of it."""
    _settings(run_dir)
    if not (run_dir / LOG).is_file():
        raise ArtError(f"{run_dir} is not the folder of a run: it has no {LOG}")
    _check_links(run_dir)


def _check_free(folder: Path, key: str) -> None:
    """Raises ArtError if a new run would mix with what a folder holds; one that saved nothing can begin again."""
    with _prefixed(key, "name a new folder"):
        if any(folder.glob("checkpoints/*.ckpt")) or (folder / "result.json").exists():
            raise ArtError(f"{folder} holds a run or a result already")
        if not {*folder.glob("*"), *folder.glob(".hydra/*")} <= {folder / ".hydra", folder / ".hydra" / "lock"}:
            _settings(folder)
        _check_links(folder)


def _settings(run_dir: Path) -> dict[str, Any]:
    """The settings that artart saved in the folder of a run or a preparation.

    Raises:
        ArtError: if there are none, or something else.
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
    """Reserve a folder for this process; False if another one has it.

    Raises:
        OSError: if the lock cannot be written, or is a link.
    """
    # It empties no file and follows no link; a soft lock would outlive a process that is killed.
    lock = FileLock(run_dir / ".hydra" / "lock", timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        return False
    _locks.append(lock)
    return True


def _take(run_dir: Path) -> None:
    """Lock a folder, unless that is done; ArtError if another process has it."""
    if not _locks and not _lock(run_dir):
        raise ArtError(f"run_dir={run_dir}: another process is writing there; wait for it, or name another folder")


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ("resume", "run_dir")}


def _reached(run_dir: Path, cfg: DictConfig) -> str | None:
    """The limit of the trainer that a run has come to: max_epochs or max_steps; None if it has not finished.

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
    """Create the run's folder if it is new, and lock it. Nothing else is written.

    Raises:
        ArtError: if it cannot be written, or another process is writing there, or has written there since `plan`.
    """
    with _disk_errors(cfg):
        run_dir = planned.run_dir or _new_folder()
        (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
        _take(run_dir)
        if not planned.is_in_place:
            _check_free(run_dir, f"run_dir={run_dir}")  # again: another run may have begun and ended meanwhile
    log.info("run folder: %s", relative_to_cwd(run_dir))
    if planned.checkpoint:
        log.info("resume: from %s", relative_to_cwd(planned.checkpoint))
    return run_dir


def _new_folder() -> Path:
    """In a sweep <sweep.dir>/<job number>, else outputs/runs/<date>/<time>, created here and by no other process."""
    if in_sweep():
        hydra = HydraConfig.get()
        folder = Path(hydra.sweep.dir, str(hydra.job.num)).absolute()
        _check_free(folder, f"hydra.sweep.dir={hydra.sweep.dir}")
        return folder
    return new_folder(RUNS.absolute() / f"{datetime.now():%Y-%m-%d/%H-%M-%S}")


@contextmanager
def _disk_errors(cfg: DictConfig) -> Iterator[None]:
    """An error of the disk becomes one line with the remedy."""
    try:
        yield
    except OSError as error:
        folder = error.filename or cfg.run_dir or RUNS
        raise ArtError(
            f"run_dir={cfg.run_dir or 'null'}: {folder}: {error.strerror}; name another folder: run_dir=DIR"
        ) from None


def save_settings(cfg: DictConfig, words: Sequence[str]) -> None:
    """Write the settings, and the `words` of the command line, into cfg.run_dir, unless they are there.

    Raises:
        OSError: if they cannot be written.
    """
    texts = {"config.yaml": OmegaConf.to_yaml(cfg), "overrides.yaml": OmegaConf.to_yaml(list(words))}
    for name, text in texts.items():
        path = Path(cfg.run_dir, ".hydra", name)
        if not path.is_file() or path.read_bytes() != text.encode():
            with atomic(path) as file:
                file.write(text.encode())


def open_log(cfg: DictConfig, log_name: str = LOG) -> None:
    """Send log lines to a file in cfg.run_dir, those since `plan` first.

    Raises:
        ArtError: if it cannot be written.
    """
    with _disk_errors(cfg):
        handler = logging.FileHandler(Path(cfg.run_dir, log_name), encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.removeHandler(_early)
    while _handlers:
        root.removeHandler(_handlers.pop())  # of an earlier run in the same process
    for record in _early.buffer:
        handler.handle(record)
    _early.buffer.clear()
    root.addHandler(handler)
    _handlers.append(handler)
