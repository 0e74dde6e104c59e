"""python -m artart.train: train a network on a folder of images."""

import logging
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from artart.config.build import CONF_DIR, as_dict, overrides
from artart.config.cli import cli, compose_config, handle_errors
from artart.config.schema import check
from artart.training import distributed, run_files

if TYPE_CHECKING:
    from artart.training.result import TrainingResult


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")
@handle_errors
def main(cfg: DictConfig) -> float:
    """Return the best value of `monitor`, by which a sweep compares its jobs."""
    return _train(cfg, overrides()).best_score


def train(overrides: Sequence[str] = ()) -> "TrainingResult":
    """Train from Python: `train(["data.root=art", "trainer.max_epochs=10"])`, in one process.

    Args:
        overrides: settings as on the command line, `key=value` each.

    Raises:
        ArtError: if a setting, the images or a checkpoint cannot be used.
        KeyboardInterrupt: at Ctrl-C, once last.ckpt is saved.
    """
    logging.getLogger("artart").setLevel(logging.INFO)  # of train.log; Hydra sets it for the command
    try:
        return _train(compose_config("train", overrides), list(overrides))
    except SystemExit as stop:
        raise KeyboardInterrupt if stop.code == 128 + signal.SIGINT else stop from None
    finally:
        run_files.close_log()


def _train(cfg: DictConfig, words: Sequence[str]) -> "TrainingResult":
    """Check the settings, read the images, claim the folder, train one or both stages, report.

    Args:
        cfg: the settings.
        words: what was set on the command line, key=value.
    """
    run_files.keep_log_lines()
    check(cfg)
    distributed.launch(cfg.trainer)

    from artart.training import auto, finetune, run, setup, stages
    from artart.training.trainer import quieten_lightning

    quieten_lightning()
    distributed.init_process_group(cfg.trainer)
    cfg, words = auto.choose(cfg, words)
    cfg = finetune.with_objective_of(cfg, words)
    initial = finetune.adopt_config(cfg, words)
    first_stage = stages.first_stage_for(cfg, words)
    prepared = run.prepare(cfg, words, initial, first_stage)
    first = first_stage and stages.prepare_first_stage(prepared, first_stage)
    run.load_images(prepared, stage=stages.STAGES[1] if first else "the run")
    if first:
        run.load_images(first, prepared.data, stages.STAGES[0])
    trainer = run.begin(prepared)
    if first_stage:
        if first:
            stages.train_first_stage(first, prepared, first_stage)
            del first  # its images may lie on the GPU
        setup.encode_images(prepared.data, first_stage, as_dict(cfg))
    return run.finish(prepared, trainer, stages.STAGES[1] if cfg.first_stage == "auto" else "")


def run() -> None:
    cli(main, "train", sweeps=True)


if __name__ == "__main__":
    run()
