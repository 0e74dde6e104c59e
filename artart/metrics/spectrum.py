"""Power by spatial frequency: blur lacks power at high frequencies, a checkerboard has too much."""

from typing import Final

import torch
from torch import Tensor

from artart.metrics.distances import Estimate, all_and_halves, estimate

CHUNK: Final = 64  # images in a batch


def radial_power(images: Tensor) -> Tensor:
    """Power of (B, 3, S, S) in [-1, 1] by spatial frequency 1, 2, ... K (periods over the image): (B, K).

    K is about S / sqrt(2), the corner of the spectrum, where a checkerboard lies. The channels are averaged; a Hann
    window keeps the image's edges from counting as detail.
    """
    if len(images) > CHUNK:
        return torch.cat([radial_power(part) for part in images.split(CHUNK)])
    size = images.shape[-1]
    grey = images.double().mean(dim=1)
    grey = grey - grey.mean(dim=(1, 2), keepdim=True)
    window = torch.hann_window(size, periodic=False, dtype=torch.float64, device=images.device)
    power = torch.fft.fft2(grey * window * window[:, None]).abs().square().flatten(1) / size**2
    frequency = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64, device=images.device)
    ring = torch.hypot(frequency, frequency[:, None]).round().long().flatten()
    sums = torch.zeros(len(images), int(ring.max()) + 1, dtype=torch.float64, device=images.device)
    return (sums.index_add(1, ring, power) / ring.bincount())[:, 1:].cpu()


def decibels(power: Tensor) -> Tensor:
    """Power in dB, at least -120: flat images have none."""
    return 10 * power.clamp(min=1e-12).log10()


def spectral_distance(x: Tensor, y: Tensor) -> Estimate:
    """Root mean square over frequencies of the difference in dB of two sets' mean powers, (n, K) and (m, K)."""
    chosen = zip(all_and_halves(len(x), len(y)), (x, y), strict=True)
    a, b = (decibels(rows @ z / rows.sum(dim=1, keepdim=True)) for rows, z in chosen)
    values = (a - b).square().mean(dim=1).sqrt()
    return estimate(values[0].item(), values[1:], min(len(x), len(y)))


def mean_spectrum(power: Tensor) -> tuple[list[float], list[float]]:
    """Periods over the image, and the mean of powers (N, P) at each in dB."""
    levels = decibels(power.mean(dim=0)).tolist()
    return [float(k) for k in range(1, len(levels) + 1)], levels
