"""The result of a run: result.json, TensorBoard's HPARAMS, and what there is to see."""

import logging
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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

if TYPE_CHECKING:
    from artart.training.run import Run

log = logging.getLogger(__name__)

HPARAMS = ("data.batch_size", "image_size", "optimizer.lr", "seed", "trainer.max_epochs")


class TrainingResult(NamedTuple):
    """What a run produced."""

    run_dir: Path
    best_score: float  # of `monitor`; NaN if it was never computed
    checkpoint: Path | None  # best.ckpt, else last.ckpt


def report(run: "Run", trainer: Trainer, module: ArtModule, seconds: float) -> TrainingResult:
    """Write result.json and HPARAMS, once for all processes; log what there is to see.

    `seconds` is how long training took.
    """
    run_dir, monitor = Path(module.config["run_dir"]), module.config["monitor"]
    best = _best(trainer, module, monitor)
    if trainer.is_global_zero:
        content = _content(run, trainer, module, best, seconds)
        files.write_json(run_dir / "result.json", content)
        _write_hparams(run, trainer, module.config, content)
    result = TrainingResult(run_dir, best.get(monitor, math.nan), checkpoint_in(run_dir, (BEST, LAST)))
    if not in_sweep() and not run.is_part:
        place = f"{run.stage}: " if run.stage else ""
        log.info("%sdone in %.0f s, best %s %s", place, seconds, monitor, in_words(result.best_score))
        if grids := sorted((run_dir / "samples").glob("epoch_????.png")):
            log.info("  grid        %s", relative_to_cwd(grids[-1]))
        if result.checkpoint:
            log.info("  checkpoint  %s", relative_to_cwd(result.checkpoint))
        log.info("  log folder  %s", relative_to_cwd(run_dir))
    return result


def in_words(score: float) -> str:
    return "not measured" if math.isnan(score) else f"{score:.4g}"


def _best(trainer: Trainer, module: ArtModule, monitor: str) -> dict[str, float]:
    """The best score and its epoch, from the checkpoint callback that monitors it; without one, the last score."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor == monitor and callback.best_model_path:
            assert callback.best_model_score is not None
            epoch = weights.load(Path(callback.best_model_path))["epoch"] + 1
            return {monitor: callback.best_model_score.item(), "epoch": epoch}
    value = module.metrics.get(monitor, math.nan)
    return {monitor: value, "epoch": trainer.current_epoch} if math.isfinite(value) else {}


def _content(
    run: "Run", trainer: Trainer, module: ArtModule, best: Mapping[str, float], seconds: float
) -> dict[str, Any]:
    return {
        "status": "finished",
        "best": best,
        "last": {name: value for name, value in module.metrics.items() if math.isfinite(value)},
        "epochs": trainer.current_epoch,
        "max_epochs": module.config["trainer"]["max_epochs"],
        "steps": trainer.global_step,
        "images_seen": module.images_seen,
        "seconds": round(seconds, 1),
        "resumed_at_step": run.state and run.state.step,
        "perceptual_weights": run.pretrained.get("perceptual"),
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


def _write_hparams(run: "Run", trainer: Trainer, config: Config, content: Mapping[str, Any]) -> None:
    """Write TensorBoard's table of settings and scores, to compare runs by."""
    settings = {key: select_or_none(config, key) for key in HPARAMS}
    for word in run.words:
        key, _, text = word.lstrip("+~").partition("=")
        if key not in ("run_dir", "resume"):
            value = select_or_none(config, key)
            settings[key] = value if isinstance(value, (bool, int, float, str)) else text
    settings = {key: printable(value) if isinstance(value, str) else value for key, value in settings.items()}
    settings |= {f"loss.{term}.weights used": origin for term, origin in run.pretrained.items()}
    metrics = {f"best/{name}": value for name, value in content["best"].items()}
    metrics |= {f"last/{name}": value for name, value in content["last"].items() if name.startswith("val/")}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings, metrics, trainer.global_step)
            logger.finalize("success")  # again: log_hyperparams has opened the file that the end of training closed
