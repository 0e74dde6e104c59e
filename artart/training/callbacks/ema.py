"""An exponential moving average (EMA) of the weights, which samples are drawn with."""

from collections import defaultdict
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from artart.io.ranges import Count, Positive
from artart.training.module import ArtModule


class EMA(WeightAveraging):
    """An exponential moving average whose half-life grows with the images seen.

    Validation, grids and checkpoints use it; checkpoints also hold the weights of training, `current_model_state`.
    Source: Karras et al. 2022, arXiv 2206.00364, Appendix F.
    """

    def __init__(self, half_life_fraction: Positive = 0.05, max_half_life: Count = 500_000) -> None:
        super().__init__()
        self.half_life_fraction = half_life_fraction  # of the images seen
        self.max_half_life = max_half_life  # in images
        self.images_seen = 0  # at the last step
        self.num_averaged = 0  # steps
        self.pairs: list[tuple[list[Tensor], list[Tensor]]] = []  # averages and what they are of, by type

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if type(state_dict["latest_update_step"]) is not int:
            raise ValueError("latest_update_step: is not a step")
        super().load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: ArtModule) -> None:  # type: ignore[override]
        assert self._average_model is not None
        self._average_model.to(pl_module.device)  # created before the module was moved
        self.images_seen = pl_module.images_seen
        self.num_averaged = int(self._average_model.n_averaged)
        by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for average, current in zip(_tensors(self._average_model.module), _tensors(pl_module), strict=True):
            for tensors, tensor in zip(by_type[average.dtype], (average, current), strict=True):
                tensors.append(tensor)
        self.pairs = [*by_type.values()]

    def on_train_batch_end(self, trainer: Trainer, pl_module: ArtModule, *_: Any) -> None:  # type: ignore[override]
        """In the place of Lightning's, which waits for its counter on the device and lists all weights anew."""
        if trainer.global_step <= self._latest_update_step:
            return  # gradients are accumulated
        decay = self.decay_at(pl_module.images_seen, pl_module.images_seen - self.images_seen)
        for averages, current in self.pairs:
            if self.num_averaged == 0:
                torch._foreach_copy_(averages, current)
            elif averages[0].is_floating_point():
                torch._foreach_lerp_(averages, current, 1 - decay)
            else:  # counters of batch normalization
                for average, one in zip(averages, current, strict=True):
                    average.copy_(average * decay + one * (1 - decay))
        self.num_averaged += 1
        self.images_seen = pl_module.images_seen
        self._latest_update_step = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: ArtModule, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        assert self._average_model is not None
        self._average_model.n_averaged.fill_(self.num_averaged)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def decay_at(self, images_seen: int, images_per_step: int) -> float:
        """The share of the average that remains after a step."""
        half_life = min(self.half_life_fraction * images_seen, self.max_half_life)
        return 0.5 ** (images_per_step / half_life)


def _tensors(module: torch.nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
