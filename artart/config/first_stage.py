"""Settings of the autoencoder that first_stage=auto trains: its own, and those that both stages share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf import DictConfig, OmegaConf, open_dict

from artart import ArtError
from artart.config.build import CONF_DIR, as_dict, flat_keys, format_value, select_or_none
from artart.config.cli import compose_config
from artart.config.schema import check

SHARED = (
    "image_size",
    "seed",
    "trusted_classes",
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")),
)
OWN_DATA = {"batch_size", "random_flip", "class_balanced"}  # all other settings of the data are shared
OF_RUN = {"run_dir", "resume", "first_stage", "first_stage_settings"}


def settings_of_first_stage(cfg: DictConfig) -> DictConfig:
    """The checked settings of the first stage of a run with first_stage=auto, whose data and device it shares.

    Raises:
        ArtError: one line per mistake, with key, value and remedy.
    """
    given = as_dict(cfg.first_stage_settings, resolve=False)
    for key in flat_keys(given):
        if key in OF_RUN or key in _shared(cfg):
            remedy = "leave it out" if key in OF_RUN else f"both stages have the same; set {key}"
            raise ArtError(f"first_stage_settings.{key}={format_value(select_or_none(given, key))}: {remedy}")
    groups = [key for key, value in given.items() if (CONF_DIR / key).is_dir() and not isinstance(value, dict)]
    with named_as_given(cfg):
        own = compose_config("train", [f"{key}={format_value(given.pop(key))}" for key in groups])
        with open_dict(own):
            own.merge_with(given)
            for key in _shared(cfg):
                OmegaConf.update(own, key, OmegaConf.select(cfg, key))
        own.trainer.precision = own.trainer.precision or cfg.trainer.precision
        check(own)
    return own


def words_of_first_stage(cfg: DictConfig) -> list[str]:
    """`first_stage_settings` as words of a command line, key=value each."""
    settings = as_dict(cfg.first_stage_settings, resolve=False)
    leaves = [key for key in flat_keys(settings) if not isinstance(select_or_none(settings, key), dict)]
    return [f"{key}={format_value(select_or_none(settings, key))}" for key in leaves]


@contextmanager
def named_as_given(cfg: DictConfig) -> Iterator[None]:
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
