"""Curves on the disk: TensorBoard's and CSV's files, of which a run that goes on keeps what came before."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from artart.storage import atomic


def lengths(loggers: Sequence[Logger]) -> dict[str, int]:
    """How long each file is once all is written: folder/file, and bytes of TensorBoard's or rows of a CSV table."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()
        elif isinstance(logger, CSVLogger):
            logger.save()
    return lengths_of([logger.log_dir for logger in loggers])


def lengths_of(folders: Sequence[str | None]) -> dict[str, int]:
    """The same of the files that are in these folders."""
    paths = [path for folder in folders if folder for path in _files(Path(folder))]
    return {f"{path.parent.name}/{path.name}": _length(path) for path in paths}


def cut_back(run_dir: Path, kept: Mapping[str, int]) -> None:
    """Take away what was written after `lengths`, so that no point is doubled when its step comes again."""
    for folder in {name.partition("/")[0] for name in kept}:
        for path in _files(run_dir / folder):
            if (length := kept.get(f"{folder}/{path.name}")) is None:
                path.unlink()
            elif _length(path) <= length:
                continue
            elif path.suffix == ".csv":
                lines = path.read_bytes().splitlines(keepends=True)
                with atomic(path) as file:
                    file.writelines(lines[: length + 1])
            else:
                os.truncate(path, length)


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("events.out.tfevents.*"), *folder.glob("metrics.csv")])


def _length(path: Path) -> int:
    return len(path.read_bytes().splitlines()) - 1 if path.suffix == ".csv" else path.stat().st_size


class ContinuedCSVLogger(CSVLogger):
    """Lightning's, which goes on with a metrics.csv that is there; Lightning's own deletes it."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer; when it is made, it is given what the file held."""
        if self._experiment is None:
            path = Path(self.log_dir, "metrics.csv")
            rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []
            writer = super().experiment
            for row in rows:
                step = int(row.pop("step"))
                writer.log_metrics({name: value for name, value in row.items() if value}, step)
            if rows:
                writer.save()
        return super().experiment
