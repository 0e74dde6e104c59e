"""Latent diffusion in two stages in one run folder: its autoencoder is trained first, in a folder within."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from artart import ArtError
from artart.checkpoints.load import load_first_stage
from artart.config.build import CONF_DIR, as_dict, build, flat_keys, format_value, select_or_none
from artart.config.cli import compose_config
from artart.config.compatibility import check_first_stage
from artart.config.paths import CHECKPOINTS, FIRST_STAGE, checkpoint_in
from artart.config.schema import check
from artart.diffusion.first_stage import FrozenAutoencoder
from artart.io.ranges import MIN_IMAGE_SIZE
from artart.io.terminal import relative_to_cwd
from artart.training.finetune import adopt_config
from artart.training.result import in_words
from artart.training.run import STAGES, Run, begin, finish, prepare
from artart.training.run_dir import newest_in
from artart.training.run_files import open_log, reached_limit

log = logging.getLogger(__name__)

SHARED = (  # settings of both stages
    *("image_size", "seed", "trusted_classes"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")),
)
OWN_DATA = (  # others are shared
    *("batch_size", "random_flip", "class_balanced"),
    *("captions", "max_tokens", "prompts", "text_encoder"),
)
OF_RUN = {"run_dir", "resume", "first_stage", "first_stage_settings"}


def first_stage_for(cfg: DictConfig, words: Sequence[str]) -> FrozenAutoencoder | None:
    """The first stage of a run; None if it has none. With first_stage=auto it has no weights yet.

    Raises ArtError if it cannot be used, or does not fit other settings.
    """
    if cfg.first_stage != "auto" and any(word.lstrip("+").startswith("first_stage_settings") for word in words):
        raise ArtError("first_stage_settings: needs first_stage=auto, which trains a first stage")
    if cfg.first_stage is None:
        return None
    check_first_stage(as_dict(cfg))
    if cfg.first_stage == "auto":
        own, *_ = _settings_of_first_stage(cfg)
        with _named_as_given(cfg):
            net: nn.Module = build(as_dict(own), "model")
        if not hasattr(net, "latent_channels"):
            raise ArtError("first_stage_settings: no autoencoder; add first_stage_settings.experiment=autoencoder")
        first_stage = FrozenAutoencoder(net, as_dict(own)["model"])
    else:
        first_stage = load_first_stage(Path(cfg.first_stage), cfg.image_size)
    if (side := first_stage.network["image_size"]) < MIN_IMAGE_SIZE:
        least = MIN_IMAGE_SIZE * first_stage.net.factor
        raise ArtError(f"image_size={cfg.image_size}: latents would be {side} x {side}; take at least {least}")
    return first_stage


def _settings_of_first_stage(cfg: DictConfig) -> tuple[DictConfig, list[str], Mapping[str, Any] | None]:
    """The checked settings of the first stage of a run with first_stage=auto, whose data and device it shares.

    Also `first_stage_settings` as words of a command line, and what `adopt_config` returns.

    Raises ArtError, one line per mistake, with key, value and remedy.
    """
    given, shared = as_dict(cfg.first_stage_settings, resolve=False), _shared(cfg)
    for key in flat_keys(given):
        if key in OF_RUN or key in shared:
            remedy = "leave it out" if key in OF_RUN else f"both stages have the same; set {key}"
            raise ArtError(f"first_stage_settings.{key}={format_value(select_or_none(given, key))}: {remedy}")
    leaves = {key: value for key in flat_keys(given) if not isinstance(value := select_or_none(given, key), dict)}
    words = [f"{key}={format_value(value)}" for key, value in leaves.items()]
    groups = [key for key, value in given.items() if (CONF_DIR / key).is_dir() and not isinstance(value, dict)]
    with _named_as_given(cfg):
        own = compose_config("train", [f"{key}={format_value(given.pop(key))}" for key in groups])
        with open_dict(own):
            own.merge_with(given)
            for key in shared:
                OmegaConf.update(own, key, OmegaConf.select(cfg, key))
        own.trainer.precision = own.trainer.precision or cfg.trainer.precision
        check(own)
        return own, words, adopt_config(own, words)


@contextmanager
def _named_as_given(cfg: DictConfig) -> Iterator[None]:
    """Name keys `first_stage_settings.KEY` in errors, except those that both stages share."""
    try:
        yield
    except ArtError as error:
        text = str(error).replace("did you mean ", "did you mean first_stage_settings.")
        lines = [(re.match(r"[\w.]+(?=[=:])", line), line) for line in text.splitlines()]
        others = {*_shared(cfg), *OF_RUN}
        named = [f"first_stage_settings.{line}" if key and key[0] not in others else line for key, line in lines]
        raise ArtError("\n".join(named)) from None


def _shared(cfg: DictConfig) -> list[str]:
    return [*SHARED, *(f"data.{key}" for key in cfg.data if key not in OWN_DATA)]


def prepare_first_stage(run: Run, first_stage: FrozenAutoencoder) -> Run | None:
    """The run that trains the first stage of another; None if its weights are known, which are then filled in.

    Raises ArtError, one line per mistake, with key, value and remedy.
    """
    cfg, folder = run.cfg, run.plan.run_dir and run.plan.run_dir / FIRST_STAGE
    if run.state:
        _fill(first_stage, run.state.first_stage, run.state.path)
    if run.state or cfg.first_stage != "auto":
        return None
    own, words, initial = _settings_of_first_stage(cfg)
    if folder and (checkpoint := newest_in(folder)):
        if reached_limit(folder, own):
            path = checkpoint_in(folder, CHECKPOINTS["first_stage"]) or checkpoint
            _fill(first_stage, load_first_stage(path, cfg.image_size).content, path)
            log.info("%s: trained before, %s", STAGES[0], relative_to_cwd(path))
            return None
        own.run_dir, own.resume = str(folder), "auto"
    with _named_as_given(cfg):
        return prepare(own, words, initial, is_part=True)


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
    result = finish(first, begin(first))
    open_log(run.cfg)
    last = {"state_dict": first.net.state_dict(), "moments": None}  # callbacks may save none
    first_stage.fill(load_first_stage(result.checkpoint, run.cfg.image_size).content if result.checkpoint else last)
    grid = max((folder / "samples").glob("epoch_????.png"), default="none")
    score = in_words(result.best_score)
    log.info("%s: done, best %s %s, grid %s", STAGES[0], first.cfg.monitor, score, relative_to_cwd(Path(grid)))
