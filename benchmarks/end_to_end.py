"""Whole programs: the article's as published and `python -m artart.train`, from the command to later epochs.

    python benchmarks/end_to_end.py --root ~/art --num-files 96 --rounds 2

Both train the article's network with its hybrid loss at 128 px on the same files, without held-out images, grids or
checkpoints; VGG-16 has random filters. In each round each program runs three times from an empty cache: for one step,
one epoch, and 1 + N epochs. Prints medians of wall and CPU seconds of the program and its child processes: to the first
step, for the first epoch including startup, and for each later epoch (difference of the last two runs, divided by N),
with images per second and the ratio to the article's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from article import LEARNING_RATE, PublishedModel, published_loss
from data import article_loader, repeat
from rich.console import Console
from rich.table import Table

from artart.io.terminal import progress_bar

OURS = (
    "data.val_fraction=0",
    "loss.perceptual.weights=random",
    "callbacks=none",
    "logger=none",
    "trainer.enable_progress_bar=false",
)
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


def spent(command: Sequence[str], cwd: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a program and its child processes."""
    started = time.perf_counter()
    with (cwd / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        log.seek(0)
        assert status == 0, log.read()[-2000:]
    return wall, usage.ru_utime + usage.ru_stime


def command(options: Sequence[str] | None, root: Path, size: int, cache: Path, epochs: int, steps: int) -> list[str]:
    if options is None:
        mine = [sys.executable, str(Path(__file__).absolute()), "--root", str(root), "--image-size", str(size)]
        return [*mine, "--article", str(epochs), str(steps)]
    settings = [f"data.root={root}", f"data.cache_dir={cache}", f"image_size={size}", f"trainer.max_epochs={epochs}"]
    return [sys.executable, "-m", "artart.train", *settings, f"trainer.max_steps={steps}", *OURS, *options]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder of JPEGs in sub-folders")
    parser.add_argument("--num-files", type=int, default=96)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--later-epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--article", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.article:
        article(args.root, args.image_size, *args.article)
        return
    turns = {"first step": (1, 1), "first epoch": (1, -1), "all": (1 + args.later_epochs, -1)}
    found: dict[str, dict[str, list[tuple[float, float]]]] = {name: {turn: [] for turn in turns} for name in PROGRAMS}
    with TemporaryDirectory() as folder, progress_bar() as bar:
        root = Path(folder, "art")
        repeat(args.root, args.num_files, root)
        task = bar.add_task("programs", total=args.rounds * len(PROGRAMS) * len(turns))
        for k in range(args.rounds):
            for name, options in PROGRAMS.items():
                for turn, (epochs, steps) in turns.items():
                    work = Path(folder, f"{k} {name} {turn}".replace(" ", "_"))
                    work.mkdir()
                    call = command(options, root, args.image_size, work / "cache", epochs, steps)
                    found[name][turn].append(spent(call, work))
                    bar.advance(task)
    table = Table("program", "first step", "first epoch", "later epochs", "images/s", "x article")
    base: list[float] = []
    for name, of_turns in found.items():
        rounds = zip(of_turns["all"], of_turns["first epoch"], strict=True)
        later = [tuple((a - b) / args.later_epochs for a, b in zip(*pair, strict=True)) for pair in rounds]
        columns = [
            [statistics.median(x) for x in zip(*rows, strict=True)]
            for rows in (of_turns["first step"], of_turns["first epoch"], later)
        ]
        base = base or columns[-1]
        ratios = " / ".join(f"{a / b:.2f}" for a, b in zip(base, columns[-1], strict=True))
        seconds = [" / ".join(f"{value:.1f}" for value in column) for column in columns]
        table.add_row(name, *seconds, f"{args.num_files / columns[-1][0]:.3g}", ratios)
    console = Console()
    console.print(table)
    console.print(f"wall / CPU seconds; {args.num_files} files, {args.image_size} px, {os.cpu_count()} CPU cores")


if __name__ == "__main__":
    main()
