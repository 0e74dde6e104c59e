"""The table of a multirun: its jobs by score; failed jobs are marked, and their tracebacks are in their logs."""

import atexit
import gc
import json
import logging
import math
import shutil
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich import get_console
from rich.table import Table
from rich.text import Text

from artart import ArtError
from artart.io.files import as_csv, atomic, write_json
from artart.io.terminal import escaped, first_line
from artart.training.run_files import set_aside

JOBS = ".jobs"  # a folder in that of the sweep, with a file for each job
TABLE = "sweep.csv"

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """A row of the table."""

    number: int
    settings: tuple[str, ...]  # as on the command line
    score: float  # NaN if it failed
    seconds: float
    status: str


class SweepTable(Callback):
    """Collects the jobs of a multirun; a failed one does not stop the others.

    Each job leaves a file, since launchers such as joblib run jobs in processes of their own.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if earlier := [folder / name for name in (JOBS, TABLE) if (folder / name).exists()]:
            aside = set_aside(folder, earlier)
            log.warning("hydra.sweep.dir=%s: the table of an earlier sweep is set aside in %s", folder, aside.name)
        atexit.register(_remove_unused, folder)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        seconds, status = round(time.monotonic() - self.started, 1), "ok"
        if job_return.status is JobStatus.FAILED:
            error = job_return._return_value
            status, trace = failure(error, Path(config.hydra.sweep.dir, str(config.hydra.job.num)))
            log.error("job %d failed: %s%s", config.hydra.job.num, error, trace)
            # Else Hydra drops the results of the others.
            job_return.status, job_return.return_value = JobStatus.COMPLETED, math.nan
        score = math.nan if job_return.return_value is None else job_return.return_value
        job = Job(config.hydra.job.num, tuple(config.hydra.overrides.task), score, seconds, status)
        # At once, so that Ctrl-C in a later job does not lose it.
        save_job(Path(config.hydra.sweep.dir), job, config.monitor, config.mode)
        gc.collect()  # trainer, module and callbacks form reference cycles

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        jobs = print_table(Path(config.hydra.sweep.dir), config.monitor, config.mode)
        if failed := [job for job in jobs if job.status != "ok"]:
            log.error("%d of %d jobs failed", len(failed), len(jobs))
            raise SystemExit(1)


def failure(error: BaseException, folder: Path) -> tuple[str, str]:
    """The status of a job that failed, and words that name its log, which gets the traceback; "" for a mistake."""
    status = f"failed: {first_line(error)}"
    if isinstance(error, ArtError):
        return status, ""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.log").open("a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    return status, f"\n  trace: {folder / 'train.log'}"


def save_job(folder: Path, job: Job, monitor: str, mode: str) -> None:
    """Write a job that has ended, and sweep.csv with it, into the folder of the sweep."""
    write_json(folder / JOBS / f"{job.number}.json", job)
    _write(folder, monitor, mode)


def print_table(folder: Path, monitor: str, mode: str) -> list[Job]:
    """Print the jobs of a sweep that have ended; return them, the best first."""
    jobs = _write(folder, monitor, mode)
    table = Table("job", "settings", monitor, "seconds", "status", title=str(folder))
    for job in jobs:
        shown = "" if math.isnan(job.score) else f"{job.score:.4f}"
        cells = (str(job.number), _swept(job, jobs), shown, f"{job.seconds:.0f}", job.status.split(":")[0])
        table.add_row(*(Text(escaped(cell)) for cell in cells))
    get_console().print(table)
    return jobs


def _swept(job: Job, jobs: Sequence[Job]) -> str:
    """The settings of a job in which the jobs differ."""
    common = set.intersection(*(set(one.settings) for one in jobs)) if len(jobs) > 1 else set()
    return " ".join(setting for setting in job.settings if setting not in common)


def _write(folder: Path, monitor: str, mode: str) -> list[Job]:
    """Write sweep.csv of the jobs that have ended; return them, the best first."""
    worst = -math.inf if mode == "max" else math.inf
    fields = (json.loads(file.read_text(encoding="utf-8")) for file in (folder / JOBS).glob("*.json"))
    jobs = [Job(number, tuple(settings), *rest) for number, settings, *rest in fields]
    jobs.sort(key=lambda job: job.number)
    jobs.sort(key=lambda job: worst if math.isnan(job.score) else job.score, reverse=mode == "max")
    rows = ((job.number, _swept(job, jobs), job.score, job.seconds, job.status) for job in jobs)
    with atomic(folder / TABLE) as file:
        file.write(as_csv(["job", "settings", monitor, "seconds", "status"], rows))
    return jobs


def _remove_unused(folder: Path) -> None:
    """Remove the folder that Hydra creates before it checks the keys of the sweep."""
    if [path.name for path in folder.glob("*")] == ["multirun.yaml"]:
        shutil.rmtree(folder)
