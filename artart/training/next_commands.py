"""What to do after a run: look at what it learned, and train towards images of one's own."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from artart.config.build import as_dict, build, is_command
from artart.config.cli import compose_config
from artart.diffusion.first_stage import FrozenAutoencoder
from artart.io.terminal import pasteable
from artart.objectives.base import Objective
from artart.training import auto
from artart.training.cost import in_words, measure
from artart.training.run import Run, build_data_and_objective
from artart.training.stages import settings_of_first_stage
from artart.training.trainer import device_of

log = logging.getLogger(__name__)

TRY = {"reconstruct": "input=FILE_OR_FOLDER side_by_side=true", "sample": "num_images=16"}  # by mode
THOUSAND = 1000  # images, where the number is unknown


def log_next_commands(run: Run, checkpoint: Path | None) -> None:
    """Log what to do with a checkpoint of a run that has ended; None: it has none."""
    log.info("try next")
    found, ours = map(os.path.normcase, (shutil.which("python") or "", sys.executable))
    python = "python" if found == ours else pasteable(Path(sys.executable))
    for command, note in next_commands(run, checkpoint):
        log.info("  %s -m %s%s", python, command, note and f"   # {note}")


def next_commands(run: Run, checkpoint: Path | None) -> Iterator[tuple[str, str]]:
    """Modules with their arguments, as a shell reads them, and a note on each."""
    if checkpoint:
        yield f"artart.generate checkpoint={pasteable(checkpoint)} {arguments_of(run.objective)}", ""
    yield from _trainings(run)
    if checkpoint and run.cfg.data.get("val_fraction") != 0:
        yield f"artart.evaluate checkpoint={pasteable(checkpoint)}", "how good it is"
    logs = pasteable(Path(run.cfg.run_dir))
    yield f"tensorboard.main --logdir {logs} --samples_per_plugin images=1000", "curves and grids"


def arguments_of(objective: Objective) -> str:
    """Arguments of artart.generate that show what a network can do."""
    has_trajectory = objective.mode == "sample" and not objective.one_step
    return TRY[objective.mode] + " save_trajectory=true" * has_trajectory


def _trainings(run: Run) -> Iterator[tuple[str, str]]:
    """Trainings that lead from demo art to one's own, and from an autoencoder to images out of noise."""
    root, can_sample, device = run.cfg.data.root, run.objective.mode == "sample", device_of(as_dict(run.cfg))
    if root is None:
        if not can_sample:
            quick = "experiment=quickstart_diffusion"
            yield f"artart.train {quick}", f"images out of noise{_time([quick], device)}"
        time = _time(auto.words_for(device, THOUSAND), device, THOUSAND)
        yield f"artart.train {auto.AUTO} data.root=FOLDER_OF_YOUR_ART", f"images like your art{time} for 1,000 of them"
    elif not can_sample:
        num_images = len(run.data.train_ids)
        time = _time(auto.words_for(device, num_images), device, num_images)
        yield f"artart.train {auto.AUTO} data.root={pasteable(Path(root))}", f"images out of noise{time}"


def _time(words: Sequence[str], device: torch.device, num_images: int | None = None) -> str:
    """How long a training takes here, from a few of its steps; "" in a call from Python."""
    return f", {in_words(_seconds(compose_config('train', words), device, num_images))} here" if is_command() else ""


def _seconds(cfg: DictConfig, device: torch.device, num_images: int | None) -> float:
    """Of the steps of a training; where no number of images is given, on demo art."""
    first_stage, seconds = None, 0.0
    if cfg.first_stage == "auto":
        OmegaConf.update(cfg, "first_stage_settings.loss.perceptual.weights", "random", force_add=True)  # no download
        own, *_ = settings_of_first_stage(cfg)
        seconds = _seconds(own, device, num_images)
        first_stage = FrozenAutoencoder(build(as_dict(own), "model"), as_dict(own)["model"])
    _, objective = build_data_and_objective(cfg, first_stage)
    net: nn.Module = build(as_dict(cfg), "model")
    images = cfg.trainer.max_epochs * (num_images or cfg.data.num_demo_images)
    return seconds + images * measure(net, objective, cfg.data.batch_size, device).seconds
