"""The Objective protocol: the losses and metrics of a network on a batch."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Generator, Tensor, nn

from artart.diffusion.first_stage import FirstStage
from artart.io.images import Batch
from artart.objectives.losses import WeightedSum


@runtime_checkable
class Objective(Protocol):
    loss: WeightedSum
    first_stage: FirstStage  # between images and what batches hold

    @property
    def mode(self) -> Literal["reconstruct", "sample"]:
        """What artart.generate does with a network trained for this objective."""

    @property
    def network(self) -> Mapping[str, int]:
        """Settings of `model` that this objective determines."""

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the network's inputs, in their order."""

    @property
    def output(self) -> str:
        """Name of the network's output."""

    @property
    def metrics(self) -> Sequence[str]:
        """The names under which training and validation log."""

    def __call__(
        self,
        net: nn.Module,
        batch: Batch,
        generator: Generator,
        rank: int = 0,
        world_size: int = 1,
        progress: float = 1.0,
    ) -> dict[str, Tensor]:
        """The losses of a batch, each (B,): training minimises `loss`.

        The batch is the rank-th of `world_size` equal parts of a step's images. The generator is the same for every
        part and draws for all of them, so the draws do not depend on the number of processes. `progress` is the share
        of the run's steps that are done.
        """

    def measure(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Metrics for validation, by full name, always the same names: a number for each image that has one."""


def logged(loss: WeightedSum) -> list[str]:
    """The names under which a loss is logged."""
    return [f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", *loss.terms)]
