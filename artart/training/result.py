"""The end of a run: result.json, TensorBoard's HPARAMS, and what to do next."""

import logging
import math
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from artart import __version__
from artart.config.build import select_or_none
from artart.io import files, weights
from artart.io.terminal import relative_to_cwd
from artart.training.module import ArtModule

log = logging.getLogger(__name__)

HPARAMS = ("data.batch_size", "image_size", "optimizer.lr", "seed", "trainer.max_epochs")

TRY = {"reconstruct": "input=FILE_OR_FOLDER side_by_side=true", "sample": "num_images=16 save_trajectory=true"}


class Result:
    """What a run came to; made before the training starts, so that it can say how long that took."""

    def __init__(
        self,
        run_dir: Path,
        config: Mapping[str, Any],
        overrides: Sequence[str],
        filters: Mapping[str, str],
        resumed_at_step: int | None,
    ) -> None:
        """
        Args:
            run_dir: the run's folder.
            config: the plain configuration.
            overrides: what was set on the command line, key=value.
            filters: what the loss's terms loaded, in words.
            resumed_at_step: the step at which the run went on; None for a fresh one.
        """
        self.run_dir = run_dir
        self.config = config
        self.overrides = overrides
        self.filters = filters
        self.resumed_at_step = resumed_at_step
        self.started = time.monotonic()

    def write(self, trainer: Trainer, module: ArtModule) -> float:
        """Write result.json and HPARAMS, once; return the best score (NaN where nothing measured it)."""
        best = self._best(trainer)
        if trainer.is_global_zero:
            content = self._content(trainer, module, best)
            files.write_json(self.run_dir / "result.json", content)
            self._hparams(trainer, content)
        return best.get(self.config["monitor"], math.nan)

    def _best(self, trainer: Trainer) -> dict[str, float]:
        """The best score and its epoch, from the checkpoint callback that watches it; without one, the last score."""
        for callback in trainer.checkpoint_callbacks:
            if (
                isinstance(callback, ModelCheckpoint)
                and callback.monitor == self.config["monitor"]
                and callback.best_model_path
            ):
                assert callback.best_model_score is not None
                epoch = weights.load(Path(callback.best_model_path))["epoch"] + 1
                return {self.config["monitor"]: callback.best_model_score.item(), "epoch": epoch}
        value = trainer.callback_metrics.get(self.config["monitor"])
        return (
            {}
            if value is None or not value.isfinite()
            else {self.config["monitor"]: value.item(), "epoch": trainer.current_epoch}
        )

    def _content(self, trainer: Trainer, module: ArtModule, best: Mapping[str, float]) -> dict[str, Any]:
        return {
            "status": "finished",
            "best": best,
            "last": {name: value.item() for name, value in trainer.callback_metrics.items() if value.isfinite()},
            "epochs": trainer.current_epoch,
            "max_epochs": self.config["trainer"]["max_epochs"],
            "steps": trainer.global_step,
            "images_seen": module.images_seen,
            "seconds": round(time.monotonic() - self.started, 1),
            "resumed_at_step": self.resumed_at_step,
            "perceptual_weights": self.filters.get("perceptual"),
            "num_parameters": sum(parameter.numel() for parameter in module.net.parameters()),
            "device": str(trainer.strategy.root_device),
            "num_processes": trainer.world_size,
            "precision": trainer.precision,
            "versions": {
                "artart": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "lightning": lightning.__version__,
            },
        }

    def _hparams(self, trainer: Trainer, content: Mapping[str, Any]) -> None:
        """TensorBoard's table: what people compare runs by, and whatever was set for this run, beside the scores."""
        settings = {key: select_or_none(self.config, key) for key in HPARAMS}
        settings |= dict(self._overridden())
        settings |= {f"loss.{term}.weights used": origin for term, origin in self.filters.items()}
        metrics = {f"best/{name}": value for name, value in content["best"].items()}
        metrics |= {f"last/{name}": value for name, value in content["last"].items() if name.startswith("val/")}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(settings, metrics, trainer.global_step)
                logger.finalize("success")  # the training's end has closed it; this opened it again

    def _overridden(self) -> Iterator[tuple[str, Any]]:
        for override in self.overrides:
            key, _, text = override.lstrip("+~").partition("=")
            if key not in ("run_dir", "resume"):
                value = select_or_none(self.config, key)
                yield key, value if isinstance(value, (bool, int, float, str)) else text

    def say(self, best: float, mode: str) -> None:
        """Name what came out and what to do next; `mode` is what artart.generate does with the network."""
        checkpoints = self.run_dir / "checkpoints"
        checkpoint = next((path for name in ("best.ckpt", "last.ckpt") if (path := checkpoints / name).is_file()), None)
        grids = sorted((self.run_dir / "samples").glob("epoch_????.png"))
        score = "not measured" if math.isnan(best) else f"{best:.4g}"
        lines = [f"done in {time.monotonic() - self.started:.0f} s, best {self.config['monitor']} {score}"]
        lines += [f"  grid        {relative_to_cwd(grids[-1])}"] if grids else []
        lines += [f"  checkpoint  {relative_to_cwd(checkpoint)}"] if checkpoint else []
        lines += [f"  log folder  {relative_to_cwd(self.run_dir)}", "try next"]
        python = "python" if shutil.which("python") == sys.executable else relative_to_cwd(Path(sys.executable))
        if checkpoint:
            lines += [f"  {python} -m artart.generate checkpoint={relative_to_cwd(checkpoint)} {TRY[mode]}"]
            if self.config["data"].get("val_fraction") != 0:
                lines += [f"  {python} -m artart.evaluate checkpoint={relative_to_cwd(checkpoint)}"]
        lines += [f"  {python} -m artart.train data.root=FOLDER_OF_YOUR_ART"]
        lines += [
            f"  {python} -m tensorboard.main --logdir {relative_to_cwd(self.run_dir)} --samples_per_plugin images=1000"
        ]
        for line in lines:
            log.info(line)
