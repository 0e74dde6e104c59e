"""Contribution of each part of the recipe with few images: equal network, equal images seen, several seeds.

    python benchmarks/recipe.py --root ~/art --weights ~/weights --vgg vgg16.pth

Trains 32 px denoisers (unet_tiny) on a small subset of the images and compares samples with the rest: KID on AlexNet's
relu5 and, since LPIPS uses AlexNet, on VGG-16's relu3_3; precision and recall; power spectrum; near-duplicates. Each
row adds to the one before; the last adds autoguidance by a checkpoint of an eighth of the training. Existing runs and
metrics are not computed again, so several processes can share the work.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from artart.checkpoints.load import load
from artart.data.datamodule import ArtDataModule
from artart.diffusion.guidance import NO_GUIDANCE, Guidance
from artart.diffusion.samplers import Heun
from artart.evaluation.samples import draw
from artart.features.alexnet import features_of
from artart.features.pretrained import imagenet_units
from artart.features.vgg import vgg16_on
from artart.io.files import atomic, write_json
from artart.io.images import to_model
from artart.metrics.distances import coverage, kernel_distance
from artart.metrics.memorization import MemorizationTest
from artart.metrics.spectrum import radial_power, spectral_distance

AUGMENT = "objective.augment.probability=0.12"
VARIANTS = {
    "base": [],
    "+ augmentation conditioning": [AUGMENT],
    "+ perceptual term (LPIPS)": [AUGMENT, "loss=lpips_diffusion"],
}
GUIDED = "+ autoguidance"  # of the last variant
EIGHTHS = 8
MAX_HELD_OUT = 2500  # images that samples are held against
MEASURES = (
    "KID, AlexNet",
    "KID, VGG-16",
    "precision",
    "recall",
    "spectrum (dB)",
    "near-duplicates",
    "by ratio",
    "by a third",
)


def folder(name: str, seed: int, args: argparse.Namespace) -> Path:
    return args.out / f"{list(VARIANTS).index(name)}_seed_{seed}"


def train(name: str, seed: int, args: argparse.Namespace) -> None:
    """Train in a process of its own with one thread."""
    run_dir = folder(name, seed, args)
    if (run_dir / "result.json").exists():
        return
    settings = [*VARIANTS[name], f"seed={seed}", f"run_dir={run_dir}", f"data.root={args.root}"]
    settings += [f"loss.perceptual.weights={args.weights}"] * ("loss=lpips_diffusion" in settings)
    settings += [f"data.val_fraction={args.val_fraction}", f"trainer.max_epochs={args.epochs}", "optimizer.lr=1e-3"]
    settings += [
        "data.batch_size=16",
        "model=unet_tiny",
        "objective.parameterization=v",
        "trainer.accelerator=cpu",
        f"trainer.precision={args.precision}",
        "resume=auto",
    ]
    settings += ["callbacks.grid=null", "callbacks.memorization=null", "callbacks.best=null", "logger=none"]
    settings += [f"callbacks.checkpoints.every_n_epochs={args.epochs // EIGHTHS}"]
    settings += [f"trainer.check_val_every_n_epoch={args.epochs}", "+trainer.limit_val_batches=4"]
    command = [sys.executable, "-m", "artart.train", "experiment=denoise", *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


class Judge:
    """Metrics against training and held-out images, whose features are computed once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.data = ArtDataModule(args.root, 32, val_fraction=args.val_fraction)
        self.data.load()
        self.labels = self.data.images.labels[self.data.val_ids[:MAX_HELD_OUT]]
        held_out, train = (self.data.pixels_of(ids) for ids in (self.data.val_ids[:MAX_HELD_OUT], self.data.train_ids))
        self.test = MemorizationTest(train, [self.data.images.groups[i] for i in self.data.train_ids], held_out)
        self.seen = {name: see(held_out) for name, see in self._networks().items()}
        self.power = radial_power(to_model(held_out))

    def _networks(self) -> Mapping[str, Any]:
        def vgg(pixels: Tensor) -> Tensor:
            net = vgg16_on(self.args.vgg, torch.device("cpu"))
            parts = (net(imagenet_units(to_model(part))).mean(dim=(2, 3)) for part in pixels.split(64))
            return torch.cat([*parts]).double()

        def alexnet(pixels: Tensor) -> Tensor:
            return features_of(pixels, self.args.weights, torch.device("cpu"))

        return {"KID, AlexNet": alexnet, "KID, VGG-16": vgg}

    def __call__(self, path: Path, seed: int, guide: Path | None) -> list[float]:
        """MEASURES of a checkpoint, with autoguidance by `guide`."""
        guidance = Guidance(self.args.weight, network=load(guide).net) if guide else NO_GUIDANCE
        y = self.labels[torch.arange(self.args.num_samples) % len(self.labels)]
        samples = draw(load(path), Heun(20), guidance, 50, 1000 * seed, y)
        seen = {name: see(samples) for name, see in self._networks().items()}
        distances = [kernel_distance(features, self.seen[name]).value for name, features in seen.items()]
        covered = coverage(seen["KID, AlexNet"], self.seen["KID, AlexNet"][: len(samples)])
        spectrum = spectral_distance(radial_power(to_model(samples)), self.power).value
        memorization = self.test.judge(self.test.nearest(samples)).values()
        return [*distances, *covered, spectrum, *(found.double().mean().item() for found in memorization)]


def judged(judge: Judge, name: str, seed: int, args: argparse.Namespace) -> list[float]:
    """MEASURES of a run, stored beside it."""
    run_dir = folder(list(VARIANTS)[-1] if name == GUIDED else name, seed, args)
    kept = run_dir / ("guided.json" if name == GUIDED else "judged.json")
    if not kept.exists():
        path, guide = (run_dir / "checkpoints" / f"epoch_{n:04}.ckpt" for n in (args.epochs, args.epochs // EIGHTHS))
        with torch.inference_mode(), atomic(kept) as file:
            file.write(json.dumps(judge(path, seed, guide if name == GUIDED else None)).encode())
    return json.loads(kept.read_text())


def keep(args: argparse.Namespace) -> None:
    """Store the settings with the metrics."""
    ours = {name: str(getattr(args, name)) for name in ("root", "val_fraction", "epochs", "num_samples", "weight")}
    note = args.out / "settings.json"
    if note.exists() and (theirs := json.loads(note.read_text())) != ours:
        raise SystemExit(f"{note}: of other settings ({theirs}); name another folder by --out")
    write_json(note, ours)


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3g}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", default="auto", help="of AlexNet and LPIPS: auto, or a folder")
    parser.add_argument("--vgg", required=True, help="weights of VGG-16")
    parser.add_argument("--val-fraction", type=float, default=0.87)
    parser.add_argument("--epochs", type=int, default=16, help="a multiple of eight")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--weight", type=float, default=1.5, help="of autoguidance")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--only-train", action="store_true", help="evaluate later")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/recipe"))
    args = parser.parse_args()
    keep(args)
    with ThreadPoolExecutor(args.workers) as pool:
        for job in [pool.submit(train, name, seed, args) for seed, name in product(range(args.seeds), VARIANTS)]:
            job.result()
    if args.only_train:
        return
    judge = Judge(args)
    table = Table("variant", *MEASURES)
    for name in (*VARIANTS, GUIDED):
        columns = zip(*(judged(judge, name, seed, args) for seed in range(args.seeds)), strict=True)
        table.add_row(name, *map(spread, columns))
    alarms = judge.test.false_alarms().values()
    table.add_row("held-out art", *[""] * (len(MEASURES) - len(alarms)), *(f"{rate:.3g}" for rate in alarms))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
