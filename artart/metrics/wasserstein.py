"""Sliced Wasserstein distance of patches: a distance of two sets of images that needs no pretrained network."""

from typing import Final

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

PATCH: Final = 7  # side of a patch in pixels
NUM_PROJECTIONS: Final = 32


def sliced_wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """The distance of the patches of two sets of as many images (N, C, S, S), averaged over sizes; 0 for equal sets.

    Patches are projected on fixed random directions, in which the distance is that of sorted values. Images are halved
    while they hold a patch (Karras et al. 2018, arXiv 1710.10196, section 5, but with no Laplacian pyramid).
    """
    directions = torch.randn(NUM_PROJECTIONS, x.shape[1], PATCH, PATCH, generator=Generator().manual_seed(0))
    directions = F.normalize(directions.flatten(1)).view_as(directions).to(x)
    distances = []
    while x.shape[-1] >= PATCH:
        ranked = [F.conv2d(one, directions).transpose(0, 1).flatten(1).float().sort(dim=1).values for one in (x, y)]
        distances.append((ranked[0] - ranked[1]).abs().mean())
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return torch.stack(distances).mean()
