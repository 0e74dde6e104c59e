"""Callbacks that end training: at a NaN, or after a number of steps."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from artart.io.terminal import pasteable
from artart.training.callbacks.last import LastCheckpoint


class TerminateOnNaN(Callback):
    """Raises before the backward pass, so that no NaN reaches the weights, and before checkpoints of an epoch."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._check("train/loss", loss, trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation loss, since the last step of an epoch may have made the weights NaN."""
        if (loss := trainer.callback_metrics.get("val/loss")) is not None:
            self._check("val/loss", loss, trainer)

    def _check(self, name: str, loss: Tensor, trainer: Trainer) -> None:
        if not loss.isfinite():
            lasts = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)]
            newest = lasts[0].newest_good(trainer.global_step) if lasts else None
            good = f"the newest good checkpoint is {newest}" if newest else "no good checkpoint was written before"
            begin = f"begin with its weights, init_from={pasteable(newest)}, and " if newest else "begin again with "
            raise FloatingPointError(
                f"{name}={loss.item()} at step {trainer.global_step}, epoch {trainer.current_epoch + 1}: training "
                f"stopped; {good}; {begin}a lower optimizer.lr, trainer.gradient_clip_val=1 or "
                "trainer.precision=32-true"
            )


class MaxSteps(Callback):
    """Ends training after `max_steps` steps, with a validation; resumed with more steps, it begins the next epoch.

    Lightning's own limit ends training without validation, and a resumed run then counts epochs twice.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.global_step >= self.max_steps

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step >= self.max_steps:
            trainer.should_stop = True
