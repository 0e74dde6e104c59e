"""A run in three steps: checked without writing anything, begun in its folder, trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from omegaconf import DictConfig
from torch import nn

from artart import ArtError
from artart.config.build import as_dict, fill_in
from artart.data.datamodule import ArtDataModule
from artart.diffusion.first_stage import FrozenAutoencoder
from artart.objectives.base import Objective
from artart.training import cost, distributed, resume, rewind, run_dir, setup
from artart.training.result import Result, TrainingResult
from artart.training.trainer import device_of, fit, make_trainer


class Run(NamedTuple):
    """A run, or one of its two stages, whose settings have been checked."""

    cfg: DictConfig
    words: Sequence[str]  # what was set on the command line, key=value
    plan: run_dir.Plan
    state: resume.ResumeState | None
    data: ArtDataModule
    objective: Objective
    net: nn.Module
    pretrained: Mapping[str, str]  # the origin of pretrained weights, by loss term or metric


def prepare(
    cfg: DictConfig,
    words: Sequence[str],
    initial: Mapping[str, Any] | None,
    first_stage: FrozenAutoencoder | None = None,
    is_part: bool = False,
) -> Run:
    """Build the parts and check them against each other and against what is resumed. Writes nothing but a lock.

    Args:
        cfg: the settings, which `schema.check` has checked.
        words: what was set on the command line, key=value.
        initial: of `finetune.adopt_config`.
        first_stage: of latent diffusion.
        is_part: whether it is the first stage of another run of this process.

    Raises:
        ArtError: one line per mistake, with key, value and remedy.
    """
    data, objective, decided = setup.build_data_and_objective(as_dict(cfg), first_stage)
    fill_in(cfg.model, decided, objective.first_stage.network)
    plan = distributed.broadcast_from_rank_zero(lambda: run_dir.plan(cfg, is_part))
    config = as_dict(cfg)
    state = resume.load_resume_state(plan.checkpoint, config, data.label_names, first_stage)
    try:
        net = setup.build_net(config, initial, data.label_names)
    except ArtError as error:
        if first_stage and str(error).startswith("image_size="):
            side = first_stage.network["image_size"]
            raise ArtError(
                f"image_size={cfg.image_size}: the network has latents of {side} x {side}: {error}"
            ) from None
        raise
    setup.validate(config, objective, data.label_names, net)
    return Run(cfg, words, plan, state, data, objective, net, setup.load_pretrained(config, objective))


def load_images(run: Run, loaded: ArtDataModule | None = None, stage: str = "the run") -> None:
    """As `setup.load_images`; then check that there is enough memory, and log the time of the run or stage."""
    config = as_dict(run.cfg)
    setup.load_images(run.data, config, run.state, loaded)
    cost.check(config, run.net, run.objective, len(run.data.train_ids), device_of(config), stage)


def begin(run: Run) -> Trainer:
    """Claim the folder, open its log, and make the Trainer."""
    cfg = run.cfg
    cfg.run_dir = str(distributed.broadcast_from_rank_zero(lambda: run_dir.claim_run_dir(cfg, run.plan)))
    trainer = make_trainer(as_dict(cfg), run.data.val_is_held_out)
    rewind.open_run_dir(cfg, run.words, run.plan, run.state, trainer, run.data)
    return trainer


def finish(run: Run, trainer: Trainer, stage: str = "", within: Path | None = None) -> TrainingResult:
    """Train, and report.

    Args:
        run: whose data are loaded.
        trainer: of `begin`.
        stage: what log lines call it, such as "stage 1 of 2"; empty: it is the only one.
        within: the folder of the run that this one is a part of; None: of none.
    """
    config = as_dict(run.cfg)
    module = setup.build_module(config, run.net, run.objective, run.data.label_names, stage)
    result = Result(config, run.words, run.pretrained, run.state and run.state.step, within)
    fit(trainer, module, run.data, run.state and run.state.path, within)
    return result.write(trainer, module)
