"""experiment=auto: an experiment for this machine and these images."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from rich.filesize import decimal

from artart.config.build import as_dict, build
from artart.config.cli import compose_config
from artart.config.schema import check
from artart.io import memory
from artart.io.terminal import pasteable
from artart.training import distributed
from artart.training.trainer import device_of

log = logging.getLogger(__name__)

AUTO = "experiment=auto"
MIN_IMAGES = 300  # below which fine-tuning is better
MAX_VALIDATION_INTERVAL = 10  # epochs
MAX_EPOCHS_OF_FIRST_STAGE = 250


class Preset(NamedTuple):
    """An experiment, and where it fits."""

    name: str
    needs_gpu: bool
    memory: float  # bytes of the device
    num_images: int  # at least
    batch_size: int
    seen: int  # images seen in training
    max_epochs: int  # later it may memorize a hundred images, with Muon sooner (docs/results/memorization.md)
    seen_by_first_stage: int = 0


PRESETS = (  # the first that fits is chosen
    Preset("art_256", True, 15e9, 2000, 128, 3_000_000, 250, 200_000),
    Preset("art_256", True, 10e9, 2000, 64, 3_000_000, 250, 200_000),
    Preset("art", True, 2e9, 0, 32, 300_000, 60, 100_000),
    Preset("diffusion_cpu", False, 2e9, 0, 16, 80_000, 60),
    Preset("diffusion_cpu", False, 0, 0, 8, 80_000, 60),
)


def choose(cfg: DictConfig, words: Sequence[str]) -> tuple[DictConfig, Sequence[str]]:
    """Settings and words with an experiment in the place of experiment=auto; the same without that word.

    The same machine and number of images always give the same, so that resume=auto finds the run.

    Args:
        cfg: the checked settings.
        words: what was set on the command line, key=value. They override what is chosen.
    """
    if [word for word in words if word.startswith("experiment=")][-1:] != [AUTO]:
        return cfg, words
    data, device = build(as_dict(cfg), "data"), device_of(as_dict(cfg))
    num_images = distributed.broadcast_from_rank_zero(lambda: data.num_found)
    chosen = [*words_for(device, num_images), *(word for word in words if word != AUTO)]
    anew = compose_config("train", chosen)
    check(anew)
    anew.trainer.devices, anew.trainer.num_nodes = cfg.trainer.devices, cfg.trainer.num_nodes  # of `distributed.launch`
    size, place = memory.total(device), "a GPU" if device.type == "cuda" else "a CPU alone"
    log.info(
        "%s: %s image_size=%d data.batch_size=%d trainer.max_epochs=%d, for %d images and %s%s",
        *(AUTO, chosen[0], anew.image_size, anew.data.batch_size, anew.trainer.max_epochs, num_images),
        *(place, f" with {decimal(size)} of memory" if size else ""),
    )
    log.info("to choose otherwise, set any of these; --help lists the experiments")
    if num_images < MIN_IMAGES and cfg.data.root and cfg.init_from is None:
        log.warning(
            "%d images are few: better fine-tune a network that has learned from more art: "
            "experiment=finetune init_from=CHECKPOINT data.root=%s",
            num_images,
            pasteable(Path(cfg.data.root)),
        )
    return anew, chosen


def words_for(device: torch.device, num_images: int) -> list[str]:
    """An experiment for a device and a number of images, with its batch size and duration, as words, key=value."""
    size = memory.total(device)
    preset = next(
        one
        for one in PRESETS
        if (device.type == "cuda" or not one.needs_gpu)
        and (size is None or size >= one.memory)
        and num_images >= one.num_images
    )
    epochs = _epochs(preset.seen, num_images, preset.max_epochs)
    words = [
        f"experiment={preset.name}",
        f"data.batch_size={preset.batch_size}",
        f"trainer.max_epochs={epochs}",
        f"callbacks.grid.every_n_epochs={max(MAX_VALIDATION_INTERVAL, epochs // 10)}",
    ]
    if epochs < MAX_VALIDATION_INTERVAL:
        words.append("trainer.check_val_every_n_epoch=1")
    if preset.seen_by_first_stage:
        epochs = _epochs(preset.seen_by_first_stage, num_images, MAX_EPOCHS_OF_FIRST_STAGE)
        words.append(f"first_stage_settings.trainer.max_epochs={epochs}")
    return words


def _epochs(seen: int, num_images: int, most: int) -> int:
    """Epochs in which about `seen` images are seen; coarse, so that a few files more change nothing."""
    epochs = round(seen / max(1, num_images))
    return min(most, max(1, epochs if epochs < MAX_VALIDATION_INTERVAL else round(epochs, -1)))
