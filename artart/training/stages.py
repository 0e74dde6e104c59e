"""Latent diffusion in two stages in one run folder: its autoencoder is trained first, in a folder within."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from artart import ArtError
from artart.checkpoints.load import load_first_stage
from artart.config.build import as_dict, build, format_value
from artart.config.compatibility import check_first_stage
from artart.config.first_stage import named_as_given, settings_of_first_stage, words_of_first_stage
from artart.diffusion.first_stage import FrozenAutoencoder
from artart.io.ranges import MIN_IMAGE_SIZE
from artart.io.terminal import relative_to_cwd
from artart.training.finetune import adopt_config
from artart.training.run import Run, begin, finish, prepare
from artart.training.run_dir import FIRST_STAGE, newest_in
from artart.training.run_files import open_log, reached_limit

log = logging.getLogger(__name__)

STAGES = ("stage 1 of 2", "stage 2 of 2")


def first_stage_for(cfg: DictConfig, words: Sequence[str]) -> FrozenAutoencoder | None:
    """The first stage of a run; None if it has none. With first_stage=auto it has no weights yet.

    Raises:
        ArtError: if it cannot be used, or does not fit other settings.
    """
    if cfg.first_stage != "auto" and any(word.lstrip("+").startswith("first_stage_settings") for word in words):
        raise ArtError("first_stage_settings: needs first_stage=auto, which trains a first stage")
    if cfg.first_stage is None:
        return None
    check_first_stage(as_dict(cfg))
    path, is_auto = Path(cfg.first_stage), cfg.first_stage == "auto"
    first_stage = _untrained(cfg) if is_auto else load_first_stage(path, cfg.image_size)
    if (side := first_stage.network["image_size"]) < MIN_IMAGE_SIZE:
        least = MIN_IMAGE_SIZE * first_stage.net.factor
        raise ArtError(f"image_size={cfg.image_size}: latents would be {side} x {side}; take at least {least}")
    return first_stage


def _untrained(cfg: DictConfig) -> FrozenAutoencoder:
    own = settings_of_first_stage(cfg)
    with named_as_given(cfg):
        adopt_config(own, words_of_first_stage(cfg))
        net: nn.Module = build(as_dict(own), "model")
    if not hasattr(net, "latent_channels"):
        raise ArtError("first_stage_settings: no autoencoder; add first_stage_settings.experiment=autoencoder")
    return FrozenAutoencoder(net, as_dict(own)["model"])


def prepare_first_stage(run: Run, first_stage: FrozenAutoencoder) -> Run | None:
    """The run that trains the first stage of another; None if its weights are known, which are then filled in.

    Raises:
        ArtError: one line per mistake, with key, value and remedy.
    """
    cfg, folder = run.cfg, run.plan.run_dir and run.plan.run_dir / FIRST_STAGE
    if run.state:
        _fill(first_stage, run.state.first_stage, run.state.path)
    if run.state or cfg.first_stage != "auto":
        return None
    own, words = settings_of_first_stage(cfg), words_of_first_stage(cfg)
    if folder and (checkpoint := newest_in(folder)):
        if reached_limit(folder, own):
            best = checkpoint.with_name("best.ckpt")
            path = best if best.is_file() else checkpoint
            _fill(first_stage, load_first_stage(path, cfg.image_size).content, path)
            log.info("%s: trained before, %s", STAGES[0], relative_to_cwd(path))
            return None
        own.run_dir, own.resume = str(folder), "auto"
    with named_as_given(cfg):
        return prepare(own, words, adopt_config(own, words), is_part=True)


def _fill(first_stage: FrozenAutoencoder, content: Mapping[str, Any], source: Path) -> None:
    """Take the weights of a checkpoint; ArtError if they are of another network."""
    for key, value in first_stage.settings.items():
        if (was := content["model"].get(key)) != value:
            raise ArtError(
                f"first_stage_settings.model.{key}={format_value(value)}: {source} was trained with "
                f"{format_value(was)}; ask for that, or name a new folder: run_dir=DIR"
            )
    first_stage.fill(content)


def train_first_stage(first: Run, run: Run, first_stage: FrozenAutoencoder) -> None:
    """Train the first stage in a folder within that of the run, which has begun, and take its weights."""
    folder = Path(run.cfg.run_dir, FIRST_STAGE)
    log.info("%s: the autoencoder", STAGES[0])
    first = first._replace(plan=first.plan._replace(run_dir=folder))
    result = finish(first, begin(first), STAGES[0], folder.parent)
    open_log(run.cfg)
    last = {"state_dict": first.net.state_dict(), "moments": None}  # callbacks may save none
    first_stage.fill(load_first_stage(result.checkpoint, run.cfg.image_size).content if result.checkpoint else last)
    grid = max((folder / "samples").glob("epoch_????.png"), default="none")
    log.info(
        "%s: done, best %s %.4g, grid %s", STAGES[0], first.cfg.monitor, result.best_score, relative_to_cwd(Path(grid))
    )
