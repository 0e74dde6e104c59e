"""Which family on small art sets: reconstruction, GAN, diffusion of pixels and of latents, at 32 px.

    python -m benchmarks families --root ~/art --weights ~/weights --vgg vgg16.pth --minutes 30
    python -m benchmarks families --root ~/art --weights ~/weights --vgg vgg16.pth --minutes 2 --device cuda

Each row trains with one thread for the same seconds of the CPU or a GPU, which include startup, the first stage and
encoding. It trains again for the number of images that the slowest generator saw. Samples are compared with held-out
images; for the article's autoencoder, which cannot sample, reconstructions are. The GAN and diffusion of pixels also
train for equal seconds on subsets of 100 and 1,000 images.

Several processes can divide the work by --only, --seeds and --of. Each run has a grid of samples in --out. A call with
all rows writes families.png: the first rows of each grid, and for the autoencoder held-out images above their
reconstructions.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from artart.checkpoints.load import load
from artart.evaluation import reconstruction
from artart.io.images import to_model, to_pixels
from artart.io.page import Table
from benchmarks import judge, training
from benchmarks.copying import HELD_OUT, subset
from benchmarks.judge import IN_ROW, contact_sheet, judge_of, save_grid
from benchmarks.records import Record, Records, grouped, table
from benchmarks.resolution import with_vgg
from benchmarks.training import Row, Trainings, jobs

SIZE = 32
RECONSTRUCTION, GAN, PIXELS = "reconstruction (cannot sample)", "GAN", "diffusion, pixels"
FACTOR_2 = ("experiment=autoencoder", f"image_size={SIZE}", "model.channel_mult=[1]", "loss=hybrid")
BATCHES = {"cpu": "data.batch_size=16", "cuda": "data.batch_size=64"}
ROWS = {
    RECONSTRUCTION: Row((f"image_size={SIZE}",)),
    GAN: Row(("experiment=gan", "trainer.precision=32-true")),  # gradient penalties in full precision
    PIXELS: Row(("experiment=diffusion_cpu",)),
    "diffusion, latents": Row(("experiment=latent", f"image_size={SIZE}"), FACTOR_2),
}
OF_SETS = (GAN, PIXELS)
SECONDS, IMAGES = "equal seconds", "equal numbers of images"
SIZES = {f"{size:,} images, {SECONDS}": size for size in (100, 1000)}
ENDS = {"": "value", "_low": "low", "_high": "high"}  # of a metric with its interval
COLUMNS = {
    **judge.COLUMNS,
    "train_seconds": "seconds of training",
    "psnr": "PSNR (dB)",
    "lpips_alex": "LPIPS-Alex",
    "kid_reconstruction": "KID of reconstructions",
}
FREE = ("of",)
QUICK = {**training.QUICK, "of": [SECONDS, IMAGES, next(iter(SIZES))]}


def options(parser: ArgumentParser) -> None:
    training.options(parser, ROWS, num_samples=1000)
    parser.add_argument("--minutes", type=float, default=30.0, help="of a row")
    parser.add_argument("--first-stage-minutes", type=float, default=10.0, help="of these for the first stage")
    all_of = [SECONDS, IMAGES, *SIZES]
    parser.add_argument("--of", nargs="*", choices=all_of, default=all_of, metavar="COMPARISON", help="; ".join(all_of))


class Comparison:
    """Rows that are trained alike and judged by the same images."""

    def __init__(self, title: str, records: Records, args: Namespace, rows: dict[str, Row], **data: Any) -> None:
        self.title, self.records, self.args = title, records, args
        self.trainings, self.judge = Trainings(args, rows), cache(lambda: judge_of(args, SIZE, **data))

    def measure(self, name: str, seed: int, steps: int | None = None) -> None:
        """Train a row and record how good it is; `steps` as in `Trainings.run`."""
        found = self.trainings.run(name, seed, steps)
        if not self.args.only_train:
            judge = self.reconstructed if name == RECONSTRUCTION else self.sampled
            self._record(name, lambda: {**found, **judge(self.args.out / found["checkpoint"], seed)}, seed)

    def of_art(self) -> None:
        """Record the metrics of as many training images as samples."""
        if not self.args.only_train:
            self._record("training images", lambda: self.judge().of_art(self.args.num_samples))

    def _record(self, name: str, measure: Callable[[], dict[str, Any]], seed: int = 0) -> None:
        self.records.once({"row": name, "seed": seed, "comparison": self.title}, measure)

    def sampled(self, path: Path, seed: int) -> dict[str, Any]:
        return self.judge().of_checkpoint(path, seed, self.args)

    def reconstructed(self, path: Path, seed: int) -> dict[str, Any]:
        """Of held-out images; the grid has them above, what is made of them below."""
        loaded, held_out = load(path), self.judge().held_out[: 4 * IN_ROW]
        with torch.inference_mode():
            pairs = [to_pixels(torch.cat([x, loaded.net(x)])) for x in to_model(held_out).split(IN_ROW)]
        save_grid(torch.cat(pairs), path.parents[1].with_suffix(".png"), {"checkpoint_sha256": loaded.sha256})
        found = reconstruction.measure(loaded, self.judge().data, {}, 64, self.judge().alexnet).metrics
        kid = {f"kid_reconstruction{end}": found["kid_alexnet"][key] for end, key in ENDS.items()}
        return {"psnr": found["psnr"]["mean"], "lpips_alex": found["lpips_alex"]["mean"], **kid}


def run(args: Namespace, records: Records) -> None:
    batches = BATCHES[args.device]
    rows = {name: Row((*row.settings, batches), with_vgg(row.first_stage, args)) for name, row in ROWS.items()}
    rows[RECONSTRUCTION] = Row(with_vgg((*ROWS[RECONSTRUCTION].settings, batches), args))
    equal = Comparison(SECONDS, records, args, rows)
    for title in args.of if args.seeds else ():
        if title in SIZES:
            compare(of_subset(SIZES[title], title, records, args, rows), [*OF_SETS], args)
        elif title == IMAGES:
            fewest = min(equal.trainings.steps(name) for name in ROWS if name != RECONSTRUCTION)
            compare(Comparison(title, records, args, rows), [*ROWS], args, fewest)
        else:
            compare(equal, [*ROWS], args)
            equal.of_art()
            if set(args.only) == {*ROWS} and not args.only_train:
                grids = [equal.trainings.grid(name, args.seeds[0]) for name in ROWS]
                for place in args.figures:
                    contact_sheet(grids, place / "families.png")


def compare(comparison: Comparison, names: Sequence[str], args: Namespace, steps: int | None = None) -> None:
    for name, seed in jobs(args):
        if name in names:
            comparison.measure(name, seed, steps)


def of_subset(size: int, title: str, records: Records, args: Namespace, rows: dict[str, Row]) -> Comparison:
    """The comparison of rows that train on few images; it has recorded the metrics of these."""
    table = subset(args.root, size, args.out)
    own = Namespace(**{**vars(args), "out": args.out / f"{size}_images", "val_fraction": HELD_OUT[size]})
    few = {name: Row((*rows[name].settings, f"data.metadata={table}")) for name in OF_SETS}
    comparison = Comparison(title, records, own, few, metadata=table)
    comparison.of_art()
    return comparison


def tables(records: list[Record]) -> list[Table]:
    return [table(title, own, COLUMNS) for title, own in grouped(records, "comparison").items()]
