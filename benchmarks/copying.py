"""Memorization against epochs, for few and many training images, with and without augmentation conditioning.

    python -m benchmarks copying --root ~/art --weights ~/weights

Trains unet_tiny at 32 px on subsets of the images, with others held out, for a number of images seen. Plots the
memorization rates of samples and their KID to held-out art against epochs: copying.png in --out, and with --write
docs/images/copying.png. `--only 100 --images 50000` trains the small set for longer first.
"""

import csv
import json
import random
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib import pyplot

from artart.data.find import find_all
from artart.io.page import Table
from benchmarks.records import Record, Records, grouped, slug
from benchmarks.training import train

matplotlib.use("Agg")
HELD_OUT = {100: 0.75, 1000: 0.75, 5000: 0.34}  # share, so that there are some to take thresholds from
BATCH = 16
MEASURED = {"memorization/rate": "by distance", "memorization/rate_ratio": "by ratio", "samples/kid_alexnet": "KID"}
FREE = ("images",)
QUICK = {"images": 32, "points": 1, "num_samples": 24, "only": ["100"], "precision": "32-true"}


class Curve(NamedTuple):
    num: int  # images to train on, about
    settings: tuple[str, ...] = ()


CURVES = {
    "100": Curve(100),
    "100, augmentation conditioning 0.12": Curve(100, ("objective.augment.probability=0.12",)),
    "1000": Curve(1000),
    "5000": Curve(5000),
}


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", default="auto", help="of AlexNet: auto, or a folder")
    parser.add_argument("--images", type=int, default=40_000, help="seen by each")
    parser.add_argument("--points", type=int, default=10, help="of a curve")
    parser.add_argument("--num-samples", type=int, default=200)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--only", nargs="*", choices=CURVES, default=list(CURVES))
    parser.set_defaults(device="cpu", threads=1)


def subset(root: Path, num: int, folder: Path) -> Path:
    """A table of so many images that about `num` are left to train on beside a share of HELD_OUT."""
    files = sorted(find_all(root).images)
    chosen = random.Random(0).sample(files, min(len(files), round(num / (1 - HELD_OUT[num]))))
    path = folder / f"{num}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("path\n" + "".join(f'"{one.relative_to(root)}"\n' for one in sorted(chosen)))
    return path


def measure(name: str, args: Namespace) -> dict[str, Any]:
    """Train, and return the points of each curve, finished epochs and values, and how many images were seen."""
    num, run_dir = CURVES[name].num, args.out / slug(name)
    epochs = max(1, args.images // num)
    monitor = f"every_n_images={max(1, args.images // args.points // 2)} guidance=1 num_images={args.num_samples}"
    words = [*CURVES[name].settings, f"data.metadata={subset(args.root, num, args.out)}", "logger=csv"]
    words += ["experiment=denoise", "model=unet_tiny", "objective.parameterization=v", f"data.batch_size={BATCH}"]
    words += [f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={max(1, epochs // args.points)}"]
    words += [f"callbacks.memorization.{word}" for word in (*monitor.split(), f"weights={args.weights}")]
    words += ["sampler=dpmpp_2m", "sampler.num_steps=20", "optimizer.lr=1e-3"]
    train(Namespace(**vars(args), val_fraction=HELD_OUT[num]), run_dir, *words)
    with (run_dir / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {key: [(int(row["epoch"]) + 1, float(row[key])) for row in rows if row.get(key)] for key in MEASURED}
    images = json.loads((run_dir / "result.json").read_text())["images_seen"]
    curves = {key: {"epochs": [k for k, _ in own], "values": [one for _, one in own]} for key, own in found.items()}
    return {**curves, "images_seen": images}


def run(args: Namespace, records: Records) -> None:
    for name in args.only:
        records.once({"row": name}, measure, name, args)
    for place in args.figures:
        draw(list(records), place / "copying.png")


def draw(records: list[Record], out: Path) -> None:
    figure, (memorization, distance) = pyplot.subplots(1, 2, figsize=(11, 4))
    for color, record in enumerate(records):
        number, *more = record["row"].split(",")
        for key in MEASURED:
            axes, style = distance if "kid" in key else memorization, "--" if "ratio" in key else "-"
            shown = [value * (1 if "kid" in key else 100) for value in record[key]["values"]]
            label = ",".join([f"{int(number):,} images", *more]) if style == "-" else None
            axes.plot(record[key]["epochs"], shown, style, color=f"C{color}", marker=".", label=label)
    memorization.axhline(1, color="grey", linewidth=0.8, label="held-out art (1 %)")
    memorization.set(xscale="log", xlabel="epochs", ylabel="samples that are near-duplicates (%)")
    memorization.legend(title="— distance, - - ratio", fontsize="small")
    distance.set(xscale="log", yscale="log", xlabel="epochs", ylabel="KID of samples to held-out art")
    figure.savefig(out, dpi=110, bbox_inches="tight")


def tables(records: list[Record]) -> list[Table]:
    made = []
    for name, (record,) in grouped(records, "row").items():
        epochs = next(iter(record[key]["epochs"] for key in MEASURED))
        rows = [[title, *(f"{value:.3g}" for value in record[key]["values"])] for key, title in MEASURED.items()]
        made.append(Table(f"{name} images, after epoch", ["", *map(str, epochs)], rows))
    return made
