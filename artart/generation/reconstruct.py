"""Images go through a network that was trained to reproduce them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from artart.checkpoints.load import Loaded, check_numbers
from artart.generation.inputs import provenance_of_inputs, read
from artart.io.images import Batch, save_new, to_model, to_pixels
from artart.objectives.reconstruction import Reconstruction

T = TypeVar("T")


def reconstruct(loaded: Loaded, config: Mapping[str, Any], out: Path, settings: Mapping[str, object]) -> Iterator[Path]:
    """Write each input's reconstruction (beside the input with `side_by_side`) and yield where it is.

    Sub-folders of the input are kept; no file that is there is replaced.

    Raises:
        ArtError: if no input can be used.
        FloatingPointError: if the network makes no numbers.
    """
    assert isinstance(loaded.objective, Reconstruction)
    device = next(loaded.net.parameters()).device
    inputs = read(loaded, Path(config["input"]), out, "reconstructing")
    for originals in batched(inputs, config["batch_size"]):
        x0 = to_model(torch.stack([original.pixels for original in originals])).to(device)
        with torch.inference_mode():
            rows = loaded.objective.draw(loaded.net, Batch(x0, torch.zeros(len(x0), 1, dtype=torch.long)))
        check_numbers(rows[-1], config["checkpoint"])
        images = to_pixels(torch.cat(rows if config["side_by_side"] else rows[-1:], dim=-1)).cpu()
        for original, image in zip(originals, images, strict=True):
            yield save_new(image, out / original.name.with_suffix(".png"), provenance_of_inputs([original], settings))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last of which may be shorter, as they come."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
