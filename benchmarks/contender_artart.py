"""artart as a contender of peers.py."""

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from artart.diffusion.noise_levels import LogitNormal
from artart.diffusion.parameterization import Name
from artart.diffusion.samplers import Heun
from artart.diffusion.sampling import sample_images
from artart.diffusion.schedule import Flow
from artart.io.images import Batch
from artart.models.unet import UNet
from artart.objectives.diffusion import Diffusion
from artart.objectives.losses import MSE, WeightedSum
from artart.training.callbacks.ema import EMA
from artart.training.muon import Muon
from benchmarks.contender import Average, warm_cosine


def tiny(image_size: int, model_channels: int = 32) -> UNet:
    """The network of conf/model/unet_tiny.yaml, without classes."""
    return UNet(
        image_size,
        model_channels=model_channels,
        channel_mult=(1, 2, 3),
        num_res_blocks=1,
        attn_resolutions=range(1, 9),
    )


class ArtartAverage:
    """EMA as in callbacks.ema."""

    def __init__(self, net: nn.Module) -> None:
        self.rule, self.decay = EMA(), 0.0
        self.averaged = AveragedModel(net, multi_avg_fn=lambda *sets: get_ema_multi_avg_fn(self.decay)(*sets))
        self.source = net

    def update(self, images_seen: int, images_per_step: int) -> None:
        self.decay = self.rule.decay_at(images_seen, images_per_step)
        self.averaged.update_parameters(self.source)

    @property
    def net(self) -> nn.Module:
        return self.averaged.module


class Artart:
    """Flow, v, logit-normal noise levels, MSE alone; Heun."""

    parameterization: ClassVar[Name] = "v"
    package: ClassVar = "artart"
    lr: ClassVar = 1e-3
    batch_size: ClassVar = 32
    random_flip: ClassVar = False

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        loss = WeightedSum({"mse": 1.0}, mse=MSE("model"))
        self.objective = Diffusion(loss, Flow(), LogitNormal(image_size), self.parameterization, class_dropout_prob=0.0)

    def stand_in(self, net: UNet) -> nn.Module:
        return net

    def loss(self, net: nn.Module, x0: Tensor, generator: Generator) -> Tensor:
        y = torch.zeros(len(x0), 1, dtype=torch.long, device=x0.device)  # of no class
        return self.objective(net, Batch(x0, y), generator)["loss"].mean()

    def sample(self, net: nn.Module, num: int, seed: int, evaluations: int, device: torch.device) -> Tensor:
        sampler = Heun((evaluations + 1) // 2)  # two a step, one in the last
        y = torch.zeros(num, dtype=torch.long, device=device)
        return torch.cat([*sample_images(net, self.objective, sampler, y, range(seed, seed + num), batch_size=num)])

    def network(self, scale: int = 1) -> nn.Module:
        return tiny(self.image_size, model_channels=48 * scale)

    def optimizer(self, parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
        return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.999), weight_decay=0.01)

    def schedule(self, optimizer: Optimizer, share: Callable[[], float]) -> LRScheduler:
        return warm_cosine(optimizer, share, warmup_steps=100)

    def average(self, net: nn.Module) -> Average:
        return ArtartAverage(net)


class ArtartX0(Artart):
    """As Artart, but the network outputs x0."""

    parameterization = "x0"


class ArtartMuon(Artart):
    """As Artart, but filters are trained by Muon."""

    def optimizer(self, parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
        return Muon(parameters, lr)
