"""Ends a run that a sweep gives up."""

import math
from collections.abc import Callable

from lightning.pytorch import Callback, Trainer

from artart.training.module import ArtModule


class Pruning(Callback):
    """After each validation hands `monitor` and the number of epochs on; stops training if the answer is true."""

    def __init__(self, monitor: str, should_prune: Callable[[float, int], bool]) -> None:
        """
        Args:
            monitor: a metric.
            should_prune: of its value, which is finite, and of the number of finished epochs.
        """
        self.monitor = monitor
        self.should_prune = should_prune

    def on_validation_end(self, trainer: Trainer, pl_module: ArtModule) -> None:  # type: ignore[override]
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or value is None or not math.isfinite(value):
            return
        if self.should_prune(float(value), trainer.current_epoch + 1):
            trainer.should_stop = True
