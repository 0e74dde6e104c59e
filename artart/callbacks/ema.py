"""The moving average of the weights, with which pictures are made."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from artart.images import Batch


class EMA(WeightAveraging):
    """An exponential moving average whose half-life grows with the pictures seen.

    Validation, grids and checkpoints use it; a checkpoint keeps the weights of training beside it, as
    `current_model_state`. Source: Karras et al. 2022, arXiv 2206.00364, Appendix F.
    """

    def __init__(self, half_life_fraction: float = 0.05, max_half_life: int = 500_000) -> None:
        """
        Args:
            half_life_fraction: half-life as a share of the pictures seen so far.
            max_half_life: in pictures.
        """
        super().__init__(multi_avg_fn=self._average)
        self.half_life_fraction = half_life_fraction
        self.max_half_life = max_half_life
        self.decay = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.to(pl_module.device)  # made before the module was moved

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """The decay comes from the pictures seen: the global batch times the steps."""
        if trainer.global_step == 0:
            return  # gradients of the first step are being accumulated
        images_per_step = len(batch.x0) * trainer.world_size * trainer.accumulate_grad_batches
        self.decay = self.decay_at(trainer.global_step * images_per_step, images_per_step)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def decay_at(self, images_seen: int, images_per_step: int) -> float:
        """What is left of the average after a step."""
        half_life = min(self.half_life_fraction * images_seen, self.max_half_life)
        return 0.5 ** (images_per_step / half_life)

    def _average(self, averaged: Any, current: Any, num_averaged: Tensor | int) -> None:
        get_ema_multi_avg_fn(self.decay)(averaged, current, num_averaged)
