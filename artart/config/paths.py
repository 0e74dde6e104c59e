"""Paths among the settings: absolute, and checkpoints that are named by the folder of their run."""

import logging
import os
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from artart import ArtError
from artart.config.commands import PATHS, literals
from artart.io.terminal import pasteable, relative_to_cwd

log = logging.getLogger(__name__)

RUNS = Path("outputs/runs")
BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
FIRST_STAGE = "first_stage"  # the folder of the run within a run that trains its first stage
SET_ASIDE = "set_aside_"  # with the time: a folder in that of a run or sweep, of files that another attempt left
KEYS = {"data", "image_size", "run_dir", "seed"}  # in the settings of every training and preparation
SHARED = "model.safetensors"  # in the folder that artart.export format=hub writes
LATEST = "latest"  # stands for the newest run under RUNS
CHECKPOINTS = {  # keys that may name a run, and which of its files they take
    **dict.fromkeys(("checkpoint", "files", "init_from", "first_stage", "guidance.network"), (BEST, LAST, PREVIOUS)),
    "resume": (LAST, PREVIOUS),
}
NEEDED = {  # keys that some experiments leave to the user
    "first_stage": "name a checkpoint of experiment=autoencoder, or train both stages by experiment=art",
    "init_from": "name the run or checkpoint to begin with",
}


def load_yaml(text: str) -> Any:
    """Plain data. Raises YAMLError."""
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - the first is fast
    except yaml.YAMLError:
        return yaml.safe_load(text)  # takes names that are not UTF-8


def make_paths_absolute(cfg: DictConfig) -> None:
    """Make the paths in cfg absolute; the folder of a run, or `latest`, becomes a checkpoint of it.

    Raises ArtError if a path is empty or no checkpoint is there.
    """
    for key, hint in PATHS.items():
        value = OmegaConf.select(cfg, key)
        if value == "":
            raise ArtError(f"{key}=: is empty; {NEEDED.get(key, 'set a path, or null')}")
        if value is not None and value not in literals(hint):
            if "${" in str(value):
                raise ArtError(f"{key}={value}: ${{ begins an interpolation and cannot be part of a name; rename it")
            path = checkpoint_of(key, str(value)) if key in CHECKPOINTS else absolute(str(value))
            if key == "checkpoint" and path != absolute(str(value)):
                log.info("checkpoint: %s", relative_to_cwd(path))
            OmegaConf.update(cfg, key, str(path))


def absolute(value: str) -> Path:
    return Path(value).expanduser().absolute()


def checkpoint_of(key: str, value: str) -> Path:
    """The checkpoint that is meant by a value of a key in CHECKPOINTS: a file, a run or published folder, or `latest`.

    Raises ArtError if a folder has no checkpoint.
    """
    path, names = absolute(value), CHECKPOINTS[key]
    if value == LATEST and not os.path.exists(path):
        runs = sorted(RUNS.absolute().glob("*/*"), reverse=True)  # by date and time
        problem = f"there is no run with a checkpoint under {RUNS}; name one: {key}=FILE"
    elif os.path.isdir(path):
        if key != "resume" and os.path.isfile(shared := path / SHARED):
            return shared
        wanted = "images, a checkpoint or a run" if key == "files" else "a checkpoint or a run"
        runs, problem = [path], f"this folder has no checkpoints/{names[0]}; name {wanted}"
        if checkpoint_in(path / FIRST_STAGE, names):
            begun = f"its first stage, which is {pasteable(path / FIRST_STAGE)}"
            problem = f"this run has only {begun}; continue it by resume=auto run_dir={pasteable(path)}"
    else:
        return path
    if found := next(filter(None, (checkpoint_in(run, names) for run in runs)), None):
        return found
    raise ArtError(f"{key}={value}: {problem}")


def checkpoint_in(run_dir: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these checkpoints that a run has."""
    return next((path for name in names if (path := run_dir / "checkpoints" / name).is_file()), None)


def read_settings(run_dir: Path) -> dict[str, Any]:
    """The settings that artart saved in the folder of a run or a preparation.

    Raises ArtError if there are none, or something else.
    """
    file = run_dir / ".hydra" / "config.yaml"
    if not file.is_file():
        raise ArtError(f"{run_dir} is not the folder of a run: it has no .hydra/config.yaml")
    try:
        content = load_yaml(file.read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - a YAML parser raises anything
        raise ArtError(f"{file} cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        raise ArtError(f"{file} holds no settings of artart")
    return content
