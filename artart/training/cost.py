"""Memory and time of a run, from a few steps on a copy of its network before it begins."""

import logging
import time
from copy import deepcopy
from typing import NamedTuple, cast

import torch
from rich.filesize import decimal
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from artart import ArtError
from artart.config.build import Config
from artart.diffusion.guidance import null_labels
from artart.io import memory
from artart.io.images import Batch
from artart.objectives.base import Objective
from artart.training.trainer import precision_of

log = logging.getLogger(__name__)

NUM_IMAGES = (2, 4)  # in the measured steps; batch normalization needs two
MAX_SECONDS = 1.0  # that a step on a whole batch may take, to be measured too; after which a step is not repeated
MAX_REPEATS = 3  # of a step
STATE = 16  # bytes per parameter: gradient, two moments of Adam, average
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # by trainer.precision
BEYOND_SAVED = 1.4  # peak of a step over what it saves for the backward pass: gradients of maps, work space


class Cost(NamedTuple):
    """Of a training step."""

    fixed: float  # bytes
    per_image: float  # bytes
    seconds: float  # for an image

    def bytes(self, num_images: int) -> float:
        return self.fixed + self.per_image * num_images


def measure(
    net: nn.Module, objective: Objective, batch_size: int, device: torch.device, dtype: torch.dtype | None = None
) -> Cost:
    """Take steps on noise with copies of network and objective; neither they nor the state of random numbers change.

    `dtype`: of autocast, as in training; None: without.
    """
    net, objective = deepcopy(net).to(device), deepcopy(objective)
    if objective.loss.discriminator is not None:
        objective.loss.discriminator.to(device)
    with torch.random.fork_rng():
        few, more = (_step(net, objective, size, device, dtype)[0] for size in NUM_IMAGES)
        per_image = (more - few) / (NUM_IMAGES[1] - NUM_IMAGES[0])
        held = STATE + 4 * (device.type == "cuda")  # and the weights, which a GPU does not hold yet
        num_parameters = sum(one.numel() for one in _trained(net, objective))
        fixed = max(0.0, few - NUM_IMAGES[0] * per_image) + held * num_parameters
        seconds = _fastest(net, objective, NUM_IMAGES[1], device, dtype) / NUM_IMAGES[1]
        if batch_size * seconds < MAX_SECONDS:
            seconds = _fastest(net, objective, batch_size, device, dtype) / batch_size
    return Cost(fixed, BEYOND_SAVED * per_image, seconds)


def _fastest(
    net: nn.Module, objective: Objective, num_images: int, device: torch.device, dtype: torch.dtype | None
) -> float:
    """Seconds of the fastest of a few steps: others are delayed by first use, or by other work of the machine."""
    seconds: list[float] = []
    while len(seconds) < MAX_REPEATS and sum(seconds) < MAX_SECONDS:
        seconds.append(_step(net, objective, num_images, device, dtype)[1])
    return min(seconds)


def _trained(net: nn.Module, objective: Objective) -> list[nn.Parameter]:
    discriminator = objective.loss.discriminator
    return [*net.parameters(), *(discriminator.parameters() if discriminator is not None else ())]


def _step(
    net: nn.Module, objective: Objective, num_images: int, device: torch.device, dtype: torch.dtype | None
) -> tuple[int, float]:
    """Bytes that are saved for the backward pass, without parameters, and seconds.

    Where a discriminator is trained along, steps of the beginning and the end of a run differ: the bytes are the more,
    the seconds the mean.
    """
    when = (0.0, 1.0) if objective.loss.discriminator is not None else (1.0,)
    found = [_step_at(progress, net, objective, num_images, device, dtype) for progress in when]
    return max(size for size, _ in found), sum(seconds for _, seconds in found) / len(found)


def _step_at(
    progress: float,
    net: nn.Module,
    objective: Objective,
    num_images: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[int, float]:
    """Bytes and seconds of a step at the share `progress` of a run."""
    shape = (num_images, *(cast(int, size) for size in (net.channels, net.image_size, net.image_size)))
    batch = Batch(torch.rand(shape, device=device) * 2 - 1, null_labels(net, device).expand(num_images, -1))
    own = {parameter.untyped_storage().data_ptr() for parameter in _trained(net, objective)}
    saved = dict[int, int]()

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    started = time.perf_counter()
    precision = torch.autocast(device.type, dtype, enabled=dtype is not None)
    with precision, saved_tensors_hooks(note, lambda tensor: tensor):
        losses = objective(net, batch, torch.Generator(device).manual_seed(0), 0, 1, progress)
    losses["loss"].mean().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return sum(size for place, size in saved.items() if place not in own), time.perf_counter() - started


def check(
    config: Config, net: nn.Module, objective: Objective, num_images: int, device: torch.device, stage: str = "the run"
) -> None:
    """Log the memory and time of a run, or a stage of one, that trains on these images in one process.

    Raises ArtError if a step needs more memory than there is.
    """
    batch_size = min(config["data"]["batch_size"], num_images)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of a stage that was measured before
    free = memory.available(device)  # before measuring, whose memory torch keeps
    cost = measure(net, objective, batch_size, device, AUTOCAST.get(precision_of(config)))
    trainer = config["trainer"]
    num_processes = 1 if device.type == "cuda" else trainer["devices"]
    needed = num_processes * cost.bytes(batch_size)
    memory_of_step = decimal(int(needed))
    if free is not None and needed > free:
        fits = int((0.8 * free / num_processes - cost.fixed) / cost.per_image)
        smaller = f"data.batch_size={fits}, or " if fits > 0 else ""
        raise ArtError(
            f"data.batch_size={config['data']['batch_size']}: a step takes about {memory_of_step} of memory, and "
            f"{decimal(free)} are free; set {smaller}a smaller image_size or model"
        )
    batches = max(1, num_images // (batch_size * trainer["devices"] * trainer["num_nodes"]))
    if (limit := trainer["limit_train_batches"]) is not None:
        batches = min(batches, limit if isinstance(limit, int) else int(limit * batches))
    steps = trainer["max_epochs"] * batches
    if (limit := trainer["max_steps"]) != -1:
        steps = min(steps, limit * trainer["accumulate_grad_batches"])
    seconds = steps * batch_size * cost.seconds
    log.info("a step takes about %s of memory, %s %s; samples extra", memory_of_step, stage, in_words(seconds))


def in_words(seconds: float) -> str:
    """A duration, rounded: "about 40 s", "about 25 min", "about 3 h"."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:{'.2g' if seconds < 10 * length else '.0f'}} {unit}"
    return f"about {max(1, seconds):.0f} s"
