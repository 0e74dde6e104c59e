"""python -m artart.generate: a checkpoint and pictures become pictures."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from artart import ArtError
from artart.checks import check
from artart.cli import cli, told
from artart.config import CONF_DIR

if TYPE_CHECKING:
    import torch

    from artart.checkpoint import Loaded
    from artart.data.files import Examined

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="generate")
@told
def main(cfg: DictConfig) -> None:
    """Reconstruct each picture: the transform of training, the network, a PNG."""
    config = check(cfg)

    from artart import checkpoint
    from artart.storage import sha256
    from artart.terminal import near

    source = Path(config["checkpoint"])
    loaded = checkpoint.load(source, config["allow"])
    out = Path(config["out"] or f"outputs/samples/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    settings = {"mode": config["mode"], "checkpoint": source.name, "checkpoint_sha256": sha256(source)}
    if (out.exists() and not out.is_dir()) or out.resolve() == Path(config["input"]).resolve():
        raise ArtError(f"out={out}: must be a folder, and not the one that holds the input")
    written = list(reconstruct(loaded, config, out, settings))
    log.info("%s", near(written[0]) if len(written) == 1 else f"{len(written)} pictures in {near(out)}")
    if config["show"]:
        show(written[0])


def reconstruct(
    loaded: "Loaded", config: Mapping[str, Any], out: Path, settings: Mapping[str, object]
) -> Iterator[Path]:
    """Write each input's reconstruction (beside the input with `compare`) and yield where it is.

    Sub-folders of the input are kept; no file that is there is replaced.

    Raises:
        ArtError: if no input can be used.
    """
    import torch

    from artart.data.files import examine_all, find
    from artart.data.index import write_list
    from artart.images import Batch, save, to_model, to_pixels
    from artart.marks import Marks
    from artart.terminal import near

    source, device = Path(config["input"]), best_device(config["device"])
    size, fit = loaded.config["image_size"], loaded.config["data"].get("fit", "squash")
    root, files = (source, find(source)) if source.is_dir() else (source.parent, [source])
    files = [path for path in files if out not in path.parents]  # what an earlier call wrote there
    net = loaded.net.to(device)
    rejected: list[tuple[Path, str, int]] = []
    num_written = 0
    examined = examine_all(files, size, fit, description="reconstructing")
    for pictures in batched(examined, config["batch_size"], rejected):
        pixels = torch.stack([torch.tensor(picture.pixels) for picture in pictures])
        x0 = to_model(pixels.permute(0, 3, 1, 2)).to(device)
        with torch.inference_mode():
            rows = loaded.objective.draw(net, Batch(x0, torch.zeros(len(x0), dtype=torch.long)))
        images = to_pixels(torch.cat(rows if config["compare"] else rows[-1:], dim=-1)).cpu()
        for picture, image in zip(pictures, images, strict=True):
            path = free_name(out / picture.path.relative_to(root).with_suffix(".png"))
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
    examined: "Iterable[Examined]", batch_size: int, rejected: list[tuple[Path, str, int]]
) -> "Iterator[list[Examined]]":
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


def free_name(path: Path) -> Path:
    """The path, or with -2, -3 ... before its suffix if it is taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def best_device(name: str) -> "torch.device":
    """The device of that name; for `auto` the fastest here.

    Raises:
        ArtError: if it is not here.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, here in available.items() if here)
    if not available[name]:
        raise ArtError(f"device={name}: not here; device=cpu works everywhere")
    return torch.device(name)


def show(path: Path) -> None:
    """Open a picture in the desktop's viewer."""
    from PIL import Image

    log.info("showing %s", path)
    with Image.open(path) as image:
        image.show()


def run() -> None:
    cli(main, "generate")


if __name__ == "__main__":
    run()
