"""What a contender of peers.py is: an objective with its sampler, network and recipe. Images are in [-1, 1]."""

import math
from collections.abc import Callable, Iterable
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from artart.models.unet import UNet


class Average(Protocol):
    """Moving average of a network's weights during training."""

    def update(self, images_seen: int, images_per_step: int) -> None: ...

    @property
    def net(self) -> nn.Module: ...


class Contender(Protocol):
    """An objective with its sampler; the methods below are used when each contender has its own recipe."""

    package: ClassVar[str]
    lr: ClassVar[float]
    batch_size: ClassVar[int]
    random_flip: ClassVar[bool]

    def stand_in(self, net: UNet) -> nn.Module:
        """Adapt artart's network to the call of this contender."""

    def loss(self, net: nn.Module, x0: Tensor, generator: Generator) -> Tensor:
        """Loss of images (B, 3, S, S) in [-1, 1]; the generator is on their device."""

    def sample(self, net: nn.Module, num: int, seed: int, evaluations: int, device: torch.device) -> Tensor:
        """Generate images (num, 3, S, S) in about [-1, 1] with about the given number of network evaluations."""

    def network(self, scale: int = 1) -> nn.Module:
        """A network of about 3 million parameters; `scale` multiplies channels, and parameters by about scale^2."""

    def optimizer(self, parameters: Iterable[nn.Parameter], lr: float) -> Optimizer: ...

    def schedule(self, optimizer: Optimizer, share: Callable[[], float]) -> LRScheduler:
        """Learning-rate schedule; `share` is the elapsed fraction of the time."""

    def average(self, net: nn.Module) -> Average: ...


def warm_cosine(optimizer: Optimizer, share: Callable[[], float], warmup_steps: int) -> LambdaLR:
    """Linear warm-up by steps, then cosine decay by elapsed time."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warmup_steps) * (1 + math.cos(math.pi * min(1.0, share()))) / 2

    return LambdaLR(optimizer, factor)
