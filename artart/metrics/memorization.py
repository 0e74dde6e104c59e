"""Test whether samples are near-duplicates of training images, and measure the detection rate of the test.

Distances are between thumbnails of 16 px without their mean colour, the least over flips and shifts of up to one
thumbnail pixel, in steps of half a pixel. Three criteria call a sample memorized. `rate`: it is nearer to a training
image than 99 % of held-out images are. `rate_ratio`: its distance to the nearest over that to the second nearest is
below that of 99 % of held-out images. `rate_third`: that ratio is below 1/3 (Bonnaire et al. 2025, arXiv 2505.16959).
The detection rate is measured on near-duplicates: training images with small changes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import exp, lgamma, log
from typing import Any, Final, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as change

from artart.io.images import to_model, to_pixels
from artart.metrics.distances import by_label, share

SIDE: Final = 16  # of a thumbnail in pixels
FINE: Final = 2  # steps of a shift per thumbnail pixel
FALSE_ALARMS: Final = 0.01  # share of held-out images that are nearer than the threshold
SIGNIFICANCE: Final = 0.01  # probability of so many near-duplicates by chance, below which they are memorized
THIRD: Final = 1 / 3  # of the distance to the second nearest
CRITERIA: Final = ("rate", "rate_ratio", "rate_third")
MIN_HELD_OUT: Final = 20  # images, for the thresholds
MIN_DETECTION_RATE: Final = 0.9  # of a kind of near-duplicates, below which the test is blind to it
NUM_NEAR_DUPLICATES: Final = 500
CHUNK: Final = 256  # images in a batch


class Nearest(NamedTuple):
    """The training images that are nearest to some images."""

    distance: Tensor  # (B,) root mean square over a thumbnail, in [-1, 1]
    which: Tensor  # (B,) long, index of the training image
    ratio: Tensor  # (B,) distance over that of the second nearest of another group


class MemorizationTest:
    """The test for some training and held-out images; all images are uint8 (N, 3, S, S), as they are saved."""

    def __init__(self, train: Tensor, groups: Sequence[str], held_out: Tensor) -> None:
        """`groups`: a name for each training image; similar images have the same."""
        number = {group: k for k, group in enumerate(dict.fromkeys(groups))}
        self.train = train
        self.groups = torch.tensor([number[group] for group in groups])
        self.thumbnails = torch.cat([_centred(_window(_thumbnails(part))) for part in train.split(CHUNK)])
        self.held_out = self.nearest(held_out)

    @property
    def thresholds(self) -> tuple[float, float]:
        """The distance and the ratio below which 1 % of further held-out images would lie."""
        return _lowest(self.held_out.distance), _lowest(self.held_out.ratio)

    def nearest(self, images: Tensor) -> Nearest:
        found = list[Nearest]()
        for part in images.split(CHUNK):
            distances = self._distances(part)
            distance, which = distances.min(dim=1)
            is_similar = self.groups == self.groups[which][:, None]
            second = distances.masked_fill(is_similar, torch.inf).amin(dim=1)
            # 1 without a second, or if both distances are 0, as of blank images
            ratio = torch.where(second.isfinite() & (second > 0), distance / second, 1.0)
            found.append(Nearest(distance, which, ratio))
        return Nearest(*(torch.cat(values) for values in zip(*found, strict=True)))

    def k_nearest(self, images: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The distances to the k nearest training images, ascending, and their indices: (B, k) each.

        Where there are fewer training images than k, these.
        """
        k = min(k, len(self.train))
        found = [self._distances(part).topk(k, largest=False) for part in images.split(CHUNK)]
        distances, which = zip(*found, strict=True)
        return torch.cat(distances), torch.cat(which)

    def _distances(self, images: Tensor) -> Tensor:
        """(B, N), to each training image."""
        thumbnails = _thumbnails(images)
        least = torch.full((len(images), len(self.thumbnails)), torch.inf)
        lengths = self.thumbnails.square().sum(dim=1)
        for view in _views(thumbnails):
            squares = view.square().sum(dim=1, keepdim=True) + lengths - 2 * view @ self.thumbnails.T
            least = torch.minimum(least, squares)
        return (least.clamp(min=0) / self.thumbnails.shape[1]).sqrt()

    def judge(self, nearest: Nearest) -> dict[str, Tensor]:
        """Whether each image is a near-duplicate (B,), bool, by each criterion."""
        distance, ratio = self.thresholds
        return {
            "rate": nearest.distance < distance,
            "rate_ratio": nearest.ratio < ratio,
            "rate_third": nearest.ratio < THIRD,
        }

    def false_alarms(self) -> dict[str, float]:
        """The share that each criterion calls memorized of images drawn as the held-out ones were.

        On average; below the k-th smallest of n values lie k / (n + 1) of all. Of `rate_third`, the held-out images'.
        """
        num = len(self.held_out.distance)
        by_rank = _rank(num) / (num + 1)
        third = (self.held_out.ratio < THIRD).double().mean().item()
        return {"rate": by_rank, "rate_ratio": by_rank, "rate_third": third}

    def has_memorized(self, found: Mapping[str, Tensor]) -> bool:
        """Whether more samples are near-duplicates, as `judge` found them, than chance explains.

        The k-th smallest of n held-out values parts a share of Beta(k, n + 1 - k) from all images, so the number of
        samples in it is beta-binomial where nothing was copied.
        """
        num = len(self.held_out.distance)
        rank, hits = _rank(num), {name: int(one.sum()) for name, one in found.items()}
        third = share(hits["rate_third"], len(found["rate_third"])).low or 0.0
        return third > max(self.false_alarms()["rate_third"], FALSE_ALARMS) or any(
            _tail(hits[name], len(found[name]), rank, num + 1 - rank) < SIGNIFICANCE for name in ("rate", "rate_ratio")
        )

    def detection_rates(self, generator: Generator) -> dict[str, dict[str, float]]:
        """For each criterion, the share of near-duplicates that it detects, by kind."""
        chosen = torch.randperm(len(self.train), generator=generator)[:NUM_NEAR_DUPLICATES]
        of_kinds = {
            kind: self.judge(self.nearest(near_duplicates))
            for kind, near_duplicates in make_near_duplicates(self.train[chosen], generator)
        }
        return {
            name: {kind: found[name].double().mean().item() for kind, found in of_kinds.items()} for name in CRITERIA
        }


def _lowest(values: Tensor) -> float:
    """The k-th smallest of n: a new value is below it with probability k / (n + 1)."""
    return values.sort().values[_rank(len(values)) - 1].item()


def _rank(num: int) -> int:
    """The largest k of which k / (num + 1) is at most FALSE_ALARMS; 1 if there is none."""
    return max(1, int(FALSE_ALARMS * (num + 1)))


def _tail(hits: int, num: int, a: int, b: int) -> float:
    """The probability of `hits` or more of `num` by the beta-binomial distribution."""

    def log_beta(a: int, b: int) -> float:
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    def log_choose(k: int) -> float:
        return -log(num + 1) - log_beta(k + 1, num - k + 1)

    return sum(exp(log_choose(k) + log_beta(k + a, num - k + b) - log_beta(a, b)) for k in range(hits, num + 1))


def report(test: MemorizationTest, nearest: Nearest, labels: Sequence[str], generator: Generator) -> dict[str, Any]:
    """Rates of samples, overall and by label, and detection rates of the test, as plain data."""
    judged, detection_rates, false_alarms = test.judge(nearest), test.detection_rates(generator), test.false_alarms()

    def rate(found: Tensor) -> dict[str, float]:
        return {**share(int(found.sum()), len(found))._asdict(), "num_images": len(found)}

    return {
        name: {
            **share(int(found.sum()), len(found))._asdict(),
            "held_out": false_alarms[name],
            "detection_rate": detection_rates[name],
            "blind_to": [kind for kind, seen in detection_rates[name].items() if seen < MIN_DETECTION_RATE],
            "classes": {label: rate(found[rows]) for label, rows in by_label(labels).items()},
        }
        for name, found in judged.items()
    } | {
        "has_memorized": test.has_memorized(judged),
        "thresholds": test.thresholds,
        "num_train": len(test.train),
        "num_held_out": len(test.held_out.distance),
    }


def make_near_duplicates(images: Tensor, generator: Generator) -> Iterator[tuple[str, Tensor]]:
    """Images with small changes: yields the name of a kind, and uint8 images of the same shape."""
    x = to_model(images)
    num, _, height, _ = x.shape

    def noise(deviation: float) -> Tensor:
        return x + deviation * torch.randn(x.shape, generator=generator)

    tint = 0.8 + 0.4 * torch.rand(num, 3, 1, 1, generator=generator)
    kinds: dict[str, Callable[[], Tensor]] = {
        "noise_0.05": lambda: noise(0.05),  # standard deviation in [-1, 1]
        "noise_0.15": lambda: noise(0.15),
        "tint": lambda: (x + 1) * tint - 1,  # each colour times 0.8 to 1.2
        "shift_1px": lambda: F.pad(x, (0, 1, 1, 0), mode="replicate")[:, :, :height, 1:],  # down and to the left
        "zoom_1.1": lambda: change.affine(x, 0.0, [0, 0], 1.1, [0.0, 0.0], change.InterpolationMode.BILINEAR),
        "blur": lambda: change.gaussian_blur(x, [7, 7], [1.0, 1.0]),  # standard deviation of one pixel
    }
    for kind, near_duplicates in kinds.items():
        yield kind, to_pixels(near_duplicates())


def _thumbnails(images: Tensor) -> Tensor:
    """Thumbnails at FINE times their size, for shifts by part of a pixel."""
    return F.adaptive_avg_pool2d(to_model(images), FINE * SIDE)


def _window(thumbnails: Tensor, top: int = FINE, left: int = FINE) -> Tensor:
    """A part two pixels smaller, so that it can be shifted by one either way: (B, 3, 14, 14)."""
    size = FINE * (SIDE - 2)
    return F.avg_pool2d(thumbnails[:, :, top : top + size, left : left + size], FINE)


def _views(thumbnails: Tensor) -> Iterator[Tensor]:
    """The thumbnails and their mirror images, shifted by up to one pixel either way: fifty times (B, D)."""
    moves = range(2 * FINE + 1)
    for seen, top, left in product((thumbnails, thumbnails.flip(-1)), moves, moves):
        yield _centred(_window(seen, top, left))


def _centred(windows: Tensor) -> Tensor:
    """(B, D), minus the mean colour."""
    return (windows - windows.mean(dim=(2, 3), keepdim=True)).flatten(1)
