"""Host waits and overhead of a training step: what makes the host wait for the device, and what the Trainer costs.

    python -m benchmarks host_waits
    python -m benchmarks host_waits --trees ../before . --rounds 5

Trains tiny networks by `artart.train` on the CPU, for each set of settings below. In a few steps between two log lines
it counts operators and those among them for which a GPU's host would wait: reading a value, making a tensor from
Python numbers, operators whose result has an unknown size. Then it times steps without counting, and those of a plain
loop with the same network, objective, loader and optimizer: the difference is what Lightning and artart add (progress,
average, clipping). CPU time of a process of its own with one thread; medians over steps, and over rounds, in which
trees take turns.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from artart.io.page import Table
from benchmarks import training
from benchmarks.harness import ROOT
from benchmarks.records import Record, Records, median, table

COMMON = (
    *("image_size=16", "data.num_demo_images=160", "data.batch_size=4", "data.random_flip=true", "run_dir=run"),
    *("trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.log_every_n_steps=1000", "callbacks.grid=null"),
)
DIFFUSION = ("objective=diffusion", "loss=mse_diffusion", "model=unet_tiny", "model.model_channels=16")
AUTOENCODER = (
    "model=autoencoder",
    "model.model_channels=16",
    "+regularizer=noise",
    "objective.regularizer=${regularizer}",
)
TRAINED = ROOT / "tests" / "data" / "checkpoints" / "format_2.ckpt"
RANDOM = "loss.perceptual.weights=random"
SETTINGS = {
    "reconstruction": ("loss=mse",),
    "reconstruction, hybrid loss": (RANDOM,),
    "autoencoder, crops": (*AUTOENCODER, "loss=hybrid_crops", RANDOM),
    "autoencoder, adversarial, clipping": (
        *(*AUTOENCODER, "loss=hybrid_adversarial", RANDOM, "loss.start=0", "optimizer=adamw", "scheduler=cosine"),
        "trainer.gradient_clip_val=1",
    ),
    "diffusion": DIFFUSION,
    "diffusion, no average": (*DIFFUSION, "callbacks.ema=null"),
    "diffusion, clipping, two batches a step": (
        *(*DIFFUSION, "trainer.gradient_clip_val=1", "trainer.accumulate_grad_batches=2"),
    ),
    "diffusion, bf16": (*DIFFUSION, "trainer.precision=bf16-mixed"),
    "diffusion, Muon": (*DIFFUSION, "optimizer=muon"),
    "diffusion, augmentation, SGD": (*DIFFUSION, "objective.augment.probability=0.5", "optimizer=sgd"),
    "diffusion, article's network, hybrid loss": ("objective=diffusion", "loss=hybrid_diffusion", RANDOM),
    "diffusion, ViT": (*DIFFUSION[:2], "model=vit", "model.hidden_size=32", "model.depth=2", "model.num_heads=2"),
    "diffusion, captions": (*DIFFUSION, "data.captions=auto"),
    "diffusion of latents": (
        *(*DIFFUSION, "first_stage=auto", "first_stage_settings.trainer.max_epochs=1", "first_stage_settings.loss=mse"),
        *("first_stage_settings.experiment=autoencoder", "first_stage_settings.model.model_channels=16"),
        "first_stage_settings.model.channel_mult=[1]",
    ),
    "distillation": ("experiment=distill", f"init_from={TRAINED}", "image_size=8", "objective.guidance=2"),
    "GAN": ("objective=gan", "model.model_channels=8", "model.channel_mult=[1,2]"),
}
COUNTED = range(4, 10)  # batches of an epoch
COLUMNS = {"waits": "waits", "operators": "operators", "plain": "µs of a plain step", "beyond": "µs beyond it"}
FREE = ("trees", "settings")
QUICK = {"settings": ["reconstruction"], "rounds": 1}
WAITING = {  # operators that need a value of a tensor on the host
    *("_local_scalar_dense", "nonzero", "unique_dim", "_unique", "_unique2", "masked_select", "equal", "is_nonzero"),
    "lift_fresh",  # a tensor from Python numbers, which is copied to the device from pageable memory
}


class HostWaits(TorchDispatchMode):
    """Counts operators, and by place in the code those for which the host of a GPU would wait.

    On the CPU, optimizers read their counters of steps; a fused one on a GPU does not, so these reads do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_operators = 0
        self.waits = Counter[str]()
        self.reads = Reads(self.waits)

    def __enter__(self) -> "HostWaits":
        self.reads.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.reads.__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_operators += 1
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in WAITING or _copies_between_devices(name, args, kwargs or {}, result) or _selects(name, args):
            self.waits.update(_place(name))
        return result


class Reads(TorchFunctionMode):
    """Counts the same for a method that is no operator."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") == "tolist":
            self.waits.update(_place("tolist"))
        return function(*args, **(kwargs or {}))


def _copies_between_devices(name: str, args: Any, kwargs: Any, result: Any) -> bool:
    if name not in ("_to_copy", "copy_") or kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,)):
        return False
    source = args[0] if name == "_to_copy" else args[1]
    return source.device != result.device


def _selects(name: str, args: Any) -> bool:
    """Whether a tensor is indexed by one of bool."""
    return name == "index" and any(isinstance(one, Tensor) and one.dtype == torch.bool for one in args[1])


def _place(name: str) -> list[str]:
    """The innermost place of artart or Lightning that calls an operator; none within an optimizer's own code."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/optim/" in file and "swa_utils" not in file:
            return []
        if any(part in file for part in ("/artart/", "/lightning/", "swa_utils")):
            return [f"{name} {Path(file).parent.name}/{Path(file).name}:{frame.f_lineno}"]
        frame = frame.f_back
    return [name]


class Spy(Callback):
    """Counts in some batches of an epoch, times later ones and a plain loop; writes found_RANK.json."""

    def __init__(self) -> None:
        self.mode = HostWaits()
        self.times: list[float] = []  # seconds of CPU at which steps begin

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == COUNTED.start:
            self.mode.__enter__()
        if batch_idx == COUNTED.stop:
            self.mode.__exit__(None, None, None)
        if batch_idx > COUNTED.stop:
            self.times.append(time.process_time())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        num = len(COUNTED)
        found = {
            "operators": self.mode.num_operators / num,
            "waits": {place: count / num for place, count in self.mode.waits.items()},
            "seconds": _median_step(self.times),
            "plain": _median_step(plain_loop(trainer)),
        }
        Path(f"found_{trainer.global_rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _median_step(times: list[float]) -> float:
    return statistics.median(after - before for before, after in pairwise(times))


def plain_loop(trainer: Trainer) -> list[float]:
    """Train on for an epoch without Lightning; the seconds of CPU at which steps begin."""
    module: Any = trainer.lightning_module
    optimizer, times = trainer.optimizers[0], list[float]()
    precision: Any = trainer.precision_plugin
    for batch in trainer.train_dataloader:  # type: ignore[union-attr]
        times.append(time.process_time())
        with precision.forward_context():
            losses = module.objective(module.net, batch, torch.Generator(module.device).manual_seed(0))
        losses["loss"].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return times


def measure(tree: str, name: str) -> dict[str, Any]:
    """Train with the artart of a folder, in a process and a folder of its own."""
    paths = os.pathsep.join((tree, str(ROOT)))
    words = (
        *COMMON,
        *SETTINGS[name],
        "+callbacks.spy._target_=benchmarks.host_waits.Spy",
        "trusted_classes=[benchmarks.host_waits.Spy]",
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "artart.train", *words]
        Path(folder, "benchmarks").symlink_to(ROOT / "benchmarks")  # the same ruler for all trees; found first
        training.spent(command, Path(folder, "log.txt"), Path(folder), PYTHONPATH=paths, OMP_NUM_THREADS="1")
        return json.loads(Path(folder, "found_0.json").read_text(encoding="utf-8"))


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--trees", nargs="*", default=[str(ROOT)], help="folders that hold artart/")
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.set_defaults(threads=1)


def run(args: Namespace, records: Records) -> None:
    trees = {tree: str(Path(tree).resolve()) for tree in args.trees}
    names = {f"{name}; {tree}": (tree, name) for name in args.settings for tree in trees}

    def found(row: str) -> dict[str, Any]:
        tree, name = names[row]
        one = measure(trees[tree], name)
        plain, seconds = 1e6 * one["plain"], 1e6 * one["seconds"]
        counts = {"waits": sum(one["waits"].values()), "operators": one["operators"]}
        return {**counts, "plain": plain, "beyond": seconds - plain, "places": one["waits"]}

    records.rounds(names, args.rounds, found)


def tables(records: list[Record]) -> list[Table]:
    return [table("a step, medians", records, COLUMNS, middle=median)]
