"""artart's diffusion, denoising-diffusion-pytorch and a loop as in diffusers' example on the same images.

    python -m benchmarks peers --comparison equal --root ~/art --weights ~/weights --precision bf16
    python -m benchmarks peers --comparison own --root ~/art --weights ~/weights --minutes 10

equal: one network, the same initial weights, order of images, optimizer, learning rates, EMA and number of images; only
objective and sampler are those of each package, with its defaults.
own: each with its own network of about 3 million parameters, optimizer, learning-rate schedule, batch size, flips and
EMA, for equal seconds, at a third, once and three times its default learning rate; the rate with the lowest mean KID
counts.

No classes. Samples are generated with EMA weights and about equal numbers of network evaluations. Seconds are CPU
seconds of the process (one thread), on a GPU wall time. The other packages are not dependencies of artart:

    pip install denoising-diffusion-pytorch diffusers
"""

import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from artart.data.datamodule import ArtDataModule
from artart.io.allocator import keep_freed_memory
from artart.io.page import Table
from benchmarks import judge
from benchmarks.contenders import CONTENDERS
from benchmarks.judge import Judge, save_grid
from benchmarks.loop import EQUAL_BATCH_SIZE, Clock, draw, equal_recipe, own_recipe, train
from benchmarks.records import Record, Records, grouped, slug, table

RATES = (1 / 3, 1.0, 3.0)  # times the default learning rate
QUICK = {"num_samples": 24, "images": 32, "evaluations": 3, "seeds": [0], "only": ["artart"]}
ART = "art itself"
MUON = "artart-muon"  # differs from artart with --comparison own alone
VARIANT = "comparison"


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--comparison", choices=["equal", "own"], default="equal")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", default="auto", help="of AlexNet: auto, or a folder")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--val-fraction", type=float, default=0.34)
    parser.add_argument("--images", type=int, default=40000, help="to train on, with --comparison equal")
    parser.add_argument("--minutes", type=float, default=10.0, help="to train for, with --comparison own")
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--evaluations", type=int, default=40, help="of the network, for a sample")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=[name for name in CONTENDERS if name != MUON])
    parser.add_argument("--rates", nargs="*", type=float, default=list(RATES), help="times lr, with --comparison own")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="auto")
    parser.set_defaults(threads=1)


def measure(
    name: str, seed: int, rate: float, data: ArtDataModule, judge: Callable[[], Judge], args: Namespace
) -> dict[str, Any]:
    contender, is_equal = CONTENDERS[name](args.image_size), args.comparison == "equal"
    steps, seconds = (args.images // EQUAL_BATCH_SIZE, None) if is_equal else (None, 60 * args.minutes)
    torch.manual_seed(seed)
    clock = Clock(args.device, steps, seconds)
    recipe = equal_recipe(contender, clock, args) if is_equal else own_recipe(contender, clock, args, rate)
    pixels = data.pixels_of(data.train_ids).to(args.device)
    net, of_training = train(contender, recipe, clock, pixels, seed, args)
    samples, of_sampling = draw(contender, net, seed, args)
    details = {"name": name, "seed": seed, "rate": rate, "images_seen": of_training["images"]}
    save_grid(samples, args.out / f"{slug(f'{name} {seed} {rate:.2f}')}.png", details)
    return {**of_training, **of_sampling, **judge()(samples), "version": version(contender.package)}


def run(args: Namespace, records: Records) -> None:
    keep_freed_memory()
    args.device = torch.device(args.device.replace("auto", "cuda" if torch.cuda.is_available() else "cpu"))
    data = ArtDataModule(args.root, args.image_size, val_fraction=args.val_fraction)
    data.load()
    judge = cache(lambda: Judge(data, args.weights, str(args.device)))
    for seed, name, rate in product(args.seeds, args.only, [1.0] if args.comparison == "equal" else args.rates):
        key = {"row": name, "seed": seed, "times_lr": round(rate, 2)}
        records.once(key, measure, name, seed, rate, data, judge, args)
    records.once({"row": ART}, lambda: judge().of_art(args.num_samples))


def best(records: list[Record]) -> list[Record]:
    """Of a contender those at the learning rate with the lowest mean KID."""
    rates = grouped(records, "times_lr").values()
    return min(rates, key=lambda own: statistics.mean(record["kid"] for record in own))


def tables(records: list[Record]) -> list[Table]:
    chosen = [record for own in grouped(records, "row").values() for record in best(own)]
    return [table("lowest mean KID of the learning rates", chosen, {"times_lr": "x lr", **judge.COLUMNS})]
