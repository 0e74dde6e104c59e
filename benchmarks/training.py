"""Train rows of settings by `artart.train`, in a process of its own with one thread, for equal CPU time or images."""

import os
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from artart.checkpoints.load import load
from benchmarks.harness import ROOT
from benchmarks.records import kept, slug

CALIBRATION = {"cpu": (20, 200), "cuda": (100, 1000)}  # steps of two runs that measure the seconds of a step
QUICK_STEPS = 2
LAST = Path("checkpoints", "last.ckpt")
DEFAULTS = (  # those whose key the settings name are left out
    *("trainer.max_epochs=10000", "trainer.check_val_every_n_epoch=10000", "logger=none"),
    *("trainer.limit_val_batches=4", "data.num_workers=1", "callbacks.grid=null", "++callbacks.memorization=null"),
    *("callbacks.best=null", "callbacks.checkpoints=null"),
)


class Row(NamedTuple):
    """A training: settings of artart.train."""

    settings: tuple[str, ...]
    first_stage: tuple[str, ...] = ()  # of the autoencoder that is trained before; empty: none


def options(
    parser: ArgumentParser,
    rows: Iterable[str],
    seeds: Sequence[int] = (0, 1, 2),
    devices: Iterable[str] = CALIBRATION,
    **defaults: Any,
) -> None:
    """Options of benchmarks that train rows and judge their samples."""
    names = list(rows)
    parser.add_argument("--root", type=Path, required=True, help="a folder of images")
    parser.add_argument("--weights", default="auto", help="of AlexNet and LPIPS: auto, or a folder")
    parser.add_argument("--vgg", default="auto", help="weights of VGG-16: auto, random, or a file")
    parser.add_argument("--val-fraction", type=float, default=0.34)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(seeds), help="none: only show what is recorded")
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="ROW", help="; ".join(names))
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--guidance", type=float, default=1.0, help="weight of guidance")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--device", default="cpu", choices=devices, help="cpu: CPU seconds count; cuda: the clock")
    parser.add_argument("--only-train", action="store_true", help="judge later")
    parser.set_defaults(**{"threads": 1, **defaults})


QUICK = {"num_samples": 24, "seeds": [0], "vgg": "random", "precision": "32-true"}


def jobs(args: Namespace) -> Iterator[tuple[str, int]]:
    """Rows and seeds, all rows of a seed before the next."""
    return ((name, seed) for seed, name in product(args.seeds, args.only))


def spent(command: Sequence[str], log: Path, cwd: Path | None = None, **environment: str) -> tuple[float, float]:
    """Run a program; return the wall and CPU seconds of it and its children."""
    started = time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=cwd, stdout=file, stderr=file, env=os.environ | environment)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime


def train(args: Namespace, run_dir: Path, *settings: str) -> float:
    """Train with one thread; return CPU seconds, or with a GPU those of the clock.

    A training that was interrupted begins anew, since its seconds are not known.
    """
    shutil.rmtree(run_dir, ignore_errors=True)
    words = [*settings, f"data.root={args.root}", f"run_dir={run_dir}", f"data.val_fraction={args.val_fraction}"]
    named = {word.lstrip("+").partition("=")[0] for word in settings}
    of_args = (f"trainer.accelerator={args.device.replace('cuda', 'gpu')}", f"trainer.precision={args.precision}")
    for word in (*DEFAULTS, *of_args):
        key = word.lstrip("+").partition("=")[0]
        if not any(f"{name}.".startswith(f"{key}.") for name in named):
            words.append(word)
    print(run_dir.parent.name, run_dir.name, flush=True)
    command = [sys.executable, "-m", "artart.train", *words]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    wall, cpu = spent(command, run_dir.with_suffix(".txt"), OMP_NUM_THREADS="1", PYTHONPATH=paths)
    return cpu if args.device == "cpu" else wall


def steps_in(seconds: float, costs: Sequence[float], steps: Sequence[int]) -> int:
    """Steps in a number of seconds, where two runs of so many `steps` took `costs`; 1 at least."""
    per_step = (costs[1] - costs[0]) / (steps[1] - steps[0])
    return max(1, int((seconds - costs[0]) / per_step) + steps[0])


class Trainings:
    """Trainings of rows in the same seconds of the CPU or GPU, which include startup, the first stage and encoding."""

    def __init__(self, args: Namespace, rows: dict[str, Row]) -> None:
        """`args` has minutes, of a row, and first_stage_minutes, of these for the first stage."""
        self.args, self.rows = args, rows

    def first_stage(self, name: str) -> tuple[list[str], float]:
        """The setting of a row's first stage, and the seconds of its training."""
        settings, folder = self.rows[name].first_stage, self.args.out / slug(name)
        if not settings:
            return [], 0.0

        def run() -> float:
            num = self._steps(60 * self.args.first_stage_minutes, folder, "first_stage", *settings)
            return train(self.args, folder / "first_stage", *settings, f"trainer.max_steps={num}")

        return [f"first_stage={folder / 'first_stage' / LAST}"], kept(folder / "first_stage.json", run)

    def _steps(self, seconds: float, folder: Path, name: str, *settings: str) -> int:
        if self.args.quick:
            return QUICK_STEPS

        def costs() -> list[float]:
            train(self.args, folder / f"{name}_1", *settings, "trainer.max_steps=1")  # decodes images, only once
            return [train(self.args, folder / f"{name}_{n}", *settings, f"trainer.max_steps={n}") for n in both]

        both = CALIBRATION[self.args.device]
        return steps_in(seconds, kept(folder / f"{name}_costs.json", costs), both)

    def settings(self, name: str) -> tuple[list[str], float]:
        """All settings of a row, and the seconds of its first stage with the encoding of images."""
        (stage, seconds), folder = self.first_stage(name), self.args.out / slug(name)
        settings = [*self.rows[name].settings, *stage]
        if stage and not self.args.quick:  # the first of two equal runs encodes
            words = (*settings, f"trainer.max_steps={QUICK_STEPS}")
            runs = [folder / f"encode_{k}" for k in (0, 1)]
            first, second = kept(folder / "encoding.json", lambda: [train(self.args, run, *words) for run in runs])
            seconds += max(0.0, first - second)
        return settings, seconds

    def steps(self, name: str) -> int:
        """Steps of a row in its time."""
        settings, before = self.settings(name)
        return self._steps(60 * self.args.minutes - before, self.args.out / slug(name), "short", *settings)

    def grid(self, name: str, seed: int) -> Path:
        """Where the grid of a row's samples is, after its time."""
        return self.run_dir(name, seed, self.steps(name)).with_suffix(".png")

    def run_dir(self, name: str, seed: int, num_steps: int) -> Path:
        return self.args.out / slug(name) / f"seed_{seed}_steps_{num_steps}"

    def run(self, name: str, seed: int, steps: int | None = None, *more: str) -> dict[str, Any]:
        """Train a row, or find it: seconds, steps, images, and the checkpoint's path in --out.

        `steps`: instead of those in its time; -1: no limit, for rows that have one of their own.
        """
        (settings, before), num = self.settings(name), steps or self.steps(name)
        run_dir = self.run_dir(name, seed, num)
        words = [*settings, *more, f"seed={seed}", f"trainer.max_steps={num}"]
        seconds = kept(run_dir.with_suffix(".json"), lambda: train(self.args, run_dir, *words))
        loaded = load(run_dir / LAST)
        images = loaded.facts["images_seen"]
        return {
            "train_seconds": before + seconds,
            "steps": loaded.facts["global_step"],
            "images": images,
            "train_per_second": images / seconds,  # with startup, without a first stage
            "parameters": sum(parameter.numel() for parameter in loaded.net.parameters()),
            "checkpoint": str((run_dir / LAST).relative_to(self.args.out)),
        }
