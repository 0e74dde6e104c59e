"""Distances between two sets of features or images, and confidence intervals."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

BLOCK: Final = 1024  # rows of a kernel matrix that are held at once
NUM_HALVES: Final = 200
MIN_IMAGES_FOR_INTERVAL: Final = 10  # intervals from fewer are too narrow
MAX_HALVED_FEATURES: Final = 512  # with more, covariances of 200 halves take too long,
NUM_FEW_HALVES: Final = 20  # and these are taken
MIN_IMAGES_FOR_FRECHET: Final = 2560  # ten times AlexNet's features; with fewer the covariances are mostly noise
PATCH: Final = 7  # side in pixels of the patches of the sliced Wasserstein distance
NUM_PROJECTIONS: Final = 32  # of them
PART: Final = 16  # images whose patches are compared with those of as many


def by_label(labels: Sequence[str]) -> dict[str, Tensor]:
    """For each label, in order, whether each image has it: (N,) bool."""
    return {name: torch.tensor([label == name for label in labels]) for name in sorted(set(labels))}


class Estimate(NamedTuple):
    """A value and its 95 % interval; None without one, as for very few images."""

    value: float
    low: float | None
    high: float | None


def halves(num: int, generator: Generator) -> Tensor:
    """(200, num) of ones and zeros in double precision: random halves, drawn without replacement."""
    order = torch.rand(NUM_HALVES, num, generator=generator).argsort(dim=1)
    return (order < num // 2).double()


def estimate(value: float, of_halves: Tensor, num: int) -> Estimate:
    """The interval of a value of `num` images from the values of halves of them: 200, or few, whose spread is normal.

    Subsampling without replacement (Politis, Romano and Wolf 1999): the values of halves of m images, times
    sqrt(m / (num - m)), spread about their mean as the value does about the truth. Only their spread is used, because
    a distance of fewer images may be biased.
    """
    if num < MIN_IMAGES_FOR_INTERVAL:
        return Estimate(value, None, None)
    m = num // 2
    spread = (of_halves - of_halves.mean()) * (m / (num - m)) ** 0.5
    ends = torch.tensor([0.025, 0.975], dtype=spread.dtype)
    of_few = spread.std() * torch.special.ndtri(ends)
    low, high = (spread.quantile(ends) if len(spread) == NUM_HALVES else of_few).tolist()
    return Estimate(value, value + low, value + high)


def all_and_halves(*nums: int, num_features: int = 0) -> list[Tensor]:
    """For each number of images (201, num): a row of ones, then `halves`; the same in each call.

    Above MAX_HALVED_FEATURES features few halves.
    """
    generator = Generator().manual_seed(0)
    rows = NUM_FEW_HALVES if num_features > MAX_HALVED_FEATURES else NUM_HALVES
    return [torch.cat([torch.ones(1, num).double(), halves(num, generator)[:rows]]) for num in nums]


def mean(values: Tensor, generator: Generator) -> Estimate:
    """The mean of one number per image, (num,)."""
    values = values.double().cpu()
    chosen = halves(len(values), generator)
    return estimate(values.mean().item(), chosen @ values / chosen.sum(dim=1), len(values))


def share(num_true: int, num: int) -> Estimate:
    """The share of images; the interval is Wilson's (1927), which is also valid for none and for all."""
    z2, p = 1.96**2, num_true / num
    middle = (p + z2 / (2 * num)) / (1 + z2 / num)
    half = (z2 * (p * (1 - p) / num + z2 / (4 * num**2))) ** 0.5 / (1 + z2 / num)
    return Estimate(p, max(0.0, middle - half), min(1.0, middle + half))


def kernel_distance(x: Tensor, y: Tensor) -> Estimate:
    """Unbiased squared MMD with the cubic kernel (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401).

    Zero on average for two draws of the same images, so a single value may be negative; there the interval is too wide.
    x (n, d) and y (m, d) are features in double precision.
    """
    of_x, of_y = all_and_halves(len(x), len(y))
    between = _kernel_sums(x, y, of_x, of_y) / (of_x.sum(dim=1) * of_y.sum(dim=1))
    values = _across(x, x, of_x) + _across(y, y, of_y) - 2 * between
    return estimate(values[0].item(), values[1:], min(len(x), len(y)))


def paired_kernel_distance(x: Tensor, y: Tensor) -> Estimate:
    """`kernel_distance` of pairs (x_i, y_i), such as images and their reconstructions: 0 for equal sets.

    Gretton et al. 2012 (JMLR 13), Eq. 4: a pair is compared with other pairs only, so that the estimate is unbiased
    although its members depend on each other. x and y are (n, d), n at least 2.
    """
    (chosen,) = all_and_halves(len(x))
    values = _across(x, x, chosen) + _across(y, y, chosen) - 2 * _across(x, y, chosen)
    return estimate(values[0].item(), values[1:], len(x))


def _across(x: Tensor, y: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the kernel over x_i and y_j with i != j, for each choice of rows (K, n): (K,)."""
    num = chosen.sum(dim=1)
    same = chosen @ ((x * y).sum(dim=1) / x.shape[1] + 1) ** 3
    return (_kernel_sums(x, y, chosen, chosen) - same) / (num * (num - 1))


def _kernel_sums(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
    """The kernel summed over all pairs of chosen rows, for each choice, (K, n) and (K, m): (K,)."""
    sums = torch.zeros(len(of_x), dtype=torch.float64)
    for rows, chosen in zip(x.split(BLOCK), of_x.split(BLOCK, dim=1), strict=True):
        sums += ((chosen @ (rows @ y.T / y.shape[1] + 1) ** 3) * of_y).sum(dim=1)
    return sums


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Between the Gaussians with the means and covariances of two sets of features, (n, d) and (m, d), in double.

    |mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500).
    Biased upwards, the more the fewer images: compare at equal numbers only.
    """
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    x, y = (x - mean_x) / (len(x) - 1) ** 0.5, (y - mean_y) / (len(y) - 1) ** 0.5
    if min(len(x), len(y)) < x.shape[1]:  # C_x C_y = x^T x y^T y has the eigenvalues of (x y^T) (x y^T)^T
        cross = torch.linalg.svdvals(x @ y.T).sum()
    else:  # and those of the symmetric C_x^(1/2) C_y C_x^(1/2), all of them real and not negative
        values, vectors = torch.linalg.eigh(x.T @ x)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        cross = torch.linalg.eigvalsh(root @ (y.T @ y) @ root).clamp(min=0).sqrt().sum()
    return ((mean_x - mean_y).square().sum() + x.square().sum() + y.square().sum() - 2 * cross).item()


def frechet_estimate(x: Tensor, y: Tensor) -> Estimate:
    """`frechet_distance` with its interval."""
    pairs = zip(*all_and_halves(len(x), len(y), num_features=x.shape[1]), strict=True)
    value, *of_halves = (frechet_distance(x[a.bool()], y[b.bool()]) for a, b in pairs)
    return estimate(value, torch.tensor(of_halves).double(), min(len(x), len(y)))


def distance_of_patches(x: Tensor, y: Tensor) -> Tensor:
    """`sliced_wasserstein` of parts of 16 images, for each image of its part (N,): that of more images is smaller."""
    parts = zip(x.split(PART), y.split(PART), strict=True)
    return torch.cat([sliced_wasserstein(*pair).expand(len(pair[0])) for pair in parts])


def sliced_wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """Sliced Wasserstein distance of the patches of two sets of as many images (N, C, S, S); 0 for equal sets.

    Patches are projected on fixed random directions, in which the distance is that of sorted values. Images are halved
    while they hold a patch (Karras et al. 2018, arXiv 1710.10196, section 5, but with no Laplacian pyramid), and the
    distances are averaged over their sizes.
    """
    directions = torch.randn(NUM_PROJECTIONS, x.shape[1], PATCH, PATCH, generator=Generator().manual_seed(0))
    directions = F.normalize(directions.flatten(1)).view_as(directions).to(x)
    distances = []
    while x.shape[-1] >= PATCH:
        ranked = [F.conv2d(one, directions).transpose(0, 1).flatten(1).float().sort(dim=1).values for one in (x, y)]
        distances.append((ranked[0] - ranked[1]).abs().mean())
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return torch.stack(distances).mean()
