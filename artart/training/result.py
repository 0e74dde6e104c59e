"""The result of a run: result.json, TensorBoard's HPARAMS, and what there is to see."""

import logging
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
import torchvision
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from artart import __version__
from artart.config.build import Config, in_sweep, select_or_none
from artart.config.paths import BEST, LAST, checkpoint_in
from artart.io import files, weights
from artart.io.terminal import printable, relative_to_cwd
from artart.training.module import ArtModule

log = logging.getLogger(__name__)

HPARAMS = ("data.batch_size", "image_size", "optimizer.lr", "seed", "trainer.max_epochs")


class TrainingResult(NamedTuple):
    """What a run produced."""

    run_dir: Path
    best_score: float  # of `monitor`; NaN if it was never computed
    checkpoint: Path | None  # best.ckpt, else last.ckpt


@dataclass
class Result:
    """Collects what a run produced; created before training starts, since it measures the time."""

    config: Config
    words: Sequence[str]  # set on the command line, key=value
    pretrained: Mapping[str, str]  # the origin of pretrained weights, by loss term or metric
    resumed_at_step: int | None  # None: not resumed
    within: Path | None = None  # the folder of the run that this one is a part of

    def __post_init__(self) -> None:
        self.run_dir = Path(self.config["run_dir"])
        self.started = time.monotonic()

    def write(self, trainer: Trainer, module: ArtModule) -> TrainingResult:
        """Write result.json and HPARAMS, once for all processes; log what there is to see."""
        best = self._best(trainer, module)
        if trainer.is_global_zero:
            content = self._content(trainer, module, best)
            files.write_json(self.run_dir / "result.json", content)
            self._write_hparams(trainer, content)
        checkpoint = checkpoint_in(self.run_dir, (BEST, LAST))
        result = TrainingResult(self.run_dir, best.get(self.config["monitor"], math.nan), checkpoint)
        if not in_sweep() and not self.within:
            self._log(result, module)
        return result

    def _best(self, trainer: Trainer, module: ArtModule) -> dict[str, float]:
        """The best score and its epoch, from the checkpoint callback that monitors it; without one, the last score."""
        monitor = self.config["monitor"]
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor == monitor and callback.best_model_path:
                assert callback.best_model_score is not None
                epoch = weights.load(Path(callback.best_model_path))["epoch"] + 1
                return {monitor: callback.best_model_score.item(), "epoch": epoch}
        value = module.metrics.get(monitor, math.nan)
        return {monitor: value, "epoch": trainer.current_epoch} if math.isfinite(value) else {}

    def _content(self, trainer: Trainer, module: ArtModule, best: Mapping[str, float]) -> dict[str, Any]:
        return {
            "status": "finished",
            "best": best,
            "last": {name: value for name, value in module.metrics.items() if math.isfinite(value)},
            "epochs": trainer.current_epoch,
            "max_epochs": self.config["trainer"]["max_epochs"],
            "steps": trainer.global_step,
            "images_seen": module.images_seen,
            "seconds": round(time.monotonic() - self.started, 1),
            "resumed_at_step": self.resumed_at_step,
            "perceptual_weights": self.pretrained.get("perceptual"),
            "num_parameters": sum(parameter.numel() for parameter in module.net.parameters()),
            "device": str(trainer.strategy.root_device),
            "num_processes": trainer.world_size,
            "precision": trainer.precision,
            "versions": {
                "artart": __version__,
                "python": platform.python_version(),
                **{library.__name__: library.__version__ for library in (torch, torchvision, lightning)},
            },
        }

    def _write_hparams(self, trainer: Trainer, content: Mapping[str, Any]) -> None:
        """Write TensorBoard's table of settings and scores, to compare runs by."""
        settings = {key: select_or_none(self.config, key) for key in HPARAMS}
        for word in self.words:
            key, _, text = word.lstrip("+~").partition("=")
            if key not in ("run_dir", "resume"):
                value = select_or_none(self.config, key)
                settings[key] = value if isinstance(value, (bool, int, float, str)) else text
        settings = {key: printable(value) if isinstance(value, str) else value for key, value in settings.items()}
        settings |= {f"loss.{term}.weights used": origin for term, origin in self.pretrained.items()}
        metrics = {f"best/{name}": value for name, value in content["best"].items()}
        metrics |= {f"last/{name}": value for name, value in content["last"].items() if name.startswith("val/")}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(settings, metrics, trainer.global_step)
                logger.finalize("success")  # again: log_hyperparams has opened the file that the end of training closed

    def _log(self, result: TrainingResult, module: ArtModule) -> None:
        """Log the best score and the files."""
        place = f"{module.stage}: " if module.stage else ""
        score = "not measured" if math.isnan(result.best_score) else f"{result.best_score:.4g}"
        log.info("%sdone in %.0f s, best %s %s", place, time.monotonic() - self.started, self.config["monitor"], score)
        if grids := sorted((self.run_dir / "samples").glob("epoch_????.png")):
            log.info("  grid        %s", relative_to_cwd(grids[-1]))
        if result.checkpoint:
            log.info("  checkpoint  %s", relative_to_cwd(result.checkpoint))
        log.info("  log folder  %s", relative_to_cwd(self.run_dir))
