"""The Objective protocol: the losses and metrics of a network on a batch."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn import Module

from artart.diffusion.first_stage import NO_FIRST_STAGE, FirstStage
from artart.diffusion.guidance import null_labels
from artart.io.images import Batch
from artart.objectives.losses import TrainingLoss, WeightedSum

Mode = Literal["reconstruct", "sample"]  # what artart.generate does with a network trained for an objective


@runtime_checkable
class Objective(Protocol):
    mode: Mode
    loss: TrainingLoss
    inputs: Sequence[str]  # names of the network's inputs, in their order
    output: str = "x0_hat"  # name of the network's output
    one_step: bool = False  # whether it samples in one evaluation of the network: without sampler, guidance and levels
    num_steps: int | None = None  # that a distilled network samples in, by DDIM without guidance; None: as asked for
    network: Mapping[str, int] = {}  # settings of `model` that this objective determines
    first_stage: FirstStage = NO_FIRST_STAGE  # between images and what batches hold

    @property
    def metrics(self) -> Sequence[str]:
        """The names under which training and validation log."""

    def __call__(
        self, net: Module, batch: Batch, generator: Generator, rank: int = 0, world_size: int = 1, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """The losses of a batch, each (B,): training minimises `loss`.

        The batch is the rank-th of `world_size` equal parts of a step's images. The generator is the same for every
        part and draws for all of them, so the draws do not depend on the number of processes. `progress` is the share
        of the run's steps that are done.
        """

    def measure(self, net: Module, batch: Batch) -> dict[str, Tensor]:
        """Metrics for validation, by full name, always the same names: a number for each image that has one."""


def logged(loss: WeightedSum) -> list[str]:
    """The names under which a loss is logged."""
    return [f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", *loss.terms)]


def draw_dropout(num: int, num_columns: int, probability: float, generator: Generator) -> Tensor:
    """Whether labels are dropped, see `Diffusion`: (num, 1) for one column, (num, num_columns) for several."""

    def draw(width: int) -> Tensor:
        return torch.rand(num, width, generator=generator, device=generator.device) < probability

    return draw(1) if num_columns == 1 else draw(1) | draw(num_columns)


def drop_labels(net: Module, y: Tensor, is_dropped: Tensor) -> Tensor:
    """Labels y (B, K), or none where they are dropped, as `draw_dropout` says."""
    return torch.where(is_dropped.to(y.device), null_labels(net, y.device), y)
