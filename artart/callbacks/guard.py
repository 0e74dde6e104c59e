"""Stops a run whose loss is no longer a number."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class FiniteLoss(Callback):
    """Raises before the backward pass, so that neither weights nor checkpoints ever see the NaN."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not loss.isfinite():
            checkpoints = Path(trainer.default_root_dir, "checkpoints")
            newest = checkpoints / "last.ckpt"
            good = f"the newest good checkpoint is {newest}" if newest.exists() else "no epoch was finished before"
            raise FloatingPointError(
                f"train/loss={loss.item()} at step {trainer.global_step}, epoch {trainer.current_epoch + 1}: training "
                f"stopped before it reached the weights; {good}. Try a lower optimizer.lr, "
                "trainer.gradient_clip_val=1 or trainer.precision=32-true"
            )
