"""Checkpoints: Lightning's, written atomically, named after finished epochs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from artart import ArtError
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
        """
        Args:
            dirpath: the folder.
            filename: without suffix; may hold `{epoch:04d}`.
            every_n_epochs: epochs from one checkpoint to the next.
            save_top_k: -1 for all, or how many: the newest, or the best by `monitor`.
            monitor: a metric. None: the newest counts.
            mode: `min` or `max`: which value of the metric is best.
        """
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            every_n_epochs=every_n_epochs,
            save_top_k=save_top_k,
            monitor="epoch" if monitor is None and save_top_k != -1 else monitor,
            mode="max" if monitor is None else mode,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=True,  # else a validation interval of 4 loses epoch 10
            save_on_exception=False,  # the weights that made an error must not replace good ones
        )

    @property
    def state_key(self) -> str:
        return f"{type(self).__name__}_{self.filename}"

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        """Lightning counts the running epoch from 0."""
        return super()._monitor_candidates(trainer) | {"epoch": torch.tensor(trainer.current_epoch + 1)}

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Not where the score is no finite number: Lightning would keep the first all the same."""
        return current is not None and bool(current.isfinite()) and super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What was best so far, of the files that are still in the folder, wherever that lies now."""
        if state_dict["monitor"] != self.monitor or self.monitor is None or self.save_top_k < 1:
            return
        if not all(_is_score(score) for score in state_dict["best_k_models"].values()):
            raise ValueError("best_k_models: are no scores by file")
        assert self.dirpath is not None
        own = (
            ".*".join(map(re.escape, re.split(r"{.*?}", self.filename or ""))) + r"\.ckpt"
        )  # Lightning deletes the worst
        before = {Path(self.dirpath, Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        scores = {str(path): one for path, one in before.items() if path.is_file() and re.fullmatch(own, path.name)}
        if scores:
            ranked = sorted(scores, key=lambda path: scores[path].item(), reverse=self.mode == "max")
            self.best_k_models = scores
            self.best_model_path, self.kth_best_model_path = ranked[0], ranked[-1]
            self.best_model_score, self.kth_value = scores[ranked[0]], scores[ranked[-1]]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning would write the middle of an epoch over what was good."""


def _is_score(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


class AtomicCheckpointIO(TorchCheckpointIO):
    """Each checkpoint appears whole, on the disk, or not at all; the first is read back before the run goes on."""

    is_saving: ClassVar = False
    """Whether a signal had better wait: torch covers what is raised in its middle with an error of its own."""

    def __init__(self, read: Callable[[Path], dict[str, Any]], check: Callable[[Path], object]) -> None:
        """
        Args:
            read: a file to its content; raises ArtError if it cannot be used.
            check: raises ArtError if a file cannot be used; called once, with what was saved first.
        """
        self.read = read
        self.check: Callable[[Path], object] | None = check

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """On the CPU; strategies move what they need."""
        return self.read(Path(path))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        AtomicCheckpointIO.is_saving = True
        try:
            with atomic(Path(path)) as file:
                self._write(checkpoint, file)
                if self.check is not None:
                    file.flush()
                    self._check(Path(file.name), Path(path), self.check)
                    self.check = None
        finally:
            AtomicCheckpointIO.is_saving = False

    def _check(self, written: Path, path: Path, check: Callable[[Path], object]) -> None:
        try:
            check(written)
        except ArtError as error:
            reason = str(error).removeprefix(f"{written}: ")
            raise ArtError(f"{path}: what was saved could not be read again, so the run stops here: {reason}") from None

    def _write(self, checkpoint: dict[str, Any], file: BinaryIO) -> None:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None  # a full disk
            raise
