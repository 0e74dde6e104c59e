"""How many epochs it takes until samples are copies, for few pictures and for many.

    python benchmarks/copying.py --root ~/art

Trains unet_tiny at 32 px on parts of the pictures, each beside others held out, for so many pictures seen, and draws
the copy rates of samples against epochs: docs/images/copying.png, with --out elsewhere. What was measured is kept under
--runs, and what is there is not done again: so --sizes 100 --pictures 50000 first lets the few be seen more often.
"""

import argparse
import csv
import os
import random
import subprocess
import sys
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from artart.data.files import find

matplotlib.use("Agg")
SIZES = (100, 1000, 5000)
HELD_OUT = {100: 0.75, 1000: 0.75, 5000: 0.34}  # share, so that there are some to take thresholds from
BATCH = 16


def train(num: int, args: argparse.Namespace) -> Path:
    """Train on about `num` pictures, in a process of its own; return the table of its curves."""
    run_dir, table = args.runs / str(num), args.runs / f"{num}.csv"
    curves = run_dir / "csv" / "metrics.csv"
    if (run_dir / "result.json").exists():
        return curves
    files = sorted(find(args.root))
    chosen = random.Random(0).sample(files, min(len(files), round(num / (1 - HELD_OUT[num]))))
    args.runs.mkdir(parents=True, exist_ok=True)
    table.write_text("path\n" + "".join(f'"{path.relative_to(args.root)}"\n' for path in sorted(chosen)))
    epochs = max(1, args.pictures // num)
    settings = [f"data.root={args.root}", f"data.metadata={table}", f"data.val_fraction={HELD_OUT[num]}"]
    settings += [f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={max(1, epochs // args.points)}"]
    settings += [f"callbacks.copies.every_n_images={args.pictures // args.points // 2}", "callbacks.copies.guidance=1"]
    settings += ["sampler=dpmpp_2m", "sampler.num_steps=20", f"callbacks.copies.num_images={args.num_samples}"]
    settings += [
        "model=unet_tiny",
        "objective.prediction=v",
        f"data.batch_size={BATCH}",
        "optimizer.lr=1e-3",
        "logger=csv",
        "resume=auto",
    ]
    settings += ["trainer.accelerator=cpu", "trainer.precision=bf16-mixed", f"run_dir={run_dir}", "callbacks.grid=null"]
    settings += ["+trainer.limit_val_batches=4", "callbacks.best=null", "callbacks.checkpoints=null"]
    command = [sys.executable, "-m", "artart.train", "experiment=denoise", *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return curves


def read(curves: Path, name: str) -> tuple[list[int], list[float]]:
    """Finished epochs and a curve's values."""
    with curves.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(name)]
    return [int(row["epoch"]) + 1 for row in rows], [float(row[name]) for row in rows]


def draw(curves: dict[int, Path], out: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for num, path in curves.items():
        for name, style in (("copies/rate", "-"), ("copies/rate_ratio", "--")):
            epochs, rates = read(path, name)
            label = f"{num:,} pictures" if style == "-" else None
            axes.plot(
                epochs, [100 * rate for rate in rates], style, color=f"C{SIZES.index(num)}", marker=".", label=label
            )
            sys.stdout.write(f"{num} {name}: {list(zip(epochs, rates, strict=True))}\n")
    axes.axhline(1, color="grey", linewidth=0.8, label="held-out art (1 %)")
    axes.set(xscale="log", xlabel="epochs", ylabel="samples that are copies (%)")
    axes.legend(title="— distance, - - ratio")
    figure.savefig(out, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=40_000, help="seen by each")
    parser.add_argument("--points", type=int, default=10, help="of a curve")
    parser.add_argument("--num-samples", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="*", choices=SIZES, default=SIZES)
    parser.add_argument("--runs", type=Path, default=Path("outputs/benchmarks/copying"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/copying.png"))
    args = parser.parse_args()
    draw({num: train(num, args) for num in args.sizes}, args.out)


if __name__ == "__main__":
    main()
