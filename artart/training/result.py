"""The end of a run: result.json, TensorBoard's HPARAMS, and what to do next."""

import logging
import math
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
import torchvision
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from artart import __version__
from artart.config.build import Config, as_dict, build, fill_in, in_sweep, is_command, select_or_none
from artart.config.cli import compose_config
from artart.config.paths import BEST, LAST, checkpoint_in
from artart.io import files, weights
from artart.io.terminal import pasteable, printable, relative_to_cwd
from artart.training.cost import in_words, measure
from artart.training.module import ArtModule
from artart.training.trainer import device_of

log = logging.getLogger(__name__)

HPARAMS = ("data.batch_size", "image_size", "optimizer.lr", "seed", "trainer.max_epochs")
TRY = {"reconstruct": "input=FILE_OR_FOLDER side_by_side=true", "sample": "num_images=16 save_trajectory=true"}
THOUSAND = 1000  # images, where the number is unknown


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
        """Write result.json and HPARAMS, and log what to do next, once for all processes."""
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
        """Log the files and the next commands."""
        place = f"{module.stage}: " if module.stage else ""
        score = "not measured" if math.isnan(result.best_score) else f"{result.best_score:.4g}"
        log.info("%sdone in %.0f s, best %s %s", place, time.monotonic() - self.started, self.config["monitor"], score)
        if grids := sorted((self.run_dir / "samples").glob("epoch_????.png")):
            log.info("  grid        %s", relative_to_cwd(grids[-1]))
        if result.checkpoint:
            log.info("  checkpoint  %s", relative_to_cwd(result.checkpoint))
        log.info("  log folder  %s", relative_to_cwd(self.run_dir))
        log.info("try next")
        python = "python" if shutil.which("python") == sys.executable else pasteable(Path(sys.executable))
        for command, note in next_commands(self.config, module, result.checkpoint):
            log.info("  %s -m %s%s", python, command, note and f"   # {note}")


def next_commands(config: Config, module: ArtModule, checkpoint: Path | None) -> Iterator[tuple[str, str]]:
    """Modules with their arguments, as a shell reads them, and a note on each."""
    if checkpoint:
        yield f"artart.generate checkpoint={pasteable(checkpoint)} {TRY[module.objective.mode]}", ""
        if config["data"].get("val_fraction") != 0:
            yield f"artart.evaluate checkpoint={pasteable(checkpoint)}", ""
    yield from _trainings(config, module)
    logs = pasteable(Path(config["run_dir"]))
    yield f"tensorboard.main --logdir {logs} --samples_per_plugin images=1000", "curves and grids"


def _trainings(config: Config, module: ArtModule) -> Iterator[tuple[str, str]]:
    """Trainings that lead from demo art to one's own, and from an autoencoder to images out of noise."""
    root, can_sample, device = config["data"]["root"], module.objective.mode == "sample", device_of(config)
    experiment = "diffusion" if device.type == "cuda" else "diffusion_cpu"
    own = f"artart.train experiment={experiment} data.root="
    if root is None:
        if not can_sample:
            quick = "quickstart_diffusion"
            yield f"artart.train experiment={quick}", f"images out of noise{_time(quick, None, device)}"
        yield f"{own}FOLDER_OF_YOUR_ART", f"your art{_time(experiment, THOUSAND, device)} for 1,000 images"
    elif not can_sample:
        num_images = len(module.trainer.datamodule.train_ids)  # type: ignore[attr-defined]
        yield f"{own}{pasteable(Path(root))}", f"images out of noise{_time(experiment, num_images, device)}"


def _time(experiment: str, num_images: int | None, device: torch.device) -> str:
    """How long an experiment trains here, from a few of its steps; "" in a call from Python."""
    if not is_command():
        return ""
    cfg = compose_config("train", [f"experiment={experiment}"])
    config = as_dict(cfg)
    objective = build(config, "objective", loss=build(config, "loss"))
    fill_in(cfg.model, {"num_classes": 0, **objective.network}, {})
    config = as_dict(cfg)
    net: nn.Module = build(config, "model")
    images = config["trainer"]["max_epochs"] * (num_images or config["data"]["num_demo_images"])
    return f", {in_words(images * measure(net, objective, config['data']['batch_size'], device).seconds)} here"
