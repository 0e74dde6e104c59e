"""Throughput of loading: the article's path (ImageFolder, verify(), Pillow in every epoch) and artart's pixel store.

    python benchmarks/data.py --root ~/art --num-files 1000

Prints images per second of an epoch, medians of all rounds; the paths take turns. A first epoch includes everything
before its first batch: finding files, verify(), decoding, writing the store. If the folder has fewer files than asked
for, they are repeated; each copy has a comment of its own, so that none is an exact duplicate.
"""

import argparse
import logging
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from artart.data.datamodule import ArtDataModule
from artart.data.find import find_all

BATCH_SIZE = 32


def is_valid(path: str) -> bool:
    """The article's check of a file."""
    try:
        Image.open(path).verify()
        return True
    except (OSError, SyntaxError):
        return False


def article_loader(root: Path, size: int, num_workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """The published loader, without normalization (in article.published_loss): decodes every image in each epoch."""
    transform = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
    images = ImageFolder(root, transform, is_valid_file=is_valid)
    return DataLoader(images, BATCH_SIZE, shuffle=True, num_workers=num_workers)


def our_data(root: Path, size: int, cache: Path) -> ArtDataModule:
    data = ArtDataModule(root, image_size=size, batch_size=BATCH_SIZE, val_fraction=0, cache_dir=cache)
    data.load()
    return data


def served(batches: Iterable[tuple[Tensor, Tensor]], num_epochs: int = 1) -> int:
    """Iterate over epochs; return the number of images."""
    return sum(len(x0) for _ in range(num_epochs) for x0, _ in batches)


def repeat(root: Path, num_files: int, into: Path) -> None:
    """Copy num_files JPEGs of root, by class; a copy differs in a comment."""
    files = [path for path in find_all(root).images if path.suffix.lower() in (".jpg", ".jpeg")]
    assert files, f"{root} holds no JPEG"
    for i in range(num_files):
        source = files[i % len(files)]
        target = into / source.parent.name / f"{i:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        assert content.startswith(b"\xff\xd8"), f"{source} is no JPEG"
        target.write_bytes(content[:2] + b"\xff\xfe\x00\x0a" + b"%08d" % i + content[2:])


def loaders(root: Path, size: int, num_rounds: int, work: Path) -> Table:
    rates: dict[str, list[float]] = {}

    def measure(name: str, make: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        started = time.perf_counter()
        loader = make()
        rates.setdefault(f"{name}, first epoch", []).append(served(loader) / (time.perf_counter() - started))
        started = time.perf_counter()
        num_images = served(loader, 10 if name == "artart" else 1)
        rates.setdefault(f"{name}, later epochs", []).append(num_images / (time.perf_counter() - started))

    for _ in range(num_rounds):
        for num_workers in (0, 2):
            measure(f"article, {num_workers} workers", partial(article_loader, root, size, num_workers))
        measure("artart", lambda: our_data(root, size, work / "cache").train_dataloader())
        shutil.rmtree(work / "cache")
    base = statistics.median(rates["article, 0 workers, later epochs"])
    table = Table("path", "images/s", "lowest", "highest", "against article, 0 workers, later")
    for name, values in rates.items():
        middle = statistics.median(values)
        table.add_row(name, *(f"{value:.4g}" for value in (middle, min(values), max(values), middle / base)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder of JPEGs in sub-folders")
    parser.add_argument("--num-files", type=int, default=1000)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    logging.basicConfig(level=logging.WARNING)
    with TemporaryDirectory() as folder:
        root, work = Path(folder, "art"), Path(folder)
        repeat(arguments.root, arguments.num_files, root)
        Console().print(loaders(root, arguments.image_size, arguments.rounds, work))
        Console().print(f"{arguments.num_files} files, {arguments.image_size} px, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
