"""Ends a run that a sweep gives up."""

import math
from collections.abc import Callable

from lightning.pytorch import Callback, Trainer

from artart.training.module import ArtModule


class Pruning(Callback):
    """Hands `monitor` on after each validation but the last, and stops training if the answer is true."""

    def __init__(self, monitor: str, should_prune: Callable[[float, int], bool]) -> None:
        """
        Args:
            monitor: a metric.
            should_prune: of its value, which is finite, and of the number of finished epochs.
        """
        self.monitor = monitor
        self.should_prune = should_prune

    def on_validation_end(self, trainer: Trainer, pl_module: ArtModule) -> None:  # type: ignore[override]
        value, epoch = trainer.callback_metrics.get(self.monitor), trainer.current_epoch + 1
        if trainer.sanity_checking or epoch == trainer.max_epochs or value is None or not math.isfinite(value):
            return
        trainer.should_stop |= self.should_prune(float(value), epoch)
