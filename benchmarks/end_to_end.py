"""Whole programs: the article's as published and `python -m artart.train`, from the command to later epochs.

    python -m benchmarks end_to_end --root ~/art --num-files 96 --rounds 2

Both train the article's network with its hybrid loss at 128 px on the same files, without held-out images, grids or
checkpoints; VGG-16 has random filters. In each round each program runs three times from an empty cache: for one step,
one epoch, and 1 + N epochs. Prints medians of wall and CPU seconds of the program and its child processes: to the first
step, for the first epoch including startup, and for each later epoch (difference of the last two runs, divided by N),
with images per second and the ratio to the article's.
"""

import statistics
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from artart.io.page import Table
from benchmarks import training
from benchmarks.article import LEARNING_RATE, PublishedModel, published_loss
from benchmarks.data import article_loader, repeat
from benchmarks.harness import ROOT
from benchmarks.records import Record, Records, grouped, median, table

OURS = (
    "data.val_fraction=0",
    "loss.perceptual.weights=random",
    "callbacks=none",
    "logger=none",
    "trainer.enable_progress_bar=false",
)
COLUMNS = {
    "step_0": "first step, s",
    "step_1": "CPU s",
    "epoch_0": "first epoch, s",
    "epoch_1": "CPU s",
    "later_0": "later epochs, s",
    "later_1": "CPU s",
    "per_second": "images/s",
    "x_later_0": "x first",
    "x_later_1": "x first, CPU",
}
QUICK = {"num_files": 16, "image_size": 32, "later_epochs": 1, "rounds": 1, "only": ["article", "artart"]}
PROGRAMS = {
    "article": None,
    "artart": (),
    "artart, targets cached": ("loss.perceptual.cache_targets=true",),
    "artart, crops": ("loss.perceptual.crop=0.5",),
    "artart, bf16": ("trainer.precision=bf16-mixed",),
    "artart, bf16, targets cached": ("trainer.precision=bf16-mixed", "loss.perceptual.cache_targets=true"),
}


def article(root: Path, size: int, num_epochs: int, num_steps: int) -> None:
    """The article's program; num_steps ends it early."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    net = PublishedModel(size).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    loader = article_loader(root, size, num_workers=0)
    done = 0
    for _ in range(num_epochs):
        for x0, _ in loader:
            optimizer.zero_grad()
            published_loss(net, 2 * x0.to(device) - 1, "random").backward()
            optimizer.step()
            done += 1
            if done == num_steps:
                return


def command(options: Sequence[str] | None, root: Path, size: int, cache: Path, epochs: int, steps: int) -> list[str]:
    if options is None:
        call = f"from benchmarks.end_to_end import *; article(Path({str(root)!r}), {size}, {epochs}, {steps})"
        return [sys.executable, "-c", call]
    settings = [f"data.root={root}", f"data.cache_dir={cache}", f"image_size={size}", f"trainer.max_epochs={epochs}"]
    return [sys.executable, "-m", "artart.train", *settings, f"trainer.max_steps={steps}", *OURS, *options]


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="a folder of JPEGs in sub-folders")
    parser.add_argument("--num-files", type=int, default=96)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--later-epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=PROGRAMS, default=[*PROGRAMS])


def run(args: Namespace, records: Records) -> None:
    turns = {"first step": (1, 1), "first epoch": (1, -1), "all": (1 + args.later_epochs, -1)}
    with TemporaryDirectory() as folder:
        root = Path(folder, "art")
        repeat(args.root, args.num_files, root)

        def measure(name: str) -> dict[str, float]:
            found = {}
            for turn, (epochs, steps) in turns.items():
                with TemporaryDirectory() as work:
                    call = command(PROGRAMS[name], root, args.image_size, Path(work, "cache"), epochs, steps)
                    found[turn] = training.spent(call, Path(work, "log"), Path(work), PYTHONPATH=str(ROOT))
            later = [(a - b) / args.later_epochs for a, b in zip(found["all"], found["first epoch"], strict=True)]
            pairs = {"step": found["first step"], "epoch": found["first epoch"], "later": later}
            seconds = {f"{name}_{k}": pair[k] for name, pair in pairs.items() for k in (0, 1)}
            return {**seconds, "per_second": args.num_files / later[0]}

        records.rounds(args.only, args.rounds, measure)


def tables(records: list[Record]) -> list[Table]:
    base = next(iter(grouped(records, "row").values()))
    first = {key: statistics.median(record[key] for record in base) for key in ("later_0", "later_1")}
    shown = ({**record, **{f"x_{key}": first[key] / record[key] for key in first}} for record in records)
    return [table("medians", shown, COLUMNS, middle=median)]
