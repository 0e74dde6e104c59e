"""Latent diffusion in two stages in one run folder: its autoencoder is trained first, in a folder within."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from artart import ArtError
from artart.checkpoints.load import load_first_stage
from artart.config.build import as_dict, build, flat_keys, format_value, select_or_none
from artart.config.cli import compose_config
from artart.config.compatibility import check_first_stage
from artart.config.schema import check
from artart.diffusion.first_stage import FrozenAutoencoder
from artart.io.ranges import MIN_IMAGE_SIZE
from artart.io.terminal import relative_to_cwd
from artart.training.resume import ResumeState
from artart.training.run_dir import FIRST_STAGE, newest_in
from artart.training.run_files import open_log, reached_limit
from artart.training.setup import build_data_and_objective, validate

log = logging.getLogger(__name__)

SHARED = ("image_size", "seed", *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")))
OWN_DATA = {"batch_size", "random_flip", "class_balanced"}  # all other settings of the data are shared
Train = Callable[[DictConfig, list[str], Path], Any]


def first_stage_for(cfg: DictConfig) -> FrozenAutoencoder | None:
    """The first stage of a run; None if it has none. With first_stage=auto it has no weights yet.

    Raises:
        ArtError: if it cannot be used, or does not fit other settings.
    """
    if cfg.first_stage is None:
        return None
    check_first_stage(as_dict(cfg))
    first_stage = (
        _untrained(cfg) if cfg.first_stage == "auto" else load_first_stage(Path(cfg.first_stage), cfg.image_size)
    )
    if (side := first_stage.network["image_size"]) < MIN_IMAGE_SIZE:
        least = f"{MIN_IMAGE_SIZE} x {MIN_IMAGE_SIZE}"
        raise ArtError(
            f"image_size={cfg.image_size}: its latents are {side} x {side}, and {least} is the least; raise it"
        )
    return first_stage


def _untrained(cfg: DictConfig) -> FrozenAutoencoder:
    """The first stage of a run with first_stage=auto, after a check of its settings."""
    config = check(settings_of_first_stage(cfg))
    net: nn.Module = build(config, "model")
    if not hasattr(net, "latent_channels"):
        raise ArtError("first_stage_settings: their model is no autoencoder; begin with experiment: autoencoder")
    data, objective, _ = build_data_and_objective(config, None)
    validate(config, objective, data.label_names, net)
    return FrozenAutoencoder(net, config["model"])


def settings_of_first_stage(cfg: DictConfig) -> DictConfig:
    """The settings of the run that trains the first stage of a run with first_stage=auto, whose data they share."""
    own = compose_config("train", words_of(cfg))
    for key in (*SHARED, *(f"data.{key}" for key in cfg.data if key not in OWN_DATA)):
        OmegaConf.update(own, key, OmegaConf.select(cfg, key))
    own.trainer.precision = own.trainer.precision or cfg.trainer.precision
    own.resume = "auto"
    return own


def words_of(cfg: DictConfig) -> list[str]:
    """`first_stage_settings` as words of a command line, key=value each."""
    settings = as_dict(cfg.first_stage_settings)
    leaves = [key for key in flat_keys(settings) if not isinstance(select_or_none(settings, key), dict)]
    return [f"{key}={format_value(select_or_none(settings, key))}" for key in leaves]


def complete_first_stage(
    first_stage: FrozenAutoencoder, cfg: DictConfig, state: ResumeState | None, train: Train
) -> None:
    """Fill the first stage: from the checkpoint that is resumed, or, with first_stage=auto, by training it.

    Args:
        first_stage: of `first_stage_for`.
        cfg: the settings of the run.
        state: of the run that is resumed.
        train: trains with settings, which were set by words, as a part of the run in a folder.
    """
    if state:
        first_stage.fill(state.first_stage)
    elif cfg.first_stage == "auto":
        own = settings_of_first_stage(cfg)
        own.run_dir = str(folder := Path(cfg.run_dir, FIRST_STAGE))
        if not reached_limit(folder, own):
            log.info("stage 1 of 2: the first stage, in %s", relative_to_cwd(folder))
            train(own, words_of(cfg), Path(cfg.run_dir))
            open_log(cfg)
        best = folder / "checkpoints" / "best.ckpt"
        trained = load_first_stage(best if best.is_file() else newest_in(folder) or best, cfg.image_size)
        first_stage.fill(trained.content)
        log.info("stage 2 of 2: diffusion on its latents")
