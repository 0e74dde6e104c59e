"""Start-up: seconds of --help, to a training's first step, and of a second start on many images.

    python -m benchmarks startup
    python -m benchmarks startup --rounds 3 --num-images 1000

Each row is a process of its own, in turn; medians over rounds. The images are demo art, made distinct by bytes at the
end, and lie in a folder that was read before, so that a second start finds and compares them and reads none. Rows that
import alone are the floor of what artart can reach.
"""

import json
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from artart.data import demo
from artart.io.page import Table
from benchmarks import training
from benchmarks.harness import ROOT, demo_art
from benchmarks.records import Record, Records, median, table

AGAIN = "artart.prepare, a second start on {:,} images"
GENERATE = "artart.generate, an image at 8 px in one step"
FIRST_STEP = "artart.train experiment=quickstart, to the end of the first step"
CHECKPOINT = ROOT / "tests" / "data" / "checkpoints" / "format_2.ckpt"
COLUMNS = {"seconds": "seconds", "cpu_seconds": "CPU seconds"}
QUICK = {"num_images": 20, "rounds": 1}


class Watch(Callback):
    """Writes the time of the end of the first step, in seconds of the clock and of the processor."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.path.write_text(json.dumps([time.time(), time.process_time()]))


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-images", type=int, default=10_000, help="of the folder that is read again")


def many_images(folder: Path, num: int) -> Path:
    """A folder of so many images, written once."""
    if not folder.exists():
        sources = [path.read_bytes() for path in sorted(demo_art(folder.with_name("demo_art")).rglob("*.jpg"))]
        folder.mkdir(parents=True)
        for k in range(num):
            (folder / f"{k:05}.jpg").write_bytes(sources[k % len(sources)] + k.to_bytes(4, "big"))
    return folder


def run(args: Namespace, records: Records) -> None:
    watched, cache = args.out / "first_step.json", args.out / "cache"
    many, few = (many_images(args.out / f"{num}_images", num) for num in (args.num_images, len(demo.CLASS_NAMES)))
    callback = f"{__name__}.Watch"
    watch = (
        f"+callbacks.watch._target_={callback}",
        f"+callbacks.watch.path={watched}",
        f"trusted_classes=[{callback}]",
    )
    quickstart = ("experiment=quickstart", "trainer.max_steps=1", f"run_dir={args.out / 'run'}")
    one_image = ("num_images=1", "sampler.num_steps=1")

    def prepare(folder: Path) -> list[str]:
        return ["-m", "artart.prepare", f"data.root={folder}", f"data.cache_dir={cache}", "image_size=32"]

    commands = {
        "import torch": ["-c", "import torch"],
        "import lightning.pytorch": ["-c", "import lightning.pytorch"],
        "import artart.data.datamodule, what artart.prepare imports": ["-c", "import artart.data.datamodule"],
        "artart.train --help": ["-m", "artart.train", "--help"],
        FIRST_STEP: ["-m", "artart.train", *quickstart, *watch],
        GENERATE: ["-m", "artart.generate", f"checkpoint={CHECKPOINT}", *one_image, f"out={args.out / 'generated'}"],
        AGAIN.format(len(demo.CLASS_NAMES)): prepare(few),
        AGAIN.format(args.num_images): prepare(many),
    }
    for folder in (few, many):
        training.spent([sys.executable, *prepare(folder)], args.out / "prepare.txt")

    def measure(row: str) -> dict[str, float]:
        for name in ("run", "generated"):
            shutil.rmtree(args.out / name, ignore_errors=True)
        started = time.time()
        seconds, cpu_seconds = training.spent([sys.executable, *commands[row]], args.out / "log.txt")
        if row == FIRST_STEP:
            ended, cpu_seconds = json.loads(watched.read_text())
            seconds = ended - started
        return {"seconds": seconds, "cpu_seconds": cpu_seconds}

    records.rounds(commands, args.rounds, measure)


def tables(records: list[Record]) -> list[Table]:
    return [table("start-up", records, COLUMNS, middle=median)]
