"""How samples lie among real images, and how many different ones there are."""

from typing import Final

import torch
from torch import Tensor

from artart.metrics.distances import Estimate, all_and_halves, estimate, share

AMONG: Final = 3  # neighbours of precision and recall
NEAR: Final = 5  # neighbours of density and coverage
MIN_IMAGES_FOR_NEIGHBOURS: Final = 2 * (NEAR + 1)  # halves have them too


def neighbour_metrics(samples: Tensor, real: Tensor) -> dict[str, Estimate]:
    """Precision, recall, density and coverage of samples (n, d) against real images (m, d).

    The ball of an image has the distance to its k-th nearest other image of its set as radius. Precision is the share
    of samples in a ball of real images, recall that of real images in a ball of samples, k = 3 (Kynkäänniemi et al.
    2019, arXiv 1904.06991, Eqs. 1 and 2). Density is the number of balls of real images that a sample lies in, over k,
    about 1 for real images; coverage is the share of these balls with a sample, k = 5 (Naeem et al. 2020, arXiv
    2002.09797, Eqs. 4 and 5). All depend on the number of images: compare at equal numbers only. n and m are at least
    MIN_IMAGES_FOR_NEIGHBOURS.
    """
    pairs = (samples, real), (samples, samples), (real, real)
    between, of_samples, of_real = (torch.cdist(*pair).float() for pair in pairs)
    chosen = [one.bool() for one in all_and_halves(len(samples), len(real))]
    rows = [_values(between[a][:, b], of_samples[a][:, a], of_real[b][:, b]) for a, b in zip(*chosen, strict=True)]
    columns = zip(("precision", "recall", "density", "coverage"), torch.stack(rows).T, strict=True)
    found = {name: estimate(of[0].item(), of[1:], min(between.shape)) for name, of in columns}
    nums = {"precision": len(samples), "recall": len(real), "density": None, "coverage": len(real)}
    return {name: _within_bounds(one, nums[name]) for name, one in found.items()}


def _within_bounds(one: Estimate, num: int | None) -> Estimate:
    """The interval from 0; of a share of `num` images the wider ends of it and of Wilson's, to 1.

    Near 0 and 1 the halves are too much alike; elsewhere Wilson's is too narrow, because it holds the balls fixed.
    """
    value, low, high = one
    assert low is not None and high is not None
    if num is None:
        return Estimate(value, max(0.0, low), high)
    of_num = share(round(value * num), num)
    assert of_num.low is not None and of_num.high is not None
    return Estimate(value, max(0.0, min(low, of_num.low)), min(1.0, max(high, of_num.high)))


def _values(between: Tensor, of_samples: Tensor, of_real: Tensor) -> Tensor:
    """Precision, recall, density and coverage from the distances (n, m), (n, n) and (m, m)."""
    reach = of_real.topk(NEAR + 1, largest=False).values  # the nearest is the image itself
    near = between < reach[:, NEAR]
    precision = (between <= reach[:, AMONG]).any(dim=1).double().mean()
    recall = (between <= of_samples.kthvalue(AMONG + 1, dim=1).values[:, None]).any(dim=0).double().mean()
    return torch.stack([precision, recall, near.sum() / (NEAR * len(near)), near.any(dim=0).double().mean()])


def vendi_score(x: Tensor) -> Estimate:
    """The effective number of different images among n, 1 to n; x (n, d) are features in double precision.

    exp of the entropy of the eigenvalues of K / n, where K holds the cosines of the images (Friedman and Dieng 2022,
    arXiv 2210.02410, Definition 3.1). It grows with n: compare at equal numbers only.
    """
    unit = torch.nn.functional.normalize(x, dim=1)
    (chosen,) = all_and_halves(len(x), num_features=min(len(x) // 2, x.shape[1]))
    value, *of_halves = (_vendi(unit[rows]) for rows in chosen.bool())
    return estimate(value, torch.tensor(of_halves).double(), len(x))


def _vendi(unit: Tensor) -> float:
    """Of features of length 1; K / n = unit unit^T / n has the positive eigenvalues of unit^T unit / n."""
    gram = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    values = torch.linalg.eigvalsh(gram / len(unit)).clamp(min=0)
    return torch.special.entr(values).sum().exp().item()
