"""Memorization against epochs, for few and many training images, with and without augmentation conditioning.

    python benchmarks/copying.py --root ~/art --weights ~/weights

Trains unet_tiny at 32 px on subsets of the images, with others held out, for a number of images seen. Plots the
memorization rates of samples and their KID to held-out art against epochs: docs/images/copying.png, or --out. Results
are stored under --runs and not computed again: so `--only 100 --images 50000` can train the small set longer first, and
several processes can share the work.
"""

import argparse
import csv
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib import pyplot

from artart.data.find import find_all

matplotlib.use("Agg")
HELD_OUT = {100: 0.75, 1000: 0.75, 5000: 0.34}  # share, so that there are some to take thresholds from
BATCH = 16


class Curve(NamedTuple):
    num: int  # images to train on, about
    settings: tuple[str, ...] = ()


CURVES = {
    "100": Curve(100),
    "100, augmentation conditioning 0.12": Curve(100, ("objective.augment.probability=0.12",)),
    "1000": Curve(1000),
    "5000": Curve(5000),
}


def train(name: str, args: argparse.Namespace) -> Path:
    """Train in a process of its own; return the table of its curves."""
    num, run_dir = CURVES[name].num, args.runs / name.replace(",", "").replace(" ", "_")
    curves, table = run_dir / "csv" / "metrics.csv", args.runs / f"{num}.csv"
    if (run_dir / "result.json").exists():
        return curves
    files = sorted(find_all(args.root).images)
    chosen = random.Random(0).sample(files, min(len(files), round(num / (1 - HELD_OUT[num]))))
    args.runs.mkdir(parents=True, exist_ok=True)
    table.write_text("path\n" + "".join(f'"{path.relative_to(args.root)}"\n' for path in sorted(chosen)))
    epochs = max(1, args.images // num)
    settings = [*CURVES[name].settings, f"data.root={args.root}", f"data.metadata={table}"]
    settings += [f"data.val_fraction={HELD_OUT[num]}", "logger=csv", "resume=auto"]
    settings += [f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={max(1, epochs // args.points)}"]
    settings += [
        f"callbacks.memorization.every_n_images={args.images // args.points // 2}",
        "callbacks.memorization.guidance=1",
    ]
    settings += ["sampler=dpmpp_2m", "sampler.num_steps=20", f"callbacks.memorization.num_images={args.num_samples}"]
    settings += [f"callbacks.memorization.weights={args.weights}", "model=unet_tiny", "objective.parameterization=v"]
    settings += [f"data.batch_size={BATCH}", "optimizer.lr=1e-3", "+trainer.limit_val_batches=4"]
    settings += ["trainer.accelerator=cpu", "trainer.precision=bf16-mixed", f"run_dir={run_dir}"]
    settings += [f"callbacks.{name}=null" for name in ("grid", "best", "checkpoints")]
    command = [sys.executable, "-m", "artart.train", "experiment=denoise", *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return curves


def read(curves: Path, name: str) -> tuple[list[int], list[float]]:
    """Read a curve: finished epochs and values."""
    with curves.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(name)]
    return [int(row["epoch"]) + 1 for row in rows], [float(row[name]) for row in rows]


def draw(curves: dict[str, Path], out: Path) -> None:
    figure, (memorization, distance) = pyplot.subplots(1, 2, figsize=(11, 4))
    for name, path in curves.items():
        for axes, column, style in (
            (memorization, "memorization/rate", "-"),
            (memorization, "memorization/rate_ratio", "--"),
            (distance, "samples/kid_alexnet", "-"),
        ):
            epochs, values = read(path, column)
            shown = values if axes is distance else [100 * value for value in values]
            number, *more = name.split(",")
            label = ",".join([f"{int(number):,} images", *more]) if style == "-" else None
            axes.plot(epochs, shown, style, color=f"C{list(CURVES).index(name)}", marker=".", label=label)
            sys.stdout.write(f"{name}, {column}: {list(zip(epochs, values, strict=True))}\n")
    memorization.axhline(1, color="grey", linewidth=0.8, label="held-out art (1 %)")
    memorization.set(xscale="log", xlabel="epochs", ylabel="samples that are near-duplicates (%)")
    memorization.legend(title="— distance, - - ratio", fontsize="small")
    distance.set(xscale="log", yscale="log", xlabel="epochs", ylabel="KID of samples to held-out art")
    figure.savefig(out, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", default="auto", help="of AlexNet: auto, or a folder")
    parser.add_argument("--images", type=int, default=40_000, help="seen by each")
    parser.add_argument("--points", type=int, default=10, help="of a curve")
    parser.add_argument("--num-samples", type=int, default=200)
    parser.add_argument("--only", nargs="*", choices=CURVES, default=list(CURVES))
    parser.add_argument("--runs", type=Path, default=Path("outputs/benchmarks/copying"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/copying.png"))
    args = parser.parse_args()
    draw({name: train(name, args) for name in args.only}, args.out)


if __name__ == "__main__":
    main()
