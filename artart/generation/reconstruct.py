"""Reconstructions: images pass through a network that was trained to reproduce them."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from artart.checkpoints.device import check_numbers
from artart.checkpoints.load import Loaded
from artart.generation.inputs import Input, provenance_of_inputs, read_inputs
from artart.generation.output import Output
from artart.generation.plan import Item, Sampling, details_of
from artart.io.contact_sheet import ContactSheet
from artart.io.images import to_pixels

IN_ROW = 8  # images of a grid, half of them inputs


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
            provenance = provenance_of_inputs([one], details)
            item = Item(one.name.with_suffix(".png"), provenance, source=one._replace(original=None))
            yield item, torch.cat([one.x0, image], dim=-1) if side_by_side else image


def write_reconstructions(
    loaded: Loaded, how: Sampling, out: Output, input: str, side_by_side: bool
) -> tuple[Path, int]:
    """Write the reconstruction of each input, and of a folder grid.png: inputs and reconstructions side by side.

    Keeps sub-folders and replaces no file. The first is the grid, if there is one.

    Raises ArtError if no input can be used, and FloatingPointError as `reconstruct`.
    """
    num_files, inputs = read_inputs(Path(input), out.folder, *loaded.preprocessing)
    sheet, shown, num = ContactSheet(loaded.config["image_size"], out.resample), list[Input](), 0
    made = reconstruct(loaded, inputs, how.batch_size, side_by_side)
    for saved in out.save_items(made, how.batch_size):
        item, image, path, _ = saved
        num += 1
        if sheet.has_room(2) and item.source:
            shown.append(item.source)
            sheet.add(to_pixels(item.source.x0), item.source.name.stem)
            sheet.add(to_pixels(image[..., -image.shape[-2] :]))  # without the input beside it
    if num_files == 1:
        return path, num
    provenance = provenance_of_inputs(shown, details_of(loaded, "reconstruct"))
    return out.save(sheet.draw(IN_ROW), "grid.png", provenance), num + 1
