"""Prompts against labels, and combinations of words that no training image had.

    python -m benchmarks text --root ~/pomological --metadata ~/pomological.csv --weights ~/weights

Each seed trains a network on the labels of a column and one on captions, both on the same images for as many epochs,
and `artart.evaluate` judges both. The images of some pairs of two columns are left out of training; prompts of these
pairs and of others are compared, 20 samples of each.
"""

import csv
import json
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from functools import cache
from operator import eq
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artart.checkpoints.load import load
from artart.data.datamodule import ArtDataModule
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import DPMpp2M
from artart.evaluation.features import extractor_for, features
from artart.evaluation.samples import draw
from artart.io.page import Table
from artart.metrics.fidelity import Classifier
from benchmarks import training
from benchmarks.records import Record, Records, kept, table
from benchmarks.training import LAST, QUICK_STEPS, jobs, train

KINDS = ("labels", "text")
MIN_LEFT_OUT, MAX_LEFT_OUT = 15, 60  # images of a pair that may be left out
PER_PAIR = 20  # samples
CAPTIONS = ["{class} by {artist}", "{class}", "{fruit} by {artist}, {year}"]
QUICK = {
    **training.QUICK, "experiment": "denoise", "epochs": 1, "columns": ["class", "artist"], "captions": CAPTIONS[:2],
    "num_pairs": 1,
}  # fmt: skip
COLUMNS = {
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "near_duplicates": "near-duplicates",
    "value": "recognised",
    "floor": "by chance",
    "ceiling": "held-out art",
    "of_ceiling": "of the way",
}
Pair = tuple[str, str]


def options(parser: ArgumentParser) -> None:
    training.options(parser, KINDS, num_samples=2000)
    parser.add_argument("--metadata", type=Path, help="a table, its paths relative to its folder", required=True)
    parser.add_argument("--columns", nargs=2, default=["class", "artist"], help="the first is that of labels")
    parser.add_argument("--captions", nargs="+", default=CAPTIONS)
    parser.add_argument("--prompt", default="{} by {}", help="of a pair")
    parser.add_argument("--num-pairs", type=int, default=16, help="pairs that are left out")
    parser.add_argument("--experiment", default="diffusion_cpu")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=30)


def num_steps(args: Namespace) -> int:
    """Of DPM-Solver++."""
    return QUICK_STEPS if args.quick else 20


def split(args: Namespace) -> tuple[Path, Path, list[Pair], list[Pair]]:
    """Tables without and with the images of some pairs; these pairs, and others that are about as frequent."""
    with args.metadata.open(newline="") as file:
        rows = [{**row, "path": str(args.metadata.parent.absolute() / row["path"])} for row in csv.DictReader(file)]

    def pair_of(row: dict[str, str]) -> Pair:
        return row[args.columns[0]], row[args.columns[1]]

    numbers = Counter(pair_of(row) for row in rows if all(pair_of(row))).most_common()
    pairs = [pair for pair, number in numbers if MIN_LEFT_OUT <= number <= MAX_LEFT_OUT]
    out, seen = pairs[::2][: args.num_pairs], pairs[1::2][: args.num_pairs]
    args.out.mkdir(parents=True, exist_ok=True)
    files = args.out / "seen.csv", args.out / "left_out.csv"
    for path, is_left_out in zip(files, (False, True), strict=True):
        with path.open("w", newline="") as target:
            writer = csv.DictWriter(target, rows[0].keys())
            writer.writeheader()
            writer.writerows(row for row in rows if (pair_of(row) in out) == is_left_out)
    return *files, out, seen


def trained(name: str, seed: int, args: Namespace, metadata: Path) -> Path:
    """Train a network, or find it; returns its folder."""
    folder, is_text = args.out / f"{name}_{seed}", name == "text"
    words = [f"experiment={args.experiment}", f"data.metadata={metadata}", f"seed={seed}"]
    words += [f"data.captions=[{','.join(map(repr, args.captions))}]"] if is_text else []
    words += [f"data.labels=[{','.join(args.columns[: 1 + is_text])}]", f"trainer.max_epochs={args.epochs}"]
    kept(folder.with_suffix(".json"), lambda: train(args, folder, *words))
    return folder


def judged(folder: Path, args: Namespace) -> dict[str, Any]:
    """KID, precision, recall, memorization and fidelity of a run."""
    out = folder.with_name(f"{folder.name}_judged")
    words = [f"checkpoint={folder}", f"metrics.weights={args.weights}", f"num_images={args.num_samples}", f"out={out}"]
    words += [f"guidance.weight={args.guidance}", "sampler=dpmpp_2m", f"sampler.num_steps={num_steps(args)}"]
    training.spent([sys.executable, "-m", "artart.evaluate", *words], out.with_suffix(".txt"))
    found = json.loads((out / "metrics.json").read_text())
    kid = {"kid": found["kid_alexnet"]["value"], "near_duplicates": found["memorization"]["rate"]["value"]}
    among = {name: found[name]["value"] for name in ("precision", "recall", "density", "coverage")}
    return {**kid, **among, **found["fidelity"].get(args.columns[0], {})}


class Pairs:
    """Recognition of both words of pairs, by classifiers of held-out images."""

    def __init__(self, args: Namespace, metadata: Path) -> None:
        self.args, self.alexnet = args, extractor_for("alexnet", args.weights, torch.device(args.device))
        data = self._data(metadata, val_fraction=args.val_fraction)
        found, names = self._features(data.pixels_of(data.val_ids)), zip(*data.names_of(data.val_ids), strict=True)
        self.classifiers = [Classifier(found, own) for own in names]

    def _data(self, metadata: Path, **more: Any) -> ArtDataModule:
        data = ArtDataModule(self.args.root, self.args.size, metadata=metadata, labels=self.args.columns, **more)
        data.load()
        return data

    def _features(self, pixels: Tensor) -> Tensor:
        return features(pixels, self.alexnet)

    def right(self, pixels: Tensor, pairs: list[Pair]) -> dict[str, float]:
        """The shares of images in which the first, the second and both words of their pairs are recognised."""
        found = self._features(pixels)
        guesses = [classify(found) for classify in self.classifiers]
        hits = [[*map(eq, guesses[k], (pair[k] for pair in pairs))] for k in (0, 1)]
        shares = [sum(one) / len(pairs) for one in (*hits, [*map(min, *hits)])]
        return dict(zip(("first", "second", "both"), shares, strict=True))

    def of_table(self, metadata: Path) -> dict[str, float]:
        """Of real images."""
        data = self._data(metadata, min_per_label=1)
        ids = range(len(data.images.digests))
        return self.right(data.pixels_of(ids), [(one[0], one[1]) for one in data.names_of(ids)])

    def of_network(self, folder: Path, pairs: list[Pair]) -> dict[str, float]:
        loaded = load(folder / LAST)
        assert loaded.text
        asked = [pair for pair in pairs for _ in range(PER_PAIR)]
        y = loaded.text.encode([self.args.prompt.format(*pair) for pair in asked])
        return self.right(draw(loaded, DPMpp2M(num_steps(self.args)), Guidance(self.args.guidance), 100, 0, y), asked)


def run(args: Namespace, records: Records) -> None:
    seen, left_out, pairs, others = split(args)
    folders = {job: trained(*job, args, seen) for job in jobs(args)}
    if args.only_train:
        return
    for (name, seed), folder in folders.items():
        records.once({"row": name, "seed": seed}, judged, folder, args)
    judge = cache(lambda: Pairs(args, seen))
    for seed in (seed for name, seed in folders if name == "text"):
        for row, asked in (("pairs that were left out", pairs), ("pairs that were seen", others)):
            key = {"row": row, "seed": seed}
            records.once(key, lambda *args: judge().of_network(*args), folders["text", seed], asked)
    records.once({"row": "art of the pairs left out"}, lambda: judge().of_table(left_out))


def tables(records: list[Record]) -> list[Table]:
    of_pairs = [record for record in records if "both" in record]
    networks = table("whole networks", (record for record in records if "both" not in record), COLUMNS)
    words = {"first": "first word", "second": "second word", "both": "both"}
    return [networks, table("recognised", of_pairs, words)]
