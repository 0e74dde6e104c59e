"""Contribution of each part of the recipe with few images: equal network, equal images seen, several seeds.

    python -m benchmarks recipe --root ~/art --weights ~/weights --vgg vgg16.pth

Trains 32 px denoisers (unet_tiny) on a small subset of the images and compares samples with the rest: KID on AlexNet's
relu5 and, since LPIPS uses AlexNet, on VGG-16's relu3_3; precision and recall; power spectrum; near-duplicates. Each
row adds to the one before; the last adds autoguidance by a checkpoint of an eighth of the training.
"""

from argparse import ArgumentParser, Namespace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artart.checkpoints.load import load
from artart.data.datamodule import ArtDataModule
from artart.diffusion.guidance import Guidance
from artart.features.pretrained import imagenet_units
from artart.features.vgg import vgg16_on
from artart.io.images import to_model
from artart.io.page import Table
from artart.metrics.distances import kernel_distance
from benchmarks import judge, training
from benchmarks.judge import Judge, run_and_judge
from benchmarks.records import Record, Records, table
from benchmarks.training import QUICK_STEPS, Row, Trainings

EIGHTHS = 8
AUGMENT = "objective.augment.probability=0.12"
COMMON = (
    *("experiment=denoise", "model=unet_tiny", "objective.parameterization=v", "optimizer.lr=1e-3"),
    "data.batch_size=16",
)
ROWS: dict[str, tuple[str, ...]] = {
    "base": (),
    "+ augmentation conditioning": (AUGMENT,),
    "+ perceptual term (LPIPS)": (AUGMENT, "loss=lpips_diffusion", "loss.perceptual.weights={weights}"),
}
GUIDED = "+ autoguidance"  # of the last row
MAX_HELD_OUT = 2500  # images that samples are held against
QUICK = {**training.QUICK, "epochs": 8, "val_fraction": 0.8, "only": [list(ROWS)[-1]]}


def options(parser: ArgumentParser) -> None:
    training.options(parser, ROWS, val_fraction=0.87)
    parser.add_argument("--epochs", type=int, default=16, help="a multiple of eight")
    parser.add_argument("--weight", type=float, default=1.5, help="of autoguidance")


class TwoFeatures(Judge):
    """Measures KID on VGG-16 too."""

    def __init__(self, args: Namespace) -> None:
        data = ArtDataModule(args.root, 32, val_fraction=args.val_fraction)
        data.load()
        super().__init__(data, args.weights, args.device, MAX_HELD_OUT, QUICK_STEPS if args.quick else 20)
        self.vgg = args.vgg

    def __call__(self, pixels: Tensor) -> dict[str, Any]:
        kid = kernel_distance(self._of_vgg(pixels), self._of_vgg(self.held_out))
        return {**super().__call__(pixels), "kid_vgg": kid.value}

    @torch.inference_mode()
    def _of_vgg(self, pixels: Tensor) -> Tensor:
        net = vgg16_on(self.vgg, torch.device("cpu"))
        parts = (net(imagenet_units(to_model(part))).mean(dim=(2, 3)) for part in pixels.split(64))
        return torch.cat([*parts]).double()


def run(args: Namespace, records: Records) -> None:
    epochs = (f"trainer.max_epochs={args.epochs}", f"callbacks.checkpoints.every_n_epochs={args.epochs // EIGHTHS}")
    rows = {name: Row((*COMMON, *epochs, *(word.format(**vars(args)) for word in own))) for name, own in ROWS.items()}
    trainings, judge = Trainings(args, rows), cache(lambda: TwoFeatures(args))
    run_and_judge(args, records, trainings, judge, steps=-1)

    def guided(seed: int) -> dict[str, Any]:
        folder = args.out / Path(trainings.run(last, seed, -1)["checkpoint"]).parent
        path, guide = (folder / f"epoch_{n:04}.ckpt" for n in (args.epochs, args.epochs // EIGHTHS))
        guidance = Guidance(args.weight, network=load(guide).net)
        return judge()(judge().samples(load(path), args.num_samples, seed, guidance))

    if (last := list(ROWS)[-1]) in args.only and not args.only_train:
        for seed in args.seeds:
            records.once({"row": GUIDED, "seed": seed}, guided, seed)


def tables(records: list[Record]) -> list[Table]:
    return [table("after equal numbers of images", records, {"kid_vgg": "KID, VGG-16", **judge.COLUMNS})]
