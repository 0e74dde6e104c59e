"""Throughput of loading: the article's path (ImageFolder, verify(), Pillow in every epoch) and artart's pixel store.

    python -m benchmarks data --root ~/art --num-files 1000

Prints images per second of an epoch, medians of all rounds; the paths take turns. A first epoch includes everything
before its first batch: finding files, verify(), decoding, writing the store. If the folder has fewer files than asked
for, they are repeated; each copy has a comment of its own, so that none is an exact duplicate.
"""

import logging
import shutil
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from artart.data.datamodule import ArtDataModule
from artart.data.find import find_all
from artart.io.page import Table
from benchmarks.records import Record, Records, median, table

BATCH_SIZE = 32
PATHS = {"article, 0 workers": 0, "article, 2 workers": 2, "artart": 0}
QUICK = {"num_files": 32, "image_size": 32, "rounds": 1}


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


def measure(make: Callable[[], Iterable[tuple[Tensor, Tensor]]], later_epochs: int) -> tuple[float, float]:
    """Images per second of the first epoch, with what comes before it, and of later ones."""
    started = time.perf_counter()
    loader = make()
    first = served(loader) / (time.perf_counter() - started)
    started = time.perf_counter()
    return first, served(loader, later_epochs) / (time.perf_counter() - started)


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="a folder of JPEGs in sub-folders")
    parser.add_argument("--num-files", type=int, default=1000)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)


def run(args: Namespace, records: Records) -> None:
    torch.manual_seed(0)
    logging.basicConfig(level=logging.WARNING)
    with TemporaryDirectory() as folder:
        root, cache = Path(folder, "art"), Path(folder, "cache")
        repeat(args.root, args.num_files, root)

        def rates(name: str) -> dict[str, float]:
            shutil.rmtree(cache, ignore_errors=True)
            if name == "artart":
                first, later = measure(lambda: our_data(root, args.image_size, cache).train_dataloader(), 10)
            else:
                first, later = measure(lambda: article_loader(root, args.image_size, PATHS[name]), 1)
            return {"first": first, "later": later}

        records.rounds(PATHS, args.rounds, rates)


def tables(records: list[Record]) -> list[Table]:
    columns = {"first": "images/s, first epoch", "later": "later epochs"}
    return [table("medians", records, columns, middle=scattered)]


def scattered(values: Sequence[float]) -> str:
    return f"{median(values)} ({min(values):.4g} - {max(values):.4g})"
