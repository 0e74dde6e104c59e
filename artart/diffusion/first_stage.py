"""What a diffusion model works on: images, or the latents of a frozen autoencoder (its first stage).

Source: Rombach et al. 2022, arXiv 2112.10752.
"""

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_PIXELS: Final = 2**20  # encoded or decoded at once: the features of 64 images of 128 px take about 0.6 GB
MIN_STD: Final = 1e-6  # of a channel of latents


class FirstStage:
    """What lies between images and a diffusion model; here nothing: it works on the images."""

    max_value = 1.0  # of a clean value, to which guidance is clamped

    @property
    def network(self) -> Mapping[str, int]:
        """Settings of `model` that it determines."""
        return {}

    @property
    def content(self) -> dict[str, Any] | None:
        """Plain data that a checkpoint holds of it."""
        return None

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] to what the network is trained on."""
        return images

    def decode(self, x: Tensor) -> Tensor:
        """What the network makes to images (B, 3, S, S), about [-1, 1]."""
        return x

    def repaint(self, mask: Tensor) -> Tensor:
        """The values (1, H, W) that change with the pixels of a mask (1, S, S) bool."""
        return mask


NO_FIRST_STAGE = FirstStage()


class FrozenAutoencoder(FirstStage):
    """Latents of an autoencoder, normalised to zero mean and unit variance in each channel."""

    max_value = math.inf

    def __init__(self, net: nn.Module, settings: Mapping[str, Any], moments: Tensor | None = None) -> None:
        """
        Args:
            net: with image_size, factor, latent_channels, encode and decode.
            settings: from which `net` is built; checkpoints hold them.
            moments: (2, C), mean and standard deviation of each channel of the latents; None: set by `normalize_by`.
        """
        self.net: Any = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.image_size = cast(int, net.image_size)  # side of the images in pixels
        self.settings = dict(settings)
        self.moments = moments

    @property
    def network(self) -> Mapping[str, int]:
        return {"image_size": self.image_size // self.net.factor, "channels": self.net.latent_channels}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the latents of an image."""
        side = self.network["image_size"]
        return self.network["channels"], side, side

    @property
    def content(self) -> dict[str, Any]:
        state = {name: value.cpu() for name, value in self.net.state_dict().items()}
        moments = None if self.moments is None else self.moments.cpu()
        return {"model": self.settings, "state_dict": state, "moments": moments}

    @cached_property
    def sha256(self) -> str:
        """The `fingerprint` of the autoencoder."""
        return fingerprint(self.settings, self.net.state_dict())

    def fill(self, content: Mapping[str, Any]) -> None:
        """Take weights and moments from the `content` of another one with the same settings."""
        self.net.load_state_dict(content["state_dict"])
        self.moments = content["moments"]

    def normalize_by(self, parts: Iterable[Tensor]) -> None:
        """Set the moments, unless they are known, to those of latents, each part (n, C, H, W)."""
        if self.moments is None:
            powers = ((torch.ones_like(x), x, x.square()) for x in map(Tensor.double, parts))
            sums = torch.stack([torch.stack([one.sum(dim=(0, 2, 3)) for one in each]) for each in powers]).sum(dim=0)
            mean, square = sums[1:] / sums[0]
            self.moments = torch.stack([mean, (square - mean.square()).clamp(min=MIN_STD**2).sqrt()]).float()

    def latents(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] to latents (B, C, H, W) as the autoencoder makes them."""
        return self._in_chunks(self.net.encode, images)

    def normalize(self, latents: Tensor) -> Tensor:
        mean, std = self._moments_on(latents.device)
        return (latents - mean) / std

    def encode(self, images: Tensor) -> Tensor:
        return self.normalize(self.latents(images))

    def decode(self, x: Tensor) -> Tensor:
        mean, std = self._moments_on(x.device)
        return self._in_chunks(self.net.decode, x.float() * std + mean)

    def repaint(self, mask: Tensor) -> Tensor:
        """Also the neighbours of a value that changes, whose pixels overlap with its own."""
        pooled = F.max_pool2d(mask[None].float(), self.net.factor)
        return F.max_pool2d(pooled, kernel_size=3, stride=1, padding=1)[0] > 0

    def _moments_on(self, device: torch.device) -> Tensor:
        assert self.moments is not None, "normalize_by comes first"
        self.moments = self.moments.to(device)  # once, not in each step
        return self.moments[:, :, None, None]

    def _in_chunks(self, run: Any, x: Tensor) -> Tensor:
        """In full precision, so that latents and images do not depend on that of training."""
        self.net.to(x.device)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([run(part) for part in x.split(max(1, MAX_PIXELS // self.image_size**2))])


def fingerprint(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """The hexadecimal hash of a network's settings and weights, the latter in full precision."""
    digest = sha256(repr(sorted(settings.items())).encode())
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
