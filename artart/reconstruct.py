"""Pictures go through a network that was trained to reproduce them."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from artart import ArtError
from artart.checkpoint import Loaded, check_numbers
from artart.data.files import Examined, examine_all, find
from artart.data.index import write_list
from artart.images import Batch, save, to_model, to_pixels
from artart.marks import Marks
from artart.objectives import Reconstruction
from artart.storage import free
from artart.terminal import near

log = logging.getLogger(__name__)


def reconstruct(loaded: Loaded, config: Mapping[str, Any], out: Path, settings: Mapping[str, object]) -> Iterator[Path]:
    """Write each input's reconstruction (beside the input with `compare`) and yield where it is.

    Sub-folders of the input are kept; no file that is there is replaced.

    Raises:
        ArtError: if no input can be used.
        FloatingPointError: if the network makes no numbers.
    """
    assert isinstance(loaded.objective, Reconstruction)
    if config["input"] is None:
        raise ArtError("input: needs a value: input=FILE_OR_FOLDER")
    source, device = Path(config["input"]), next(loaded.net.parameters()).device
    if out.resolve() == source.resolve():
        raise ArtError(f"out={out}: must be a folder, and not the one that holds the input")
    size, fit = loaded.config["image_size"], loaded.config["data"].get("fit", "squash")
    root, files = (source, find(source)) if source.is_dir() else (source.parent, [source])
    files = [path for path in files if out not in path.parents]  # what an earlier call wrote there
    rejected: list[tuple[Path, str, int]] = []
    num_written = 0
    examined = examine_all(files, size, fit, description="reconstructing")
    for pictures in batched(examined, config["batch_size"], rejected):
        pixels = torch.stack([torch.tensor(picture.pixels) for picture in pictures])
        x0 = to_model(pixels.permute(0, 3, 1, 2)).to(device)
        with torch.inference_mode():
            rows = loaded.objective.draw(loaded.net, Batch(x0, torch.zeros(len(x0), 1, dtype=torch.long)))
        check_numbers(rows[-1], config["checkpoint"])
        images = to_pixels(torch.cat(rows if config["compare"] else rows[-1:], dim=-1)).cpu()
        for picture, image in zip(pictures, images, strict=True):
            path = free(out / picture.path.relative_to(root).with_suffix(".png"))
            save(image, path, Marks("composite", {**settings, "input": picture.path.name}))
            num_written += 1
            yield path
    if not num_written:
        reasons = (
            "; ".join(f"{path.name}: {reason}" for path, reason, _ in rejected[:3]) or "no picture below this folder"
        )
        raise ArtError(f"input={source}: nothing to work on ({reasons})")
    if rejected:
        write_list(rejected, out / "rejected.csv")
        log.warning("%d of %d files cannot be used: see %s", len(rejected), len(files), near(out / "rejected.csv"))


def batched(
    examined: Iterable[Examined], batch_size: int, rejected: list[tuple[Path, str, int]]
) -> Iterator[list[Examined]]:
    """Usable pictures in batches as they come; the others go to `rejected`."""
    batch: list[Examined] = []
    for one in examined:
        if one.pixels is None:
            reason = one.facts.flaw or f"too large: {one.facts.width} x {one.facts.height} pixels"
            rejected.append((one.path, reason, one.facts.bytes))
            continue
        batch.append(one)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
