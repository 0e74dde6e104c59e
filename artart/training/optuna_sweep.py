"""A sweep by trials, whose settings Optuna draws; it can be interrupted, continued, and worked on by several processes.

Whatever ends a process, each trial is in one of three states: ended in the study; running, with a lock that a process
holds; or running without a lock, which the next free process takes up where its run has saved a checkpoint.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState
from pydantic import Field
from rich import get_console
from rich.table import Table
from rich.text import Text

from artart import ArtError
from artart.config.space import Parameter
from artart.io.ranges import Count, Seed
from artart.io.terminal import pasteable
from artart.training.sweep import JOBS, Job, failure, print_table, save_job

log = logging.getLogger(__name__)

MAX_STARTS = 3  # of a trial whose process was killed each time
PRUNED = "pruned"  # status of a job, and attribute of its trial

ShouldPrune = Callable[[float, int], bool]  # of a finite value of `monitor` and the number of finished epochs
Train = Callable[[list[str], Path, ShouldPrune], object]


@dataclass
class OptunaSweep:
    """The settings of a sweep by Optuna's TPE sampler and median pruner; conf/sweep/optuna.yaml says what they mean."""

    num_trials: Count = 20
    seed: Seed = 0
    num_processes: Count = 1
    dir: str | None = None
    pruning: bool = True
    num_startup_trials: Annotated[int, Field(ge=0)] = 5
    space: Mapping[str, Any] = field(default_factory=dict)


class Study:
    """The trials of a sweep, in its folder."""

    def __init__(
        self, sweep: OptunaSweep, space: list[Parameter], words: Sequence[str], monitor: str, mode: str, folder: Path
    ) -> None:
        """`space` is drawn from; `words` are the other settings, key=value."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sweep, self.space, self.words, self.folder = sweep, space, words, folder
        self.monitor, self.mode = monitor, mode  # max or min
        (folder / JOBS).mkdir(parents=True, exist_ok=True)
        # The system releases these locks however a process ends, which those of Optuna outlive.
        lock: Any = FileLock(folder / JOBS / "journal.lock")
        startup = sweep.num_startup_trials
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOBS / "journal"), lock)),
            study_name="sweep",
            direction="maximize" if mode == "max" else "minimize",
            pruner=optuna.pruners.MedianPruner(startup) if sweep.pruning else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )

    @property
    def num_ended(self) -> int:
        return sum(one.state.is_finished() for one in self.study.get_trials(deepcopy=False))

    def run(self, train: Train) -> None:
        """Run trials until there are none left to begin.

        `train` is given the settings of a run, its folder, where it leaves result.json, and `should_prune` of
        `Pruning`. An exception of it is the end of that trial alone.
        """
        while taken := self._take():
            trial, drawn, lock = taken
            try:
                self._run(trial, drawn, train)
            finally:
                lock.release()

    def _take(self) -> tuple[Trial, list[str], FileLock] | None:
        """A trial that a killed process has left, or a new one, with its drawn settings; None: there are enough."""
        with FileLock(self.folder / JOBS / "take.lock"):
            trials = self.study.get_trials(deepcopy=False)
            left = [one.number for one in trials if not one.state.is_finished()]
            for number in [*left, *range(len(trials), self.sweep.num_trials)[:1]]:
                lock = FileLock(self.folder / JOBS / f"{number}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                if number < len(trials) and self.study.get_trials(deepcopy=False)[number].state.is_finished():
                    lock.release()  # another process has ended it since
                    continue
                # A function of seed, number and the trials before it, so a continued sweep is the uninterrupted one.
                (seed,) = np.random.SeedSequence((self.sweep.seed, number)).generate_state(1)
                self.study.sampler = optuna.samplers.TPESampler(seed=int(seed))
                is_new = number == len(trials)
                trial = self.study.ask() if is_new else Trial(self.study, trials[number]._trial_id)
                return trial, [_draw(trial, one) for one in self.space], lock
        return None

    def _run(self, trial: Trial, drawn: Sequence[str], train: Train) -> None:
        started, folder = time.monotonic(), self.folder / str(trial.number)
        starts = trial.user_attrs.get("starts", 0)
        trial.set_user_attr("starts", starts + 1)
        score, trace, state = math.nan, "", TrialState.FAIL
        try:
            if starts >= MAX_STARTS:
                raise ArtError(f"its process was killed {starts} times")
            if not (folder / "result.json").exists():
                train([*self.words, *drawn], folder, lambda *of: self._should_prune(trial, *of))
            score = self._score(folder)
            status, state = self._outcome(trial, score)
        except Exception as error:  # noqa: BLE001 - of training, which must not end the others
            status, trace = failure(error, folder)
            if isinstance(error, FloatingPointError):  # a NaN in the loss, which later draws avoid
                state = TrialState.PRUNED
        except BaseException:  # Ctrl-C and SIGTERM
            trial.set_user_attr("starts", starts)
            raise
        settings = (*self.words, *drawn)
        job = Job(trial.number, settings, score, round(time.monotonic() - started, 1), status)
        save_job(self.folder, job, self.monitor, self.mode)
        trial.set_user_attr("seconds", job.seconds)
        self.study.tell(trial, score if status == "ok" else None, state)
        self._report(job, drawn, trace)

    def _score(self, folder: Path) -> float:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        score = float(result["best"].get(self.monitor, math.nan))
        return score if math.isfinite(score) else math.nan

    def _outcome(self, trial: Trial, score: float) -> tuple[str, TrialState]:
        """Status and state of a trial whose training ended. TPE ignores FAIL; PRUNED without a value is the worst."""
        if trial.user_attrs.get(PRUNED):
            return PRUNED, TrialState.PRUNED
        if math.isnan(score):
            return f"failed: {self.monitor} has no finite value", TrialState.PRUNED
        return "ok", TrialState.COMPLETE

    def _should_prune(self, trial: Trial, value: float, epoch: int) -> bool:
        if epoch not in self.study.get_trials(deepcopy=False)[trial.number].intermediate_values:  # before it was killed
            trial.report(value, epoch)
        if is_pruned := trial.should_prune():
            trial.set_user_attr(PRUNED, True)
        return is_pruned

    def _report(self, job: Job, drawn: Sequence[str], trace: str) -> None:
        """A line for a trial that has ended."""
        trials = self.study.get_trials(deepcopy=False)
        seconds = [one.user_attrs["seconds"] for one in trials if "seconds" in one.user_attrs]
        ended, number = self.num_ended, max(self.sweep.num_trials, len(trials))
        left = timedelta(seconds=round(fmean(seconds) * (number - ended) / self.sweep.num_processes))
        score = "" if math.isnan(job.score) else f"  {self.monitor} {job.score:.4f}"
        place = f"trial {job.number} ({ended} of {number})"
        log.log(
            logging.ERROR if job.status.startswith("failed") else logging.INFO,
            f"{place}  {' '.join(drawn)}{score}  {job.status}  {job.seconds:.0f} s  {left} left{trace}",
        )

    def report(self) -> Path | None:
        """Print the trials by score and the importance of their parameters; return the best one's folder."""
        jobs = print_table(self.folder, self.monitor, self.mode)
        if importances := self._importances():
            table = Table("parameter", "importance")
            for key, share in importances.items():
                table.add_row(Text(key), f"{share:.0%}")
            get_console().print(table)
        if failed := [job for job in jobs if job.status.startswith("failed")]:
            log.warning("%d of %d trials failed; sweep.csv says why", len(failed), len(jobs))
        if self.num_ended < self.sweep.num_trials:
            log.warning("to continue: python -m artart.sweep sweep.dir=%s", pasteable(self.folder))
        return next((self.folder / str(job.number) for job in jobs if job.status == "ok"), None)

    def _importances(self) -> dict[str, float]:
        """The share of each parameter in the variance of the scores, the largest first; empty if trials are too few.

        PED-ANOVA, Watanabe et al. 2023, https://arxiv.org/abs/2304.10255.
        """
        complete = [one for one in self.study.get_trials(deepcopy=False) if one.state == TrialState.COMPLETE]
        return optuna.importance.get_param_importances(self.study) if len(complete) > 3 else {}


def _draw(trial: Trial, parameter: Parameter) -> str:
    """A setting of the trial, key=value; numbers have four digits, so that they can be read."""
    key, choices, low, high, is_log, step, is_int = parameter
    if choices:
        return parameter.word(str(trial.suggest_categorical(key, choices)))
    if is_int:
        return parameter.word(trial.suggest_int(key, int(low), int(high), step=int(step or 1), log=is_log))
    value = trial.suggest_float(key, low, high, step=step, log=is_log)
    return parameter.word(min(max(float(f"{value:.4g}"), low), high))
