"""FID and KID on Inception, as others publish them; for whoever can download its weights."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from artart import ArtError

SUBSET: Final = 1000  # pictures of a KID subset, as published
CHUNK: Final = 64


def distances(samples: Tensor, held_out: Tensor, real: Tensor) -> Mapping[str, Any]:
    """FID (Heusel et al. 2017) and KID (Binkowski et al. 2018) of samples against held-out pictures, by torchmetrics.

    Each stands beside that of training pictures `real`; all are uint8 (N, 3, S, S). KID's interval is twice its
    standard deviation over subsets; FID has none.

    Raises:
        ArtError: if torch-fidelity is missing, or the weights are neither here nor to be downloaded.
    """
    try:
        values = [_of(pictures, held_out) for pictures in (samples, real)]
    except ModuleNotFoundError:
        raise ArtError("metrics.inception=true: needs torch-fidelity: pip install 'artart[metrics]'") from None
    except OSError as error:
        raise ArtError(f"metrics.inception=true: Inception's weights cannot be had ({error}); leave it false") from None
    return {name: values[0][name] | {"real": values[1][name]} for name in values[0]}


def _of(pictures: Tensor, held_out: Tensor) -> dict[str, dict[str, float]]:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    fid = FrechetInceptionDistance()
    kid = KernelInceptionDistance(subset_size=min(SUBSET, len(pictures), len(held_out)))
    for metric in (fid, kid):
        for is_real, set_of_pictures in ((False, pictures), (True, held_out)):
            for part in set_of_pictures.split(CHUNK):
                metric.update(part, real=is_real)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        middle, deviation = (value.item() for value in kid.compute())
    value = fid.compute().item()
    return {
        "fid": {"value": value, "low": value, "high": value},
        "kid": {"value": middle, "low": middle - 2 * deviation, "high": middle + 2 * deviation},
    }
