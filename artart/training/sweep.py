"""The table of a multirun: its jobs by score; failed jobs are marked, and their tracebacks are in their logs."""

import atexit
import csv
import gc
import io
import logging
import math
import shutil
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich import get_console
from rich.table import Table

from artart import ArtError

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """A row of the table."""

    number: int
    settings: tuple[str, ...]  # as on the command line
    score: float  # NaN if it failed
    seconds: float
    status: str


class SweepTable(Callback):
    """Collects the jobs of a multirun in this process; a failed one does not stop the others."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.register(_remove_unused, Path(config.hydra.sweep.dir))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        seconds, status = round(time.monotonic() - self.started, 1), "ok"
        if job_return.status is JobStatus.FAILED:
            error = job_return._return_value
            status = f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            self._report(Path(config.hydra.sweep.dir, str(config.hydra.job.num)), error)
            # Else Hydra drops the results of the others.
            job_return.status, job_return.return_value = JobStatus.COMPLETED, math.nan
        score = math.nan if job_return.return_value is None else job_return.return_value
        self.jobs.append(Job(config.hydra.job.num, tuple(config.hydra.overrides.task), score, seconds, status))
        self._write(config)  # at once, so that Ctrl-C in a later job does not lose it
        gc.collect()  # trainer, module and callbacks form reference cycles

    def _report(self, folder: Path, error: BaseException) -> None:
        """Log the error in one line; write its traceback into the job's log, unless it is a user's mistake."""
        trace = ""
        if not isinstance(error, ArtError):
            folder.mkdir(parents=True, exist_ok=True)
            trace = f"\n  trace: {folder / 'train.log'}"
            with (folder / "train.log").open("a") as file:
                traceback.print_exception(error, file=file)
        log.error("job %s failed: %s%s", folder.name, error, trace)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        table = Table("job", "settings", config.monitor, "seconds", "status", title=str(Path(config.hydra.sweep.dir)))
        for job in self.jobs:
            shown = "" if math.isnan(job.score) else f"{job.score:.4f}"
            table.add_row(str(job.number), self._swept(job), shown, f"{job.seconds:.0f}", job.status.split(":")[0])
        get_console().print(table)
        if failed := [job for job in self.jobs if job.status != "ok"]:
            log.error("%d of %d jobs failed", len(failed), len(self.jobs))
            raise SystemExit(1)

    def _swept(self, job: Job) -> str:
        """The settings of a job in which the jobs differ."""
        common = set.intersection(*(set(job.settings) for job in self.jobs)) if len(self.jobs) > 1 else set()
        return " ".join(setting for setting in job.settings if setting not in common)

    def _write(self, config: DictConfig) -> None:
        from artart.io.files import atomic

        worst = -math.inf if config.mode == "max" else math.inf
        self.jobs.sort(key=lambda job: worst if math.isnan(job.score) else job.score, reverse=config.mode == "max")
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["job", "settings", config.monitor, "seconds", "status"])
        writer.writerows((job.number, self._swept(job), job.score, job.seconds, job.status) for job in self.jobs)
        with atomic(Path(config.hydra.sweep.dir) / "sweep.csv") as file:
            file.write(text.getvalue().encode())


def _remove_unused(folder: Path) -> None:
    """Remove the folder that Hydra creates before it checks the keys of the sweep."""
    if [path.name for path in folder.glob("*")] == ["multirun.yaml"]:
        shutil.rmtree(folder)
