"""The output folder of a run: found or created once, never that of another run."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from artart import ArtError
from artart.config.build import in_multirun
from artart.config.paths import CHECKPOINTS, FIRST_STAGE, LAST, RUNS, checkpoint_in, read_settings
from artart.io.files import dated, is_writable, new_folder
from artart.io.locks import unless_missing
from artart.io.terminal import relative_to_cwd
from artart.training import run_files
from artart.training.run_files import disk_errors

log = logging.getLogger(__name__)

PATHS = {"resume": None, "run_dir": None}  # settings in which two commands for the same run may differ


_locks: list[FileLock] = []  # of the run of this process; the system releases it however the process ends


class Plan(NamedTuple):
    """Where a run writes and what it resumes."""

    run_dir: Path | None = None  # None: a new folder
    checkpoint: Path | None = None  # None: from the start

    @property
    def is_in_place(self) -> bool:
        """Whether the run is resumed in its own folder."""
        its_run = self.checkpoint and self.checkpoint.resolve().parent.parent
        return self.run_dir is not None and its_run == self.run_dir.resolve()


def plan(cfg: DictConfig, is_part: bool = False) -> Plan:
    """The folder and the checkpoint that `run_dir` and `resume` name. Writes nothing but a lock.

    `is_part`: whether it is the first stage of another run of this process, which stays locked.

    Raises ArtError if a run cannot resume in the folder, a new one would mix with its content, or the run has finished.
    """
    if in_multirun() and (cfg.run_dir or cfg.get("resume")):
        raise ArtError("run_dir and resume: each job of a sweep has its own folder in hydra.sweep.dir; leave them out")
    if not is_part:
        while _locks:
            _locks.pop().release()  # of an earlier run in the same process
    with disk_errors(cfg):
        planned = _find(cfg)
        run_dir, checkpoint = planned
        if run_dir and checkpoint and planned.is_in_place:
            resumes_last = cfg.resume == "auto" or checkpoint.name == LAST
            if resumes_last and (reached := run_files.reached_limit(run_dir, cfg)):
                limit, number = reached
                raise ArtError(
                    f"trainer.{limit}={cfg.trainer[limit]}: the run in {run_dir} has finished; to continue it, "
                    f"raise the limit, such as trainer.{limit}={2 * number or 1}"
                )
        if run_dir and (planned.is_in_place or newest_in(run_dir / FIRST_STAGE)):
            _lock(run_dir)  # before its checkpoint is read, so that no other process resumes it meanwhile
        elif not in_multirun() and not is_writable(run_dir or RUNS.absolute()):
            raise ArtError(f"run_dir={cfg.run_dir or 'null'}: cannot be written; name another folder: run_dir=DIR")
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
            run_files.check_run(run_dir)
        if checkpoint := newest_in(run_dir):
            return Plan(run_dir, checkpoint)
        raise ArtError(f"run_dir={run_dir}: holds {held[0].name} but no {LAST}; name a checkpoint: resume=FILE")
    planned = Plan(run_dir, None if resume in (None, "auto") else Path(resume))
    if planned.checkpoint and (not run_dir or planned.is_in_place):
        checkpoint = planned.checkpoint.resolve()
        with _prefixed(f"resume={resume}", "name a new folder to resume in: run_dir=DIR"):
            if checkpoint.parent.name != "checkpoints":
                raise ArtError("does not lie in checkpoints/ of a run")
            run_files.check_run(checkpoint.parent.parent)
        return Plan(run_dir or checkpoint.parent.parent, checkpoint)
    if run_dir and resume != "auto":
        held = held or sorted((run_dir / FIRST_STAGE).glob("checkpoints/*.ckpt"))
    if held:
        whose, remedy = ("another", "name a new folder") if resume else ("a", "name another folder")
        if resume is None and "resume" in cfg:
            remedy = f"resume it by resume=auto, or {remedy}"
        raise ArtError(f"run_dir={run_dir}: holds {whose} run already ({held[0].name}); {remedy}")
    if run_dir:
        with _prefixed(f"run_dir={run_dir}", "name a new folder"):
            run_files.check_free(run_dir)
    return planned


def _newest_unfinished(cfg: DictConfig) -> Plan:
    """The newest run under outputs/runs with these settings that has not finished; others are skipped."""
    wanted = yaml.safe_load(OmegaConf.to_yaml(cfg)) | PATHS
    for run_dir in sorted(RUNS.absolute().glob("*/*"), key=_saved_at, reverse=True):
        try:
            checkpoint = newest_in(run_dir)
            if (
                (checkpoint or newest_in(run_dir / FIRST_STAGE))
                and read_settings(run_dir) | PATHS == wanted
                and not run_files.reached_limit(run_dir, cfg)
            ):
                run_files.check_run(run_dir)
                _lock(run_dir)
                return Plan(run_dir, checkpoint)
        except (ArtError, OSError) as error:  # damaged, or another process resumes it
            log.warning("resume=auto: skipped: %s", error)
    log.info("resume=auto: no unfinished run with these settings under %s; a new one begins", RUNS)
    return Plan()


def _saved_at(run_dir: Path) -> float:
    """When the newest checkpoint of a run was written; 0 if there is none, infinity if it cannot be read."""
    try:
        checkpoint = newest_in(run_dir) or newest_in(run_dir / FIRST_STAGE)
        return checkpoint.stat().st_mtime if checkpoint else 0
    except OSError:
        return math.inf


def newest_in(run_dir: Path) -> Path | None:
    """The checkpoint that a run resumes: last.ckpt, or the one before it; None if there is neither."""
    return checkpoint_in(run_dir, CHECKPOINTS["resume"])


@contextmanager
def _prefixed(key: str, remedy: str) -> Iterator[None]:
    """Put key and remedy around an error about a folder."""
    try:
        yield
    except ArtError as error:
        raise ArtError(f"{key}: {error}; {remedy}") from None


def _lock(run_dir: Path) -> None:
    """Reserve a folder for this process, unless that is done.

    Raises ArtError if another process has it. Raises OSError if the lock cannot be written, or is a link; a file system
    without locks is a warning.
    """
    place = run_dir / ".hydra" / "lock"
    if str(place) in [lock.lock_file for lock in _locks]:
        return
    # It empties no file and follows no link; a soft lock would outlive a process that is killed.
    lock = FileLock(place, timeout=0, fallback_to_soft=False)
    try:
        with unless_missing(run_dir):
            lock.acquire()
    except Timeout:
        raise ArtError(
            f"run_dir={run_dir}: another process is writing there; wait for it, or name another folder"
        ) from None
    _locks.append(lock)


def claim_run_dir(cfg: DictConfig, planned: Plan) -> Path:
    """Create the run's folder if it is new, and lock it. Nothing else is written.

    A new folder is <sweep.dir>/<job number> in a sweep, else outputs/runs/<date>/<time>.

    Raises ArtError if it cannot be written, or another process is writing there, or has written there since `plan`.
    """
    with disk_errors(cfg):
        if in_multirun():
            hydra = HydraConfig.get()
            run_dir = Path(hydra.sweep.dir, str(hydra.job.num)).absolute()
            with _prefixed(f"hydra.sweep.dir={hydra.sweep.dir}", "name a new folder"):
                run_files.check_free(run_dir)
        else:
            run_dir = planned.run_dir or new_folder(dated(RUNS.name).absolute())
        (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
        _lock(run_dir)
        if not planned.is_in_place:
            with _prefixed(f"run_dir={run_dir}", "name a new folder"):
                run_files.check_free(run_dir)  # again: another run may have begun and ended meanwhile
    log.info("run folder: %s", relative_to_cwd(run_dir))
    return run_dir
