"""Images of 128 px in equal CPU seconds: denoisers of pixels, small pixels enlarged, and latent diffusion.

    python benchmarks/resolution.py --root ~/art --weights ~/weights --vgg vgg16.pth

Each row trains with one thread for the same CPU seconds in all, which include startup, the first stage and encoding.
The number of steps follows from two short runs. Samples of all rows are compared at 128 px with held-out images: KID,
precision and recall on AlexNet, power spectrum, near-duplicates. The last row is of as many training images. Existing
runs and metrics are not computed again, so several processes can share the work (--rows, --seeds).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from rich.console import Console
from rich.table import Table
from torch import Tensor

from artart.checkpoints.load import Loaded, load
from artart.data.datamodule import ArtDataModule
from artart.data.labels import labels_of
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Heun
from artart.evaluation.samples import draw
from artart.features.alexnet import features_of
from artart.io.files import write_json
from artart.io.images import enlarged, to_model
from artart.metrics.distances import coverage, kernel_distance
from artart.metrics.memorization import MemorizationTest
from artart.metrics.spectrum import radial_power, spectral_distance

SIZE = 128
BATCH = 50  # samples that are drawn at once
SHORT, LONG = 20, 60  # steps of the runs that measure the seconds of a step


class Row(NamedTuple):
    """A way to images of SIZE pixels."""

    settings: tuple[str, ...]
    first_stage: tuple[str, ...] = ()  # settings of the autoencoder's training; empty: none


PIXELS = ("experiment=diffusion_cpu", "objective.parameterization=x0", f"image_size={SIZE}")
VIT = ("model=vit", "model.patch_size=8", "model.hidden_size=192", "model.depth=6", "model.num_heads=3")
ROWS = {
    "pixels, U-Net, patches of 4": Row((*PIXELS, "model.patch_size=4")),
    "pixels, ViT, patches of 8": Row((*PIXELS, *VIT)),
    "pixels of 32 px, enlarged": Row(("experiment=diffusion_cpu",)),
    "latents, f4": Row(("experiment=latent",), ("experiment=autoencoder",)),
    "latents, f8": Row(("experiment=latent",), ("experiment=autoencoder", "model=autoencoder_f8")),
}
QUIET = ("callbacks.grid=null", "callbacks.memorization=null", "callbacks.best=null", "callbacks.checkpoints=null")
MEASURES = ("KID", "precision", "recall", "spectrum (dB)", "near-duplicates", "training images/s", "samples/s")


def run(name: str, args: argparse.Namespace, run_dir: Path, *settings: str) -> float:
    """Train in a process of its own with one thread; returns its CPU seconds, with those of its children."""
    common = [f"data.root={args.root}", f"data.val_fraction={args.val_fraction}", "trainer.accelerator=cpu"]
    common += [f"trainer.precision={args.precision}", "trainer.max_epochs=10000", "logger=none", "data.num_workers=1"]
    common += ["trainer.check_val_every_n_epoch=10000", "trainer.limit_val_batches=4", f"run_dir={run_dir}"]
    command = [sys.executable, "-m", "artart.train", *settings, *common, *QUIET]
    print(f"{name}: {run_dir.name}", flush=True)
    quiet = [
        word for word in command if "callbacks.memorization" not in word or "experiment=autoencoder" not in command
    ]
    process = subprocess.Popen(quiet, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(quiet)}: failed")
    return used.ru_utime + used.ru_stime


def kept(path: Path, make: Any) -> Any:
    """What `make` returns, as JSON in a file; made once, also when several processes ask for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            write_json(path, make())
    return json.loads(path.read_text())


def first_stage(name: str, args: argparse.Namespace) -> tuple[list[str], float]:
    """The setting of the first stage of a row, and the CPU seconds that it took to train."""
    if not (settings := ROWS[name].first_stage):
        return [], 0.0
    folder = args.out / slug(name)
    crops = (f"loss.perceptual.weights={args.vgg}",)

    def train() -> float:
        costs = [
            run(name, args, folder / f"first_stage_{n}", *settings, *crops, f"trainer.max_steps={n}")
            for n in (SHORT, LONG)
        ]
        num = steps_in(60 * args.first_stage_minutes, costs)
        return run(name, args, folder / "first_stage", *settings, *crops, f"trainer.max_steps={num}")

    seconds = kept(folder / "first_stage.json", train)
    return [f"first_stage={folder / 'first_stage' / 'checkpoints' / 'last.ckpt'}"], seconds


def steps_in(seconds: float, costs: Sequence[float]) -> int:
    """Steps in a number of CPU seconds, where runs of SHORT and LONG steps took `costs`."""
    per_step = (costs[1] - costs[0]) / (LONG - SHORT)
    return int((seconds - costs[0]) / per_step) + SHORT


def train(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Train a row; returns its CPU seconds and its images per CPU second of training."""
    folder, (stage, before) = args.out / slug(name), first_stage(name, args)
    settings = (*ROWS[name].settings, *stage)

    def calibrate() -> list[float]:
        """CPU seconds of encoding, of SHORT and of LONG steps."""
        first, *costs = (
            run(name, args, folder / f"short_{k}", *settings, f"trainer.max_steps={n}")
            for k, n in enumerate((SHORT, SHORT, LONG))
        )
        return [max(0.0, first - costs[0]), *costs]

    encoding, *costs = kept(folder / "calibration.json", calibrate)

    def whole() -> dict[str, float]:
        left = 60 * args.minutes - before - encoding * bool(stage)
        num = steps_in(left, costs)
        seconds = run(name, args, folder / f"seed_{seed}", *settings, f"seed={seed}", f"trainer.max_steps={num}")
        batch = load(folder / f"seed_{seed}" / "checkpoints" / "last.ckpt").config["data"]["batch_size"]
        rate = batch * (LONG - SHORT) / (costs[1] - costs[0])
        return {"seconds": before + encoding * bool(stage) + seconds, "steps": num, "images_per_second": rate}

    return kept(folder / f"seed_{seed}.json", whole)


class Judge:
    """Metrics against held-out images, whose features are computed once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.data = ArtDataModule(args.root, SIZE, val_fraction=args.val_fraction)
        self.data.load()
        self.held_out, self.train = (self.data.pixels_of(ids) for ids in (self.data.val_ids, self.data.train_ids))
        groups = [self.data.images.groups[i] for i in self.data.train_ids]
        self.test = MemorizationTest(self.train, groups, self.held_out)
        self.features = self._features(self.held_out)
        self.power = radial_power(to_model(self.held_out))

    def _features(self, pixels: Tensor) -> Tensor:
        return features_of(pixels, self.args.weights, torch.device(self.args.device))

    def of_checkpoint(self, path: Path, seed: int) -> list[float]:
        """MEASURES of samples, without the training's; their speed is that of one batch on the CPU."""
        loaded = load(path, device=self.args.device)
        y = labels_of(self.data.names_of(self.data.val_ids), loaded.label_names)
        samples = self._samples(loaded, y[torch.arange(self.args.num_samples) % len(y)], seed)
        started = time.process_time()
        self._samples(load(path), y[:BATCH], seed)
        return [*self.measure(samples), BATCH / (time.process_time() - started)]

    def _samples(self, loaded: Loaded, y: Tensor, seed: int) -> Tensor:
        pixels = draw(loaded, Heun(20), Guidance(self.args.guidance), BATCH, 1000 * seed, y)
        return torch.stack([enlarged(one, SIZE // pixels.shape[-1]) for one in pixels])

    def measure(self, pixels: Tensor) -> list[float]:
        features = self._features(pixels)
        spectrum = spectral_distance(radial_power(to_model(pixels)), self.power).value
        memorized = self.test.judge(self.test.nearest(pixels))["rate"].double().mean().item()
        covered = coverage(features, self.features[: len(pixels)])
        return [kernel_distance(features, self.features).value, *covered, spectrum, memorized]

    def of_training_images(self) -> list[float]:
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        return self.measure(self.train[order[: self.args.num_samples]])


def slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3g}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", default="auto", help="of AlexNet: auto, or a folder")
    parser.add_argument("--vgg", default="auto", help="weights of VGG-16 for the first stage")
    parser.add_argument("--minutes", type=float, default=15, help="CPU minutes of a row")
    parser.add_argument("--first-stage-minutes", type=float, default=8, help="of these for the first stage")
    parser.add_argument("--val-fraction", type=float, default=0.34)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, nargs="+", default=list(range(len(ROWS))))
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--guidance", type=float, default=1.0, help="weight of guidance")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--device", default="cpu", help="where samples are drawn and compared; training is on the CPU")
    parser.add_argument("--only-train", action="store_true", help="evaluate later")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/resolution"))
    args = parser.parse_args()
    args.out = args.out.absolute()
    names = [list(ROWS)[k] for k in args.rows]
    trained = {(name, seed): train(name, seed, args) for seed in args.seeds for name in names}
    if args.only_train:
        return
    judge, table = Judge(args), Table("in equal CPU seconds", *MEASURES)
    with torch.inference_mode():
        for name in names:
            found = []
            for seed in args.seeds:
                folder = args.out / slug(name)
                path = folder / f"seed_{seed}" / "checkpoints" / "last.ckpt"
                *quality, rate = kept(folder / f"judged_{seed}.json", lambda p=path, s=seed: judge.of_checkpoint(p, s))
                found.append([*quality, trained[name, seed]["images_per_second"], rate])
            table.add_row(name, *map(spread, zip(*found, strict=True)))
        table.add_row("training images", *(f"{value:.3g}" for value in judge.of_training_images()))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
