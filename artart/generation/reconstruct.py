"""Images go through a network that was trained to reproduce them."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from artart.checkpoints.load import check_numbers
from artart.generation.inputs import Input, provenance_of_inputs, read_inputs
from artart.generation.plan import Sampling
from artart.generation.source import Source
from artart.io.images import save_new, to_pixels


@torch.inference_mode()
def reconstruct(source: Source, inputs: Iterable[Input], batch_size: int) -> Iterator[tuple[Input, Tensor]]:
    """Yield each input with its reconstruction (3, S, S) on the CPU.

    Raises:
        FloatingPointError: if the network outputs NaN or infinity.
    """
    remaining = iter(inputs)
    while batch := list(islice(remaining, batch_size)):
        x0_hat = source.loaded.net(torch.stack([one.x0 for one in batch]).to(source.device))
        check_numbers(x0_hat, source.path)
        yield from zip(batch, x0_hat.cpu(), strict=True)


def write_reconstructions(
    source: Source,
    how: Sampling,
    out: Path,
    input: str,  # noqa: A002 - the command's key
    side_by_side: bool,
) -> list[Path]:
    """Write each input's reconstruction (beside the input with `side_by_side`) and return the paths.

    Sub-folders of the input are kept; no file is replaced.

    Raises:
        ArtError: if no input can be used.
        FloatingPointError: if the network outputs NaN or infinity.
    """
    details, written = source.details("reconstruct"), []
    for one, x0_hat in reconstruct(source, read_inputs(Path(input), out, *source.preprocessing), how.batch_size):
        image = torch.cat([one.x0, x0_hat], dim=-1) if side_by_side else x0_hat
        provenance = provenance_of_inputs([one], details)
        written.append(save_new(to_pixels(image), out / one.name.with_suffix(".png"), provenance))
    return written
