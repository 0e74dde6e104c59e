"""Checkpoints of epochs, and the plugin that writes all checkpoints atomically."""

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from artart import ArtError
from artart.checkpoints import load
from artart.checkpoints.validate import targets
from artart.config.build import Config
from artart.io.files import atomic
from artart.io.ranges import Count


class EpochCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint at the end of epochs; `{epoch}` in `filename` counts finished epochs."""

    def __init__(
        self,
        dirpath: str | Path,
        filename: str,
        every_n_epochs: Count = 1,
        save_top_k: Literal[-1] | Count = -1,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        """`save_top_k`: -1 for all, or how many: the best by `monitor`, or the newest where that is None."""
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            every_n_epochs=every_n_epochs,
            save_top_k=save_top_k,
            monitor="epoch" if monitor is None and save_top_k != -1 else monitor,
            mode="max" if monitor is None else mode,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=True,  # else epoch 10 is lost where validation is every 4 epochs
            save_on_exception=False,  # weights that led to an error must not replace good ones
        )

        self.checked: Tensor | None = None  # the score of the epoch before; it stays until the next validation

    @property
    def state_key(self) -> str:
        return f"{type(self).__name__}_{self.filename}"

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        """Count finished epochs; Lightning counts the running one from 0."""
        return super()._monitor_candidates(trainer) | {"epoch": torch.tensor(trainer.current_epoch + 1)}

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Refuse scores that are not finite, of which Lightning would keep the first, and those of earlier epochs."""
        if current is None or not current.isfinite() or current == self.checked:
            return False
        return super().check_monitor_top_k(trainer, current)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.checked = trainer.callback_metrics.get(self.monitor or "")

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"checked": self.checked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best scores of those files that are still in the folder, which may have moved."""
        if state_dict["monitor"] != self.monitor or self.monitor is None or self.save_top_k < 1:
            return
        self.checked = state_dict.get("checked")
        if self.checked is not None and not (isinstance(self.checked, Tensor) and self.checked.numel() == 1):
            raise ValueError("checked: is not a score")
        if not all(isinstance(one, Tensor) and one.numel() == 1 for one in state_dict["best_k_models"].values()):
            raise ValueError("best_k_models: are not scores by file")
        assert self.dirpath is not None
        # Lightning deletes the worst: only files with names of this callback may be among them.
        own = ".*".join(map(re.escape, re.split(r"{.*?}", self.filename or ""))) + r"\.ckpt"
        before = {Path(self.dirpath, Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        scores = {str(path): one for path, one in before.items() if path.is_file() and re.fullmatch(own, path.name)}
        if scores:
            ranked = sorted(scores, key=lambda path: scores[path].item(), reverse=self.mode == "max")[: self.save_top_k]
            self.best_k_models = {path: scores[path] for path in ranked}  # save_top_k may be smaller than before
            self.best_model_path, self.kth_best_model_path = ranked[0], ranked[-1]
            self.best_model_score, self.kth_value = scores[ranked[0]], scores[ranked[-1]]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and reads the first one back before training continues."""

    is_saving: ClassVar = False
    """While True, signals must wait: torch.save replaces an exception by one of its own."""

    def __init__(self, config: Config) -> None:
        """`config`: the settings of the run, whose classes the files may name."""
        self.trusted, self.is_read_back = [*targets(config)], False

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Load to the CPU; strategies move what they need."""
        return load.read(Path(path))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        AtomicCheckpointIO.is_saving = True
        try:
            with atomic(Path(path)) as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:
                    if isinstance(error.__context__, OSError):
                        raise error.__context__ from None  # a full disk
                    raise
                if not self.is_read_back:
                    file.flush()
                    load.load(Path(file.name), self.trusted)
                    self.is_read_back = True
        except ArtError as error:
            reason = str(error).removeprefix(f"{file.name}: ")
            raise ArtError(f"{path}: the saved file could not be read back, so training stops: {reason}") from None
        finally:
            AtomicCheckpointIO.is_saving = False
