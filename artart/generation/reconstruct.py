"""Reconstructions: images pass through a network that was trained to reproduce them."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from artart.checkpoints.load import Loaded, check_numbers
from artart.generation.inputs import Input, provenance_of_inputs, read_inputs
from artart.generation.plan import Item, Sampling, details_of


@torch.inference_mode()
def reconstruct(
    loaded: Loaded, inputs: Iterable[Input], batch_size: int, side_by_side: bool = False
) -> Iterator[tuple[Item, Tensor]]:
    """Yield each input's reconstruction on the CPU: (3, S, S), or (3, S, 2 S) with the input on its left.

    Raises FloatingPointError if the network outputs NaN or infinity.
    """
    remaining, details = iter(inputs), details_of(loaded, "reconstruct")
    while batch := list(islice(remaining, batch_size)):
        x0_hat = loaded.net(torch.stack([one.x0 for one in batch]).to(loaded.device))
        check_numbers(x0_hat, loaded.path)
        for one, image in zip(batch, x0_hat.cpu(), strict=True):
            item = Item(one.name.with_suffix(".png"), provenance_of_inputs([one], details))
            yield item, torch.cat([one.x0, image], dim=-1) if side_by_side else image


def write_reconstructions(
    loaded: Loaded,
    how: Sampling,
    out: Path,
    input: str,  # noqa: A002 - the command's key
    side_by_side: bool,
) -> list[Path]:
    """Write the reconstruction of each input and return the paths. Keeps sub-folders and replaces no file.

    Raises ArtError if no input can be used, and FloatingPointError as `reconstruct`.
    """
    inputs = read_inputs(Path(input), out, *loaded.preprocessing)
    return [
        item.save(image, out, how.upscale) for item, image in reconstruct(loaded, inputs, how.batch_size, side_by_side)
    ]
