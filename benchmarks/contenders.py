"""Other packages' contenders of peers.py: denoising-diffusion-pytorch, and a loop as in diffusers' example.

Their networks are called with integer steps 0 ... 999; `Timed` adapts artart's, which take times in [0, 1]. The
packages are installed from PyPI for benchmarks only.
"""

import importlib
import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from copy import deepcopy
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from artart.models.unet import UNet
from benchmarks.contender import Average, Contender, warm_cosine
from benchmarks.contender_artart import Artart, ArtartMuon, ArtartX0

NUM_STEPS = 1000  # of both packages' noise


def required(module: str, package: str) -> ModuleType:
    """Import a peer's module, or exit with one line."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(f"{error}: pip install {package} (for this benchmark only)") from None


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


CONTENDERS: dict[str, Callable[[int], Contender]] = {
    "artart": Artart,
    "artart-x0": ArtartX0,
    "artart-muon": ArtartMuon,
    "denoising-diffusion-pytorch": Lucidrains,
    "diffusers": Diffusers,
}
