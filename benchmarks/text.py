"""Prompts against labels, and combinations of words that no training image had.

    python benchmarks/text.py --root ~/pomological --metadata ~/pomological.csv --weights ~/weights

Each seed trains a network on the labels of a column and one on captions, both on the same images for as many epochs,
and `artart.evaluate` judges both. The images of some pairs of two columns are left out of training; prompts of these
pairs and of others are compared. Existing runs are not trained again, so several processes can share the work.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections import Counter
from operator import eq
from pathlib import Path

import torch
from filelock import FileLock
from rich.console import Console
from rich.table import Table
from torch import Tensor

from artart.checkpoints.load import load
from artart.data.datamodule import ArtDataModule
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import DPMpp2M
from artart.evaluation.samples import draw
from artart.features.alexnet import features_of
from artart.metrics.fidelity import Classifier

LEAST, MOST = 15, 60  # images of a pair that may be left out
PER_PAIR = 20  # samples
NUM_STEPS = 20  # of DPM-Solver++


def tables(args: argparse.Namespace) -> tuple[Path, Path, list[tuple[str, str]]]:
    """The table without the images of some pairs, that of these alone, and the pairs."""
    with args.metadata.open(newline="") as file:
        rows = [{**row, "path": str(args.metadata.parent.absolute() / row["path"])} for row in csv.DictReader(file)]
    pairs = Counter((row[args.columns[0]], row[args.columns[1]]) for row in rows)
    out = [pair for pair, number in pairs.most_common() if LEAST <= number <= MOST and all(pair)][: args.num_pairs]
    files = args.out / "seen.csv", args.out / "left_out.csv"
    for file, is_kept in zip(files, (False, True), strict=True):
        with file.open("w", newline="") as target:
            writer = csv.DictWriter(target, rows[0].keys())
            writer.writeheader()
            writer.writerows(row for row in rows if ((row[args.columns[0]], row[args.columns[1]]) in out) == is_kept)
    return *files, out


def train(name: str, seed: int, args: argparse.Namespace, table: Path) -> Path:
    """Train a network, or find it; returns its folder."""
    folder = args.out / f"{name}_{seed}"
    captions = [f"data.captions=[{','.join(repr(text) for text in args.captions)}]"] if name == "text" else []
    words = [f"experiment={args.experiment}", f"data.root={args.root}", f"data.metadata={table}", *captions]
    words += [
        f"data.labels=[{','.join(args.columns[: 1 + (name == 'text')])}]",
        f"data.val_fraction={args.val_fraction}",
    ]
    words += [f"seed={seed}", f"trainer.max_epochs={args.epochs}", f"trainer.precision={args.precision}"]
    words += [f"trainer.check_val_every_n_epoch={args.epochs}", "trainer.limit_val_batches=20"]
    words += ["callbacks.memorization=null", "callbacks.best=null", "resume=auto", f"run_dir={folder}"]
    with FileLock(args.out / f"{name}_{seed}.lock"):
        if not (folder / "result.json").exists():
            print(folder.name, flush=True)
            subprocess.run([sys.executable, "-m", "artart.train", *words], check=True, stdout=subprocess.DEVNULL)
    return folder


def evaluate(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """KID, memorization and fidelity of a run."""
    out = folder.with_name(f"{folder.name}_judged")
    words = [f"checkpoint={folder}", f"metrics.weights={args.weights}", f"num_images={args.num_samples}", f"out={out}"]
    words += [f"guidance.weight={args.guidance}", "sampler=dpmpp_2m", f"sampler.num_steps={NUM_STEPS}"]
    with FileLock(args.out / f"{folder.name}.lock"):
        if not (out / "metrics.json").exists():
            subprocess.run([sys.executable, "-m", "artart.evaluate", *words], check=True, stdout=subprocess.DEVNULL)
    found = json.loads((out / "metrics.json").read_text())
    fidelity = found["fidelity"][args.columns[0]]
    return {
        "KID": found["kid_alexnet"]["value"],
        "recall": found["coverage"]["recall"],
        "near-duplicates": found["memorization"]["rate"]["value"],
        "fidelity": fidelity["value"],
        "floor": fidelity["floor"],
        "ceiling": fidelity["ceiling"],
        "reached": fidelity["of_ceiling"],
    }


class Pairs:
    """Recognition of both words of pairs, by classifiers of held-out images."""

    def __init__(self, args: argparse.Namespace, table: Path) -> None:
        self.args = args
        data = ArtDataModule(args.root, args.size, val_fraction=args.val_fraction, metadata=table, labels=args.columns)
        data.load()
        features = self.features(data.pixels_of(data.val_ids))
        names = list(zip(*data.names_of(data.val_ids), strict=True))
        self.classifiers = [Classifier(features, own) for own in names]

    def features(self, pixels: Tensor) -> Tensor:
        return torch.cat([features_of(part, self.args.weights, torch.device("cpu")) for part in pixels.split(256)])

    def right(self, pixels: Tensor, pairs: list[tuple[str, str]]) -> list[float]:
        """The shares of images in which the first, the second and both words of their pairs are recognised."""
        features = self.features(pixels)
        found = [classify(features) for classify in self.classifiers]
        hits = [[*map(eq, found[k], (pair[k] for pair in pairs))] for k in (0, 1)]
        return [*(sum(one) / len(one) for one in hits), sum(map(min, *hits)) / len(pairs)]

    def of_table(self, table: Path) -> list[float]:
        """Of real images."""
        data = ArtDataModule(self.args.root, self.args.size, metadata=table, labels=self.args.columns, min_per_label=1)
        data.load()
        ids = range(len(data.images.digests))
        return self.right(data.pixels_of(ids), [(one[0], one[1]) for one in data.names_of(ids)])

    def of_network(self, folder: Path, pairs: list[tuple[str, str]]) -> list[float]:
        loaded = load(folder / "checkpoints" / "last.ckpt")
        assert loaded.text
        asked = [pair for pair in pairs for _ in range(PER_PAIR)]
        y = loaded.text.encode([self.args.prompt.format(*pair) for pair in asked])
        return self.right(draw(loaded, DPMpp2M(NUM_STEPS), Guidance(self.args.guidance), 100, 0, y), asked)


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3g}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--metadata", type=Path, required=True, help="a table, its paths relative to its folder")
    parser.add_argument("--weights", default="auto", help="of AlexNet: auto, or a folder")
    parser.add_argument("--columns", nargs=2, default=["class", "artist"], help="the first is that of labels")
    parser.add_argument(
        "--captions", nargs="+", default=["{class} by {artist}", "{class}", "{fruit} by {artist}, {year}"]
    )
    parser.add_argument("--prompt", default="{} by {}", help="of a pair")
    parser.add_argument("--num-pairs", type=int, default=20, help="pairs that are left out")
    parser.add_argument("--experiment", default="diffusion_cpu")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--val-fraction", type=float, default=0.34)
    parser.add_argument("--guidance", type=float, default=1.0, help="weight of guidance")
    parser.add_argument("--num-samples", type=int, default=2000)
    parser.add_argument("--kinds", nargs="+", default=["labels", "text"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only-train", action="store_true", help="evaluate later")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/text"))
    args = parser.parse_args()
    args.out = args.out.absolute()
    args.out.mkdir(parents=True, exist_ok=True)
    seen, left_out, pairs = tables(args)
    runs = {(kind, seed): train(kind, seed, args, seen) for seed in args.seeds for kind in args.kinds}
    if args.only_train:
        return
    found = {key: evaluate(folder, args) for key, folder in runs.items()}
    whole = Table(f"{len(args.seeds)} seeds, {args.epochs} epochs", *next(iter(found.values())))
    for kind in args.kinds:
        columns = zip(*(found[kind, seed].values() for seed in args.seeds), strict=True)
        whole.add_row(kind, *(spread(list(values)) for values in columns))
    judge, table = Pairs(args, seen), Table("recognised", *args.columns, "both")
    with seen.open(newline="") as file:
        known = Counter((row[args.columns[0]], row[args.columns[1]]) for row in csv.DictReader(file))
    alike = [pair for pair, number in known.most_common() if number <= MOST * 3 and all(pair)][: len(pairs)]
    for name, asked in (("pairs that were left out", pairs), ("pairs that were seen", alike)):
        of_seeds = zip(*(judge.of_network(runs["text", seed], asked) for seed in args.seeds), strict=True)
        table.add_row(name, *(spread(list(values)) for values in of_seeds))
    table.add_row("art of the pairs left out", *(f"{value:.3g}" for value in judge.of_table(left_out)))
    Console(width=160).print(whole, table)


if __name__ == "__main__":
    main()
