"""What to do after a run: look at what it learned, and train towards images of one's own."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from artart.config.build import Config, as_dict, build, fill_in, is_command
from artart.config.cli import compose_config
from artart.io.terminal import pasteable
from artart.training.cost import in_words, measure
from artart.training.module import ArtModule
from artart.training.trainer import device_of

TRY = {"reconstruct": "input=FILE_OR_FOLDER side_by_side=true", "sample": "num_images=16 save_trajectory=true"}
THOUSAND = 1000  # images, where the number is unknown


def python() -> str:
    """Python as the shell finds it."""
    return "python" if shutil.which("python") == sys.executable else pasteable(Path(sys.executable))


def next_commands(config: Config, module: ArtModule, checkpoint: Path | None) -> Iterator[tuple[str, str]]:
    """Modules with their arguments, as a shell reads them, and a note on each."""
    if checkpoint:
        yield f"artart.generate checkpoint={pasteable(checkpoint)} {TRY[module.objective.mode]}", ""
        if config["data"].get("val_fraction") != 0:
            yield f"artart.evaluate checkpoint={pasteable(checkpoint)}", ""
    yield from _trainings(config, module)
    logs = pasteable(Path(config["run_dir"]))
    yield f"tensorboard.main --logdir {logs} --samples_per_plugin images=1000", "curves and grids"


def _trainings(config: Config, module: ArtModule) -> Iterator[tuple[str, str]]:
    """Trainings that lead from demo art to one's own, and from an autoencoder to images out of noise."""
    root, can_sample, device = config["data"]["root"], module.objective.mode == "sample", device_of(config)
    experiment = "diffusion" if device.type == "cuda" else "diffusion_cpu"
    own = f"artart.train experiment={experiment} data.root="
    if root is None:
        if not can_sample:
            quick = "experiment=quickstart_diffusion"
            yield f"artart.train {quick}", f"images out of noise{_time(quick, None, device)}"
        yield (
            f"{own}FOLDER_OF_YOUR_ART",
            f"your art{_time(f'experiment={experiment}', THOUSAND, device)} for 1,000 images",
        )
    elif not can_sample:
        num_images = len(module.trainer.datamodule.train_ids)  # type: ignore[attr-defined]
        yield (
            f"{own}{pasteable(Path(root))}",
            f"images out of noise{_time(f'experiment={experiment}', num_images, device)}",
        )


def _time(word: str, num_images: int | None, device: torch.device) -> str:
    """How long an experiment trains here, from a few of its steps; "" in a call from Python."""
    if not is_command():
        return ""
    cfg = compose_config("train", [word])
    config = as_dict(cfg)
    objective = build(config, "objective", loss=build(config, "loss"))
    fill_in(cfg.model, {"num_classes": 0, **objective.network}, {})
    config = as_dict(cfg)
    net: nn.Module = build(config, "model")
    images = config["trainer"]["max_epochs"] * (num_images or config["data"]["num_demo_images"])
    return f", {in_words(images * measure(net, objective, config['data']['batch_size'], device).seconds)} here"
