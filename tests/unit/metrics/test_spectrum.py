import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from artart.metrics.distances import halves
from artart.metrics.spectrum import decibels, radial_power, spectral_distance


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wave(size: int, down: int, across: int) -> torch.Tensor:
    """A cosine with so many periods each way: (1, 3, S, S)."""
    phase = 2 * math.pi * torch.arange(size) / size
    return torch.cos(down * phase[:, None] + across * phase).expand(1, 3, size, size) * 0.5


@pytest.mark.parametrize("k", [1, 2, 5, 13, 22])
def test_a_cosine_of_k_periods_lies_in_ring_k(k):
    for image in (wave(48, k, 0), wave(48, 0, k)):
        assert radial_power(image).argmax().item() + 1 == k


@pytest.mark.parametrize("size", [32, 33])
def test_a_slanted_cosine_lies_in_the_ring_of_its_length(size):
    assert radial_power(wave(size, 6, 8)).argmax().item() + 1 == 10
    assert radial_power(wave(size, -8, 6)).argmax().item() + 1 == 10


@pytest.mark.parametrize("size", [16, 64])
def test_a_checkerboard_lies_in_the_last_ring(size):
    power = radial_power(wave(size, size // 2, size // 2))
    assert power.shape == (1, round(size / 2**0.5))
    assert power.argmax().item() + 1 == power.shape[1]


@pytest.mark.parametrize("size", [16, 21])
def test_no_power_is_lost(size):
    """Parseval: over all frequencies it sums to the square of the windowed image."""
    x = torch.rand(4, 3, size, size, generator=drawing(), dtype=torch.float64) * 2 - 1
    window = np.hanning(size)
    grey = x.mean(dim=1).numpy()
    seen = (grey - grey.mean(axis=(1, 2), keepdims=True)) * np.outer(window, window)
    constant = seen.sum(axis=(1, 2)) ** 2 / size**2  # frequency 0, in no ring
    periods = np.fft.fftfreq(size) * size
    _, counts = np.unique(np.hypot(*np.meshgrid(periods, periods)).round(), return_counts=True)
    power = radial_power(x)
    assert power.shape == (4, len(counts) - 1)
    wanted = np.square(seen).sum(axis=(1, 2)) - constant
    assert_close(power @ torch.from_numpy(counts[1:]).double(), torch.from_numpy(wanted))


def test_white_noise_is_flat():
    size, deviation = 16, 0.3
    power = radial_power(deviation * torch.randn(2000, 3, size, size, generator=drawing())).mean(dim=0)
    level = deviation**2 / 3 * np.square(np.hanning(size)).sum() ** 2 / size**2  # the mean of three channels
    assert_close(power[1:], torch.full_like(power[1:], level), rtol=0.08, atol=0)  # ring 1 lacks the removed mean


def test_power_is_of_each_image_and_blind_to_its_brightness():
    x = torch.rand(3, 3, 16, 16, generator=drawing()) - 0.5
    alone = torch.cat([radial_power(x[k : k + 1]) for k in range(3)])
    assert_close(radial_power(x), alone)
    assert_close(radial_power(x + torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1)), alone, rtol=1e-5, atol=1e-8)


def test_edges_do_not_count_as_detail():
    """A ramp jumps where it would be repeated; of the window's own frequencies it has but the lowest."""
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    power = radial_power(ramp)[0]
    assert power[7:].max() < 1e-4 * power.max()


def test_decibels_are_tenfold_logarithms_and_flat_is_no_infinity():
    assert_close(decibels(torch.tensor([1.0, 100.0, 0.5])), torch.tensor([0.0, 20.0, -3.0103]))
    flat = decibels(radial_power(torch.full((1, 3, 8, 8), 0.3)))
    assert (flat < -100).all()
    assert flat.isfinite().all()


# --- distance


def test_equal_sets_have_no_spectral_distance():
    power = radial_power(torch.rand(9, 3, 16, 16, generator=drawing()))
    assert spectral_distance(power, power).value == 0


def test_half_the_contrast_is_six_decibels():
    x = torch.rand(9, 3, 16, 16, generator=drawing()) - 0.5
    one, other = radial_power(x), radial_power(x / 2)
    assert_close(spectral_distance(one, other).value, 20 * math.log10(2), rtol=1e-5, atol=0)
    assert_close(spectral_distance(other, one).value, 20 * math.log10(2), rtol=1e-5, atol=0)


def test_spectral_distance_is_the_root_mean_square_over_frequencies_of_mean_powers():
    x = torch.tensor([[1.0, 5.0], [3.0, 15.0]]).double()  # means 2 and 10
    y = torch.tensor([[2.0, 100.0]]).double()  # 0 and 10 dB from it
    found = spectral_distance(x, y)
    assert_close(found.value, 10 / 2**0.5)
    assert found.low is None  # one image has no halves


def test_the_interval_of_the_spectral_distance_is_of_halves():
    generator = drawing()
    x, y = (torch.rand(num, 4, generator=generator, dtype=torch.float64) for num in (14, 11))

    def by_numpy(a: np.ndarray, b: np.ndarray) -> float:
        return np.sqrt(np.mean((10 * np.log10(a.mean(axis=0) / b.mean(axis=0))) ** 2))

    again = drawing()
    pairs = zip(halves(14, again).bool(), halves(11, again).bool(), strict=True)
    values = np.array([by_numpy(x[a].numpy(), y[b].numpy()) for a, b in pairs])
    low, high = np.quantile((values - values.mean()) * (5 / 6) ** 0.5, [0.025, 0.975])
    value = float(by_numpy(x.numpy(), y.numpy()))
    assert_close(tuple(spectral_distance(x, y)), (value, value + low, value + high))
