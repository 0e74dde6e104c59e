"""An exponential moving average (EMA) of the weights, which samples are drawn with."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from artart.io.images import Batch
from artart.io.ranges import Count, Positive
from artart.training.module import ArtModule


class EMA(WeightAveraging):
    """An exponential moving average whose half-life grows with the images seen.

    Validation, grids and checkpoints use it; checkpoints also hold the weights of training, `current_model_state`.
    Source: Karras et al. 2022, arXiv 2206.00364, Appendix F.
    """

    def __init__(self, half_life_fraction: Positive = 0.05, max_half_life: Count = 500_000) -> None:
        """
        Args:
            half_life_fraction: half-life as a share of the images seen so far.
            max_half_life: in images.
        """
        self.decay = 0.0
        super().__init__(multi_avg_fn=lambda *averages: get_ema_multi_avg_fn(self.decay)(*averages))
        self.half_life_fraction = half_life_fraction
        self.max_half_life = max_half_life
        self.images_seen = 0  # at the last step

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if type(state_dict["latest_update_step"]) is not int:
            raise ValueError("latest_update_step: is not a step")
        super().load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: ArtModule) -> None:  # type: ignore[override]
        assert self._average_model is not None
        self._average_model.to(pl_module.device)  # created before the module was moved
        self.images_seen = pl_module.images_seen

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ArtModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Set the decay by the images seen."""
        if trainer.global_step > self._latest_update_step:  # False while gradients are accumulated
            self.decay = self.decay_at(pl_module.images_seen, pl_module.images_seen - self.images_seen)
            self.images_seen = pl_module.images_seen
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def decay_at(self, images_seen: int, images_per_step: int) -> float:
        """The share of the average that remains after a step."""
        half_life = min(self.half_life_fraction * images_seen, self.max_half_life)
        return 0.5 ** (images_per_step / half_life)
