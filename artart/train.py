"""python -m artart.train: train a network on a folder of images."""

import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from artart.config.build import CONF_DIR, as_dict, fill_in, overrides
from artart.config.cli import cli, compose_config, handle_errors
from artart.config.schema import check
from artart.training import distributed

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
    from artart.training.run_files import close_log

    logging.getLogger("artart").setLevel(logging.INFO)  # of train.log; Hydra sets it for the command
    try:
        return _train(compose_config("train", overrides), list(overrides))
    except SystemExit as stop:
        raise KeyboardInterrupt if stop.code == 128 + signal.SIGINT else stop from None
    finally:
        close_log()


def _train(cfg: DictConfig, words: Sequence[str], within: Path | None = None) -> "TrainingResult":
    """Check the settings, build the parts, read the images, claim the folder, train, report.

    Args:
        cfg: the settings.
        words: what was set on the command line, key=value.
        within: the folder of the run whose first stage is trained; None: of none.
    """
    check(cfg)
    distributed.launch(cfg.trainer)

    from artart.training import finetune, resume, run_dir, setup, stages
    from artart.training.result import Result
    from artart.training.trainer import fit, make_trainer, quieten_lightning

    quieten_lightning()
    distributed.init_process_group(cfg.trainer)
    initial = finetune.adopt_config(cfg, words)
    first_stage = stages.first_stage_for(cfg)
    data, objective, decided = setup.build_data_and_objective(as_dict(cfg), first_stage)
    fill_in(cfg.model, decided, objective.first_stage.network)
    plan = distributed.broadcast_from_rank_zero(lambda: run_dir.plan(cfg, within))
    config = as_dict(cfg)
    state = resume.load_resume_state(plan.checkpoint, config, data.label_names, first_stage)
    net = setup.build_net(config, initial, data.label_names)
    setup.validate(config, objective, data.label_names, net)
    pretrained = setup.load_pretrained(config, objective)
    setup.load_images(data, config, state)
    cfg.run_dir = str(distributed.broadcast_from_rank_zero(lambda: run_dir.claim_run_dir(cfg, plan)))
    config = as_dict(cfg)
    trainer = make_trainer(config, data.val_is_held_out)
    resume.open_run_dir(cfg, words, plan, state, trainer, data)
    if first_stage:
        stages.complete_first_stage(first_stage, cfg, state, _train)
        setup.encode_images(data, first_stage, config)
    module = setup.build_module(config, net, objective, data.label_names)
    result = Result(config, words, pretrained, state and state.step, within)
    fit(trainer, module, data, state and state.path, within)
    return result.write(trainer, module)


def run() -> None:
    cli(main, "train", sweeps=True)


if __name__ == "__main__":
    run()
