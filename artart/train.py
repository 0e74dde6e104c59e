"""python -m artart.train: train a network on a folder of images."""

import gc
import logging
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from artart.config.build import in_sweep, overrides
from artart.config.cli import command, compose_config
from artart.config.schema import check
from artart.training import distributed, run_files

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from artart.diffusion.first_stage import FrozenAutoencoder
    from artart.training.result import TrainingResult
    from artart.training.run import Run


@command("train", sweeps=True)
def run(cfg: DictConfig) -> float:
    """Return the best value of `monitor`, by which a sweep compares its jobs."""
    return run_training(cfg, overrides()).best_score


def train(overrides: Sequence[str] = ()) -> "TrainingResult":
    """Train from Python: `train(["data.root=art", "trainer.max_epochs=10"])`, in one process.

    Args:
        overrides: settings as on the command line, `key=value` each.

    Raises ArtError if a setting, the images or a checkpoint cannot be used. Raises KeyboardInterrupt at Ctrl-C, once
    last.ckpt is saved.
    """
    logging.getLogger("artart").setLevel(logging.INFO)  # of train.log; Hydra sets it for the command
    try:
        return run_training(compose_config("train", overrides), list(overrides))
    except SystemExit as stop:
        raise KeyboardInterrupt if stop.code == 128 + signal.SIGINT else stop from None
    finally:
        run_files.close_log()


def run_training(cfg: DictConfig, words: Sequence[str], callbacks: Sequence["Callback"] = ()) -> "TrainingResult":
    """Check the settings, read the images, claim the folder, train one or both stages, report.

    `words` were set on the command line, key=value.
    """
    run_files.keep_log_lines()
    prepared, first, first_stage = prepare(cfg, words)

    from artart.training import run, stages
    from artart.training.next_commands import log_next_commands

    run.load_images(prepared)
    if first:
        run.load_images(first, prepared.data)
    trainer = run.begin(prepared)
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    if first_stage:
        if first:
            stages.train_first_stage(first, prepared, first_stage)
            del first  # its images may lie on the GPU
            gc.collect()  # its data and Trainer refer to each other
        run.encode_images(prepared, first_stage)
    result = run.finish(prepared, trainer)
    if not in_sweep():
        log_next_commands(prepared, result.checkpoint)
    return result


def prepare(cfg: DictConfig, words: Sequence[str]) -> "tuple[Run, Run | None, FrozenAutoencoder | None]":
    """Check the settings and build the parts of a run, of its first stage if that is trained, and that stage."""
    check(cfg)
    distributed.launch(cfg.trainer)

    from artart.training import auto, finetune, run, stages
    from artart.training.trainer import quieten_lightning

    quieten_lightning()
    distributed.init_process_group(cfg.trainer)
    cfg, words = auto.choose(cfg, words)
    cfg = finetune.with_objective_of(cfg, words)
    initial = finetune.adopt_config(cfg, words)
    first_stage = stages.first_stage_for(cfg, words)
    prepared = run.prepare(cfg, words, initial, first_stage)
    first = stages.prepare_first_stage(prepared, first_stage) if first_stage else None
    return prepared, first, first_stage


if __name__ == "__main__":
    run()
