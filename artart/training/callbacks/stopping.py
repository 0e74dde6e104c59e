"""Callbacks that end training: at a NaN, after a number of steps, or where a sweep gives it up."""

import math
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm

from artart.io.late import LateValue
from artart.io.terminal import pasteable
from artart.training.callbacks.last import LastCheckpoint


class TerminateOnNaN(Callback):
    """Stops training at a loss or weights that are no finite numbers, before such weights are saved or validated.

    The host does not wait for the loss of a step: it is read in the next one. Until then the step's weights and their
    average are spoiled too, so what would save or validate them checks the loss before.
    """

    def __init__(self) -> None:
        self.pending: tuple[Tensor, LateValue, int, int] | None = None  # last loss, not yet read; its step and epoch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self.pending is not None:
            _, late, step, epoch = self.pending
            self._check("train/loss", late.read(), step, epoch, trainer)
        self.pending = loss.detach(), LateValue(loss), trainer.global_step, trainer.current_epoch

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_now(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_now(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation loss too: weights may be finite and so large that it is not."""
        self._check_now(trainer)
        if (loss := trainer.callback_metrics.get("val/loss")) is not None:
            self._check("val/loss", loss.item(), trainer.global_step, trainer.current_epoch, trainer)

    def _check_now(self, trainer: Trainer) -> None:
        """Wait for the loss of the last step, in all processes: the gradient of one spoils the weights of all.

        A finite loss may have a gradient that is not, so the weights are checked too.
        """
        if self.pending is not None:
            (loss, _, step, epoch), self.pending = self.pending, None
            total = trainer.strategy.reduce(loss.clone(), reduce_op="sum")
            self._check("train/loss", float(total), step, epoch, trainer)
            norm = get_total_norm(trainer.lightning_module.parameters())
            self._check("norm of the weights", norm.item(), trainer.global_step, epoch, trainer)

    def _check(self, name: str, loss: float, step: int, epoch: int, trainer: Trainer) -> None:
        if not math.isfinite(loss):
            lasts = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)]
            newest = lasts[0].newest_good(step) if lasts else None
            good = f"the newest good checkpoint is {newest}" if newest else "no good checkpoint was written before"
            begin = f"begin with its weights, init_from={pasteable(newest)}, and " if newest else "begin again with "
            raise FloatingPointError(
                f"{name}={loss} at step {step}, epoch {epoch + 1}: training "
                f"stopped; {good}; {begin}a lower optimizer.lr, trainer.gradient_clip_val=1 or "
                "trainer.precision=32-true"
            )


class LastEpoch(Callback):
    """Has the last epoch validated, and makes that of step `max_steps` the last, if it is not -1.

    Lightning validates no last epoch whose number does not fit `check_val_every_n_epoch`, and none that a limit of
    steps or time ends; resumed after its own limit of steps with more of them, it would count epochs twice.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if 0 <= self.max_steps <= trainer.global_step:
            trainer.should_stop = True
        self.on_train_epoch_start(trainer)  # a run that is resumed within an epoch does not start it

    def on_train_epoch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if 0 <= self.max_steps <= trainer.global_step:
            trainer.should_stop = True
        if trainer.should_stop:
            trainer.check_val_every_n_epoch = 1


class Pruning(Callback):
    """Hands `monitor` on after each validation but the last, and stops training if the answer is true."""

    def __init__(self, monitor: str, should_prune: Callable[[float, int], bool]) -> None:
        """`should_prune`: of its value, which is finite, and of the number of finished epochs."""
        self.monitor, self.should_prune = monitor, should_prune

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value, epoch = trainer.callback_metrics.get(self.monitor), trainer.current_epoch + 1
        is_last = epoch == trainer.max_epochs or trainer.should_stop
        if trainer.sanity_checking or is_last or value is None or not math.isfinite(value):
            return
        trainer.should_stop |= self.should_prune(float(value), epoch)
