"""What a diffusion checkpoint can do, on art that was left out of training, and whether it copies.

    python benchmarks/denoise.py --checkpoint RUN/checkpoints/best.ckpt

Prints the squared error of x0_hat by noise level beside that of returning x_t / alpha, which knows nothing of art, and
the energy of samples at the Nyquist frequencies against that of real pictures. Writes nearest.png: sixteen samples
above their nearest training pictures.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from overfit import nyquist_energy
from rich.console import Console
from rich.table import Table
from torch import Tensor

from artart import checkpoint
from artart.config import build
from artart.data.datamodule import ArtDataModule
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import Heun
from artart.images import grid, save, to_model
from artart.marks import Marks
from artart.objectives import Diffusion
from artart.terminal import progress_bar

NUM_BINS = 10
NUM_SAMPLES = 256


def errors_by_level(loaded: checkpoint.Loaded, x0: Tensor, y: Tensor) -> list[tuple[float, float]]:
    """Mean squared error of x0_hat, and of x_t / alpha, in each tenth of the noise level, of all pictures."""
    objective, generator = loaded.objective, torch.Generator().manual_seed(0)
    assert isinstance(objective, Diffusion)
    errors = []
    with progress_bar() as bar:
        for k in bar.track(range(NUM_BINS), description="denoising"):
            sums = torch.zeros(2)
            for images, labels in zip(x0.split(256), y.split(256), strict=True):
                r = ((k + torch.rand(len(images), generator=generator)) / NUM_BINS).clamp(0.001, 0.999)
                noised = objective.add_noise(images, torch.randn(images.shape, generator=generator), r)
                output = loaded.net(noised.x_t, noised.t, labels)
                for i, x0_hat in enumerate(
                    (objective.prediction.x0(output, noised.x_t, noised.level), noised.x_t / noised.level.alpha)
                ):
                    sums[i] += (x0_hat - images).square().mean(dim=(1, 2, 3)).sum()
            errors.append(((sums / len(x0))[0].item(), (sums / len(x0))[1].item()))
    return errors


def samples(loaded: checkpoint.Loaded, y: Tensor, guidance: float) -> Tensor:
    """A picture for each label."""
    objective, made = loaded.objective, []
    assert isinstance(objective, Diffusion)
    with progress_bar() as bar:
        for k in bar.track(range(0, len(y), 64), description="sampling"):
            seeds = range(k, min(k + 64, len(y)))
            *_, last = objective.sample(loaded.net, Heun(20), y[k : k + 64], seeds, Guidance(guidance))
            made.append(last.x_t)
    return torch.cat(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/denoise"))
    args = parser.parse_args()
    loaded = checkpoint.load(args.checkpoint)
    data: ArtDataModule = build(loaded.config, "data")  # split as it was for training
    with TemporaryDirectory() as folder:
        data.load(Path(folder))
    pixels, rows, labels = data.pictures.pixels, data.pictures.rows, data.pictures.labels
    train, held_out = (to_model(pixels[rows[ids]]) for ids in (data.train_ids, data.val_ids))
    with torch.inference_mode():
        errors = errors_by_level(loaded, held_out, labels[data.val_ids])
        drawn = torch.randperm(len(data.train_ids), generator=torch.Generator().manual_seed(0))[:NUM_SAMPLES]
        made = samples(loaded, labels[data.train_ids][drawn], args.guidance)
    table = Table("noise level r", "x0_hat", "x_t / alpha", "ratio")
    for k, (ours, naive) in enumerate(errors):
        table.add_row(
            f"{k / NUM_BINS:.1f} .. {(k + 1) / NUM_BINS:.1f}", f"{ours:.5f}", f"{naive:.5f}", f"{ours / naive:.3f}"
        )
    Console().print(table)
    Console().print(f"Nyquist energy of samples against real: {nyquist_energy(made) / nyquist_energy(train):.3f}")
    nearest = torch.cdist(made[:16].flatten(1), train.flatten(1)).argmin(dim=1)
    shown = [*zip(made[:16].split(8), train[nearest].split(8), strict=True)]
    save(grid([row for pair in shown for row in pair]), args.out / "nearest.png", Marks("composite", {}))


if __name__ == "__main__":
    main()
