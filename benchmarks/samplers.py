"""KID against evaluations of the network, for each sampler of a checkpoint, with guidance and without.

    python -m benchmarks samplers --root ~/art --weights ~/weights --checkpoint runs/diffusion/checkpoints/last.ckpt

A sampler of second order makes fewer steps for the same evaluations. A step with guidance counts once, though it
evaluates the network on twice the images. samplers.png has the curves; --write puts it into docs/images.
"""

from argparse import ArgumentParser, Namespace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib import pyplot

from artart.checkpoints.load import Loaded, load
from artart.data.labels import labels_of
from artart.diffusion.guidance import Guidance
from artart.diffusion.samplers import DDIM, DPMpp2M, Heun, UniPC
from artart.evaluation.samples import draw
from artart.io.page import Table
from benchmarks.judge import Judge, judge_of
from benchmarks.records import Record, Records, grouped, table

matplotlib.use("Agg")
SAMPLERS = {"ddim": DDIM, "heun": Heun, "dpmpp_2m": DPMpp2M, "unipc": UniPC}
EVALUATIONS = (5, 7, 9, 11, 15, 19, 29, 39, 59, 99)  # odd: Heun's last step takes one
QUICK = {"num_samples": 24, "evaluations": [3], "samplers": ["heun"], "weight": 1.5}
FREE = ("samplers", "evaluations", "device")


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", default="auto", help="of AlexNet: auto, or a folder")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--val-fraction", type=float, default=0.34, help="as in the checkpoint's run")
    parser.add_argument("--num-samples", type=int, default=2500)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--weight", type=float, default=1.5, help="of guidance")
    parser.add_argument("--samplers", nargs="*", choices=SAMPLERS, default=[*SAMPLERS])
    parser.add_argument("--evaluations", type=int, nargs="*", default=[*EVALUATIONS])
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(threads=1)


def measure(
    name: str, evaluations: int, weight: float, loaded: Loaded, judge: Judge, args: Namespace
) -> dict[str, Any]:
    sampler = SAMPLERS[name]((evaluations + 1) // 2 if name == "heun" else evaluations)
    y = labels_of(judge.data.names_of(judge.val_ids), loaded.label_names)
    labels = y[torch.arange(args.num_samples) % len(y)]
    return judge(draw(loaded, sampler, Guidance(weight), args.batch_size, 0, labels))


def run(args: Namespace, records: Records) -> None:
    loaded = load(args.checkpoint, device=args.device)
    judge = judge_of(args, loaded.config["image_size"])
    for weight, name, evaluations in product((1.0, args.weight), args.samplers, args.evaluations):
        key = {"row": name, "guidance": weight, "evaluations": evaluations}
        records.once(key, measure, name, evaluations, weight, loaded, judge, args)
    for place in args.figures:
        plot(list(records), place / "samplers.png")


def plot(records: list[Record], out: Path) -> None:
    by_weight = grouped(sorted(records, key=lambda one: (one["guidance"], one["evaluations"])), "guidance")
    figure, axes = pyplot.subplots(1, len(by_weight), figsize=(11, 4), sharey=True, squeeze=False)
    for ax, (weight, own) in zip(axes[0], by_weight.items(), strict=True):
        for name, points in grouped(own, "row").items():
            x, kid, low, high = ([one[key] for one in points] for key in ("evaluations", "kid", "kid_low", "kid_high"))
            colour = f"C{[*SAMPLERS].index(name)}"
            ax.plot(x, kid, marker=".", label=name, color=colour)
            ax.fill_between(x, low, high, alpha=0.15, color=colour)
        x = sorted({one["evaluations"] for one in own})
        ax.set(xscale="log", xlabel="evaluations of the network", title=f"guidance {weight:g}")
        ax.set_xticks(x, [str(one) for one in x])
        ax.minorticks_off()
    axes[0, 0].set(ylabel="KID of samples to held-out art", ylim=(0, None))
    axes[0, 0].legend()
    figure.savefig(out, dpi=110, bbox_inches="tight")


def tables(records: list[Record]) -> list[Table]:
    made = []
    for (weight, own), key in product(grouped(records, "guidance").items(), ("kid", "recall")):
        columns = {str(one): str(one) for one in sorted({record["evaluations"] for record in own})}
        cells = [{**record, str(record["evaluations"]): record.get(key)} for record in own]
        made.append(table(f"{key.replace('kid', 'KID')} after evaluations, guidance {weight:g}", cells, columns))
    return made
