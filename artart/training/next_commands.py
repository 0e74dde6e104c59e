"""What to do after a run: look at what it learned, and train towards images of one's own."""

import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from artart.config.build import as_dict, build, is_command
from artart.config.cli import compose_config
from artart.io.terminal import pasteable
from artart.training.cost import in_words, measure
from artart.training.run import Run, build_data_and_objective
from artart.training.trainer import device_of

log = logging.getLogger(__name__)

TRY = {"reconstruct": "input=FILE_OR_FOLDER side_by_side=true", "sample": "num_images=16 save_trajectory=true"}
THOUSAND = 1000  # images, where the number is unknown


def log_next_commands(run: Run, checkpoint: Path | None) -> None:
    """Log what to do with a checkpoint of a run that has ended; None: it has none."""
    log.info("try next")
    python = "python" if shutil.which("python") == sys.executable else pasteable(Path(sys.executable))
    for command, note in next_commands(run, checkpoint):
        log.info("  %s -m %s%s", python, command, note and f"   # {note}")


def next_commands(run: Run, checkpoint: Path | None) -> Iterator[tuple[str, str]]:
    """Modules with their arguments, as a shell reads them, and a note on each."""
    if checkpoint:
        yield f"artart.generate checkpoint={pasteable(checkpoint)} {TRY[run.objective.mode]}", ""
        if run.cfg.data.get("val_fraction") != 0:
            yield f"artart.evaluate checkpoint={pasteable(checkpoint)}", ""
    yield from _trainings(run)
    logs = pasteable(Path(run.cfg.run_dir))
    yield f"tensorboard.main --logdir {logs} --samples_per_plugin images=1000", "curves and grids"


def _trainings(run: Run) -> Iterator[tuple[str, str]]:
    """Trainings that lead from demo art to one's own, and from an autoencoder to images out of noise."""
    root, can_sample, device = run.cfg.data.root, run.objective.mode == "sample", device_of(as_dict(run.cfg))
    experiment = "diffusion" if device.type == "cuda" else "diffusion_cpu"
    own = f"artart.train experiment={experiment} data.root="
    if root is None:
        if not can_sample:
            quick = "quickstart_diffusion"
            yield f"artart.train experiment={quick}", f"images out of noise{_time(quick, device)}"
        yield f"{own}FOLDER_OF_YOUR_ART", f"your art{_time(experiment, device, THOUSAND)} for 1,000 images"
    elif not can_sample:
        time = _time(experiment, device, len(run.data.train_ids))
        yield f"{own}{pasteable(Path(root))}", f"images out of noise{time}"


def _time(experiment: str, device: torch.device, num_images: int | None = None) -> str:
    """How long an experiment trains here, from a few of its steps; "" in a call from Python."""
    if not is_command():
        return ""
    cfg = compose_config("train", [f"experiment={experiment}"])
    _, objective = build_data_and_objective(cfg)
    net: nn.Module = build(as_dict(cfg), "model")
    images = cfg.trainer.max_epochs * (num_images or cfg.data.num_demo_images)
    return f", {in_words(images * measure(net, objective, cfg.data.batch_size, device).seconds)} here"
