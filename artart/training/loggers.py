"""What loggers are given, and the files of those of TensorBoard and CSV, which a resumed run continues."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from artart import ArtError
from artart.config.build import Config, flat_keys, select_or_none
from artart.io.files import atomic
from artart.io.terminal import printable

TABLE = "metrics.csv"


def log_grid(loggers: Sequence[Logger], tag: str, image: Tensor, path: Path, step: int) -> None:
    """Give a grid (3, H, W) to those loggers that show images; W&B and MLflow copy its file, with its provenance."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, image, step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, [str(path)], step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path), tag)


def log_settings(loggers: Sequence[Logger], config: Config) -> None:
    """Give all settings, by dotted key, to CSV, W&B and MLflow; TensorBoard has a table of few (`result`)."""
    values = {key: value for key in flat_keys(config) if not isinstance(value := select_or_none(config, key), Mapping)}
    settings = {key: printable(value) if isinstance(value, str) else value for key, value in values.items()}
    for logger in loggers:
        if isinstance(logger, CSVLogger | WandbLogger | MLFlowLogger):
            logger.log_hyperparams(settings)


def lengths(loggers: Sequence[Logger], run_dir: Path) -> dict[str, int]:
    """The length of each file below run_dir, once it is written: bytes of TensorBoard's, rows of a CSV table."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()
        elif isinstance(logger, CSVLogger):
            logger.save()
    tables = [Path(logger.log_dir, TABLE) for logger in loggers if isinstance(logger, CSVLogger)]
    paths = {*files(loggers, run_dir), *(table for table in tables if table.is_relative_to(run_dir))}
    return {str(path.relative_to(run_dir)): _length(path) for path in sorted(paths)}


def files(loggers: Sequence[Logger], run_dir: Path) -> list[Path]:
    """The files that the loggers have written in run_dir; no links."""
    found = set[Path]()
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            found |= {*Path(logger.log_dir).glob("events.out.tfevents.*")}
        elif isinstance(logger, CSVLogger):
            found |= {*Path(logger.log_dir).glob(TABLE)}
    inside = run_dir.resolve()
    return sorted(
        path for path in found if path.is_relative_to(run_dir) and path.resolve() == inside / path.relative_to(run_dir)
    )


def cut_back(loggers: Sequence[Logger], run_dir: Path, kept: Mapping[str, int]) -> None:
    """Cut files back to the lengths that `lengths` returned, so that a repeated step has one point."""
    folders = {(run_dir / name).parent for name in kept}
    for path in files(loggers, run_dir):
        if path.parent not in folders:
            continue
        if (length := kept.get(str(path.relative_to(run_dir)))) is None:
            path.unlink()
        elif _length(path) > length:
            content = path.read_bytes()
            if path.name == TABLE:
                length = sum(map(len, content.splitlines(keepends=True)[: length + 1]))
            with atomic(path) as file:  # a new file, since the old one may have other hard links
                file.write(content[:length])


def _length(path: Path) -> int:
    if path.name != TABLE:
        return path.stat().st_size
    return len(path.read_bytes().splitlines()) - 1 if path.is_file() else 0


class ContinuedCSVLogger(CSVLogger):
    """A CSVLogger that continues an existing metrics.csv, which Lightning's own deletes."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, which appends to the file. Raises ArtError if a run did not write that."""
        path = Path(self.log_dir, TABLE)
        if self._experiment is None and path.is_file() and (content := path.read_bytes()):
            (header,) = csv.reader([content.decode(errors="replace").splitlines()[0]])
            if "step" not in header:
                raise ArtError(f"{path}: is not a table of a run; move it away")
            super().experiment.metrics_keys = header
            path.write_bytes(content)
        return super().experiment
