"""Curves and files in the folder of a run, put back to the step that it resumes from."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger

from artart import ArtError
from artart.checkpoints.load import read
from artart.config.paths import LAST
from artart.io.terminal import relative_to_cwd
from artart.training.loggers import cut_back, files
from artart.training.resume import ResumeState
from artart.training.run_files import set_aside

log = logging.getLogger(__name__)


def prepare_run_dir(run_dir: Path, before: ResumeState | None, loggers: Sequence[Logger]) -> None:
    """Set aside files of later steps, and cut curves back to the step of the checkpoint.

    After a crash nothing is set aside: training repeats the steps after last.ckpt. Where no run is resumed, curves in
    the folder are of a run that left no checkpoint.
    """
    for part in run_dir.glob("checkpoints/.*.ckpt.*.part"):  # of a process that was killed while it saved
        part.unlink()
    curves = files(loggers, run_dir)
    if before is None or before.path.resolve().parent.parent != run_dir.resolve():
        if curves:
            aside = set_aside(run_dir, curves)
            log.info("curves of a run without a checkpoint are set aside in %s", relative_to_cwd(aside))
        return
    if before.path.name != LAST and (later := _later(run_dir, before)):
        aside = set_aside(run_dir, later, copied=curves)
        log.info("resume: files of later steps than %d are set aside in %s", before.step, relative_to_cwd(aside))
    cut_back(loggers, run_dir, before.curves)


def _later(run_dir: Path, before: ResumeState) -> list[Path]:
    """Checkpoints of later steps, and if there are any, the grids of later epochs and the result."""
    others = [path for path in run_dir.glob("checkpoints/*.ckpt") if path != before.path and _step(path) > before.step]
    grids = [path for path in run_dir.glob("samples/epoch_*.png") if _epoch(path) > before.epochs]
    return [*others, *grids, *run_dir.glob("result.json")] if others else []


def _step(path: Path) -> int:
    """The step of a checkpoint; of one that cannot be read, a late one."""
    try:
        return read(path)["global_step"]
    except ArtError:
        return 2**63


def _epoch(path: Path) -> int:
    number = path.stem.split("_")[1]
    return int(number) if number.isdecimal() else 0
