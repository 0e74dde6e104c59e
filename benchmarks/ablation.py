"""Parts of the diffusion recipe after equal training time: several seeds, one thread each.

    python -m benchmarks ablation --root ~/art --vgg vgg16.pth --weights ~/weights --minutes 3

Trains 32 px denoisers with x0, v and eps, and x0 without the perceptual term, each for the same CPU time at a constant
learning rate. Errors are squared ones of x0_hat by noise level r.
"""

from argparse import ArgumentParser, Namespace
from functools import cache
from pathlib import Path

from artart.checkpoints.load import load
from artart.evaluation.samples import errors_by_level
from artart.io.images import to_model
from artart.io.page import Table
from benchmarks import training
from benchmarks.judge import COLUMNS, judge_of, run_and_judge
from benchmarks.records import Record, Records, table
from benchmarks.training import Row, Trainings

SIZE = 32
HYBRID, MSE = "loss=hybrid_diffusion", "loss=mse_diffusion"
NARROW = ("objective.noise_levels.mean=-1.28", "objective.noise_levels.std=1.0")
ROWS = {
    "x0": (HYBRID,),
    "v": (HYBRID, "objective.parameterization=v"),
    "eps": (HYBRID, "objective.parameterization=eps"),
    "x0, no perceptual term": (MSE,),
    "the same, whole logarithm, std 1": (MSE, *NARROW),
}
QUICK = {**training.QUICK, "only": ["x0"]}
LEVELS = {1: "0.1 - 0.2", 4: "0.4 - 0.5", 8: "0.8 - 0.9"}  # tenths of r that are shown


def options(parser: ArgumentParser) -> None:
    training.options(parser, ROWS, val_fraction=0.1, num_samples=256, precision="32-true")
    parser.add_argument("--minutes", type=float, default=3.0, help="CPU minutes of a row")


def run(args: Namespace, records: Records) -> None:
    common = ("experiment=denoise", "scheduler=constant")
    vgg = (f"loss.perceptual.weights={args.vgg}",)
    rows = {name: Row((*common, *own, *(vgg if HYBRID in own else ()))) for name, own in ROWS.items()}

    judge = cache(lambda: judge_of(args, SIZE))

    def errors(path: Path) -> dict[str, float]:
        data = judge().data
        found = errors_by_level(load(path), to_model(data.pixels_of(data.val_ids)), data.images.labels[data.val_ids])
        return {f"error_{k}": found[k] for k in LEVELS}

    run_and_judge(args, records, Trainings(args, rows), judge, also=errors)


def tables(records: list[Record]) -> list[Table]:
    errors = {f"error_{k}": f"error at r {level}" for k, level in LEVELS.items()}
    return [table("in equal CPU seconds", records, {**COLUMNS, **errors})]
