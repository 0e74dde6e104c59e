"""Host waits and overhead of a training step: what makes the host wait for the device, and what the Trainer costs.

    python benchmarks/host_waits.py
    python benchmarks/host_waits.py --trees ../before . --rounds 5

Trains tiny networks by `artart.train` on the CPU, for each set of settings below. In a few steps between two log lines
it counts operators and those among them for which a GPU's host would wait: reading a value, making a tensor from
Python numbers, operators whose result has an unknown size. Then it times steps without counting, and those of a plain
loop with the same network, objective, loader and optimizer: the difference is what Lightning and artart add. Each
measurement runs in a process of its own with one thread; medians over the rounds, in which trees take turns.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

COMMON = (
    *("image_size=16", "data.num_demo_images=80", "data.batch_size=4", "data.random_flip=true", "run_dir=run"),
    *("trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.log_every_n_steps=1000", "callbacks.grid=null"),
)
DIFFUSION = ("objective=diffusion", "loss=mse_diffusion", "model=unet_tiny", "model.model_channels=16")
AUTOENCODER = (
    "model=autoencoder",
    "model.model_channels=16",
    "+regularizer=noise",
    "objective.regularizer=${regularizer}",
)
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
    "diffusion, no augmentation, SGD": (*DIFFUSION, "objective.augment=null", "optimizer=sgd"),
    "diffusion, article's network": DIFFUSION[:2],
    "diffusion, ViT": (*DIFFUSION[:2], "model=vit", "model.hidden_size=32", "model.depth=2", "model.num_heads=2"),
    "diffusion, captions": (*DIFFUSION, "data.captions=auto"),
    "diffusion of latents": (
        *(*DIFFUSION, "first_stage=auto", "first_stage_settings.trainer.max_epochs=1", "first_stage_settings.loss=mse"),
        *("first_stage_settings.experiment=autoencoder", "first_stage_settings.model.model_channels=16"),
        "first_stage_settings.model.channel_mult=[1]",
    ),
}
COUNTED = range(4, 10)  # batches of an epoch
TIMED = range(4, 16)
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
    """Counts in some batches of an epoch, or times others; writes what it finds to found_RANK.json."""

    def __init__(self, counts: bool = True) -> None:
        self.counts = counts

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        batches = COUNTED if self.counts else TIMED
        if batch_idx == batches.start:
            self.started = time.perf_counter()
            self.mode = HostWaits()
            if self.counts:
                self.mode.__enter__()
        elif batch_idx == batches.stop:
            seconds = time.perf_counter() - self.started
            if self.counts:
                self.mode.__exit__(None, None, None)
            num = len(batches)
            waits = {place: count / num for place, count in self.mode.waits.items()}
            found = {"seconds": seconds / num, "operators": self.mode.num_operators / num, "waits": waits}
            Path(f"found_{trainer.global_rank}.json").write_text(json.dumps(found), encoding="utf-8")
