"""Contenders of peers.py: artart, denoising-diffusion-pytorch's GaussianDiffusion, a loop as in diffusers' example.

All take and return images in [-1, 1]. The peers' networks are called with integer steps 0 ... 999; `Timed` adapts
artart's networks, which take times in [0, 1]. The peers are installed from PyPI for this benchmark only.
"""

import importlib
import io
import math
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from copy import deepcopy
from types import ModuleType
from typing import Any, ClassVar, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
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

NUM_STEPS = 1000  # of both peers' noise


def required(module: str, package: str) -> ModuleType:
    """Import a peer's module, or exit with one line."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(f"{error}: pip install {package} (for this benchmark only)") from None


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


def tiny(image_size: int, model_channels: int = 32) -> UNet:
    """The network of conf/model/unet_tiny.yaml, without classes."""
    return UNet(
        image_size,
        model_channels=model_channels,
        channel_mult=(1, 2, 3),
        num_res_blocks=1,
        attn_resolutions=range(1, 9),
    )


def warm_cosine(optimizer: Optimizer, share: Callable[[], float], warmup_steps: int) -> LambdaLR:
    """Linear warm-up by steps, then cosine decay by elapsed time."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warmup_steps) * (1 + math.cos(math.pi * min(1.0, share()))) / 2

    return LambdaLR(optimizer, factor)


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


class Timed(nn.Module):
    """A network that takes times in [0, 1], for callers that pass integer steps; with the attributes that
    GaussianDiffusion expects.
    """

    self_condition = False

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = net
        self.channels = self.out_dim = net.channels

    def forward(self, x: Tensor, step: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        return self.net(x, step.float() / (NUM_STEPS - 1))


class Lucidrains:
    """GaussianDiffusion with its defaults (v, sigmoid schedule, weight alpha^2) and its DDIM, which clips."""

    package: ClassVar = "denoising-diffusion-pytorch"
    lr: ClassVar = 1e-4
    batch_size: ClassVar = 16
    random_flip: ClassVar = True

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self.library: Any = required("denoising_diffusion_pytorch", self.package)
        self.trained: Any = None  # the diffusion around the network that is trained

    def _around(self, net: nn.Module, sampling_steps: int | None = None) -> Any:
        """GaussianDiffusion around a network; it takes images in [0, 1] and maps them to [-1, 1] itself."""
        diffusion = self.library.GaussianDiffusion(
            net, image_size=self.image_size, timesteps=NUM_STEPS, sampling_timesteps=sampling_steps
        )
        return diffusion.to(next(net.parameters()).device)

    def stand_in(self, net: UNet) -> nn.Module:
        return Timed(net)

    def loss(self, net: nn.Module, x0: Tensor, generator: Generator) -> Tensor:
        if self.trained is None or self.trained.model is not net:
            self.trained = self._around(net)
        return self.trained((x0 + 1) / 2)  # draws from torch's global generators

    def sample(self, net: nn.Module, num: int, seed: int, evaluations: int, device: torch.device) -> Tensor:
        with torch.random.fork_rng(), redirect_stderr(io.StringIO()):  # it draws a bar of its own
            torch.manual_seed(seed)
            return 2 * self._around(net, evaluations).sample(batch_size=num) - 1

    def network(self, scale: int = 1) -> nn.Module:
        return self.library.Unet(dim=18 * scale)

    def optimizer(self, parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
        return torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.99))

    def schedule(self, optimizer: Optimizer, share: Callable[[], float]) -> LRScheduler:
        return LambdaLR(optimizer, lambda step: 1.0)

    def average(self, net: nn.Module) -> Average:
        return LucidrainsAverage(net)


class LucidrainsAverage:
    """EMA as in its Trainer."""

    def __init__(self, net: nn.Module) -> None:
        self.ema = required("ema_pytorch", "ema-pytorch").EMA(net, beta=0.995, update_every=10)

    def update(self, images_seen: int, images_per_step: int) -> None:
        self.ema.update()

    @property
    def net(self) -> nn.Module:
        return self.ema.ema_model


class OutputAlone(nn.Module):
    """A network of diffusers that returns a tensor instead of a record."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        return self.net(x, step).sample


class Diffusers:
    """As in the unconditional generation example: DDPM, linear betas, eps; then DDIM, which clips."""

    package: ClassVar = "diffusers"
    lr: ClassVar = 1e-4
    batch_size: ClassVar = 16
    random_flip: ClassVar = False

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self.library: Any = required("diffusers", self.package)
        self.noise = self.library.DDPMScheduler(num_train_timesteps=NUM_STEPS)

    def stand_in(self, net: UNet) -> nn.Module:
        return Timed(net)

    def loss(self, net: nn.Module, x0: Tensor, generator: Generator) -> Tensor:
        steps = torch.randint(NUM_STEPS, (len(x0),), generator=generator, device=x0.device)
        eps = torch.randn(x0.shape, generator=generator, device=x0.device)
        return nn.functional.mse_loss(net(self.noise.add_noise(x0, eps, steps), steps).float(), eps)

    def sample(self, net: nn.Module, num: int, seed: int, evaluations: int, device: torch.device) -> Tensor:
        sampler = self.library.DDIMScheduler(num_train_timesteps=NUM_STEPS)
        sampler.set_timesteps(evaluations)
        generator = Generator().manual_seed(seed)
        x = torch.randn((num, 3, self.image_size, self.image_size), generator=generator).to(device)
        for step in sampler.timesteps.tolist():
            eps_hat = net(x, torch.full((num,), step, device=device)).float()
            x = sampler.step(eps_hat, step, x).prev_sample
        return x

    def network(self, scale: int = 1) -> nn.Module:
        """The example's blocks with two layers each, attention in the last level but one, and fewer channels."""
        widths = [scale * width for width in (24, 48, 72, 96)]
        down = ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"]
        up = ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]
        net = self.library.UNet2DModel(
            self.image_size,
            layers_per_block=2,
            block_out_channels=widths,
            down_block_types=down,
            up_block_types=up,
            norm_num_groups=8,
        )
        return OutputAlone(net)

    def optimizer(self, parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
        return torch.optim.AdamW(parameters, lr=lr, betas=(0.95, 0.999), weight_decay=1e-6)

    def schedule(self, optimizer: Optimizer, share: Callable[[], float]) -> LRScheduler:
        return warm_cosine(optimizer, share, warmup_steps=500)

    def average(self, net: nn.Module) -> Average:
        return DiffusersAverage(net)


class DiffusersAverage:
    """EMA as in the example."""

    def __init__(self, net: nn.Module) -> None:
        library: Any = required("diffusers.training_utils", "diffusers")
        self.source, self.copy = net, deepcopy(net)
        self.ema = library.EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)

    def update(self, images_seen: int, images_per_step: int) -> None:
        self.ema.step(self.source.parameters())

    @property
    def net(self) -> nn.Module:
        self.ema.copy_to(self.copy.parameters())
        return self.copy


class ArtartX0(Artart):
    """As Artart, but the network outputs x0."""

    parameterization = "x0"


CONTENDERS: dict[str, Callable[[int], Contender]] = {
    "artart": Artart,
    "artart-x0": ArtartX0,
    "denoising-diffusion-pytorch": Lucidrains,
    "diffusers": Diffusers,
}
