"""Parts of the diffusion recipe after equal training time: several seeds, one thread each, two runs at a time.

    python benchmarks/ablation.py --root ~/art --vgg vgg16.pth --weights ~/weights --minutes 3

Trains 32 px denoisers with x0, v and eps, and x0 without the perceptual term, each for the same time. Prints means
and standard deviations over seeds of KID to held-out art (AlexNet relu5; lower is better), the squared error of x0_hat
by noise level, and the number of images seen.
"""

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from artart.checkpoints import load as checkpoint
from artart.data.datamodule import ArtDataModule
from artart.diffusion.samplers import Heun
from artart.diffusion.sampling import sample_images
from artart.evaluation.samples import errors_by_level
from artart.features.alexnet import alexnet_features
from artart.io.images import to_model
from artart.io.weights import load
from artart.metrics.distances import kernel_distance

VARIANTS = {
    "x0": ["loss=hybrid_diffusion"],
    "v": ["loss=hybrid_diffusion", "objective.parameterization=v"],
    "eps": ["loss=hybrid_diffusion", "objective.parameterization=eps"],
    "x0, no perceptual term": ["loss=mse_diffusion"],
    "the same, whole logarithm, std 1": [
        "loss=mse_diffusion",
        "objective.noise_levels.mean=-1.28",
        "objective.noise_levels.std=1.0",
    ],
}
NUM_SAMPLES = 256


def run(name: str, seed: int, args: argparse.Namespace) -> Path:
    """Train in a process of its own with one thread; return the checkpoint."""
    run_dir = args.out / f"{list(VARIANTS).index(name)}_seed_{seed}"
    checkpoint_path = run_dir / "checkpoints" / "last.ckpt"
    if not checkpoint_path.exists():
        settings = [*VARIANTS[name], f"seed={seed}", f"run_dir={run_dir}", f"data.root={args.root}"]
        settings += [f"loss.perceptual.weights={args.vgg}"] * ("loss=hybrid_diffusion" in settings)
        settings += [
            "scheduler=constant",
            "trainer.max_epochs=100000",
            f"trainer.max_time='00:00:{args.minutes:02}:00'",
        ]
        settings += ["callbacks.grid=null", "callbacks.best=null", "logger=none", "trainer.accelerator=cpu"]
        settings += ["trainer.check_val_every_n_epoch=100000"]
        command = [sys.executable, "-m", "artart.train", "experiment=denoise", *settings]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return checkpoint_path


def samples(loaded: checkpoint.Loaded, y: Tensor) -> Tensor:
    """Generate one image for each label."""
    return torch.cat([*sample_images(loaded.net, loaded.process, Heun(20), y, range(len(y)))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--vgg", type=Path, required=True)
    parser.add_argument("--weights", default="auto", help="of AlexNet: auto, or a folder")
    parser.add_argument("--minutes", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/ablation"))
    args = parser.parse_args()
    jobs = list(product(range(args.seeds), VARIANTS))
    with ThreadPoolExecutor(2) as pool:
        paths = dict(zip(jobs, pool.map(lambda job: run(job[1], job[0], args), jobs), strict=True))
    data = ArtDataModule(args.root, 32)
    data.load()
    x0, y = to_model(data.pixels_of(data.val_ids)), data.images.labels[data.val_ids]
    measured: dict[str, list[list[float]]] = {name: [] for name in VARIANTS}
    with torch.inference_mode():
        real = torch.cat([alexnet_features(part, args.weights) for part in x0.split(64)])
        for (_, name), path in paths.items():
            loaded = checkpoint.load(path)
            errors = errors_by_level(loaded, x0, y)
            drawn = torch.randint(len(y), (NUM_SAMPLES,), generator=torch.Generator().manual_seed(0))
            made = samples(loaded, y[drawn])
            fake = torch.cat([alexnet_features(part, args.weights) for part in made.split(64)])
            seen = load(path)["global_step"] * loaded.config["data"]["batch_size"]
            measured[name].append([kernel_distance(fake, real).value, errors[1], errors[4], errors[8], seen])
    table = Table("variant", "KID", "error at r 0.1-0.2", "0.4-0.5", "0.8-0.9", "images seen")
    for name, runs in measured.items():
        columns = list(zip(*runs, strict=True))
        table.add_row(name, *(f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.2g}" for values in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
