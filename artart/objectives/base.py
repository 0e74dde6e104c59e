"""What an objective is: what a network is asked to do with a batch, and how that is measured."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

from torch import Generator, Tensor, nn

from artart.io.images import Batch
from artart.objectives.losses import WeightedSum


class Objective(Protocol):
    loss: WeightedSum
    mode: ClassVar[str]
    """What artart.generate does with a network of this objective."""

    @property
    def network(self) -> Mapping[str, int]:
        """What the network must be: settings of `model` that this objective decides."""

    @property
    def metrics(self) -> list[str]:
        """The names under which training and validation log."""

    def __call__(
        self, net: nn.Module, batch: Batch, generator: Generator, rank: int = 0, world_size: int = 1
    ) -> dict[str, Tensor]:
        """The losses of a batch, each (B,): `loss` is what training lowers.

        The batch is the rank-th of `world_size` equal parts of a step's images. The generator is that of the step,
        the same for every part, so that what is drawn does not depend on how many processes share the work.
        """

    def measure(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """What validation logs of a batch: full names, always the same, to a number for each image that has one."""


def logged(loss: WeightedSum) -> list[str]:
    """The names under which a loss is logged."""
    return [f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", *loss.terms)]
