"""The files that make a folder that of a run: its settings, log and result."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from logging.handlers import MemoryHandler
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from artart import ArtError
from artart.config.paths import RUNS, SET_ASIDE, read_settings
from artart.io.files import atomic, new_folder
from artart.training.distributed import rank

LOG = "train.log"

_lines = MemoryHandler(1_000_000)  # log lines of the run of this process


def check_run(run_dir: Path) -> None:
    """Raises ArtError if artart.train did not make the folder, or if it holds links out of it."""
    read_settings(run_dir)
    if not (run_dir / LOG).is_file():
        raise ArtError(f"{run_dir} is not the folder of a run: it has no {LOG}")
    check_links(run_dir)


def check_free(folder: Path) -> None:
    """Raises ArtError if a new run would mix with the files in a folder; one that saved nothing can begin again."""
    if any(folder.glob("checkpoints/*.ckpt")) or (folder / "result.json").exists():
        raise ArtError(f"{folder} holds a run or a result already")
    if not {*folder.glob("*"), *folder.glob(".hydra/*")} <= {folder / ".hydra", folder / ".hydra" / "lock"}:
        read_settings(folder)
    check_links(folder)


def check_links(run_dir: Path) -> None:
    """Raises ArtError if something might be written outside of the folder; nobody writes into an old log of W&B."""
    inside = os.path.realpath(run_dir)
    for path in run_dir.rglob("*"):
        if (
            path.is_symlink()
            and not path.match("wandb/*/logs/debug-core.log")
            and not Path(os.path.realpath(path)).is_relative_to(inside)
        ):
            raise ArtError(f"{path} is a link that leads out of the run's folder")


def set_aside(folder: Path, moved: Sequence[Path], copied: Sequence[Path] = ()) -> Path:
    """Move and copy files below a folder into a new sub-folder, which is returned."""
    aside = new_folder(folder / f"{SET_ASIDE}{datetime.now():%Y-%m-%d_%H-%M-%S}")
    for path in (*moved, *copied):
        place = aside / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path in moved:
            path.rename(place)
        else:
            shutil.copy2(path, place)
    return aside


def reached_limit(run_dir: Path, cfg: DictConfig) -> tuple[str, int] | None:
    """The limit at which a run has finished, max_steps or max_epochs of the trainer, and its number of these; or None.

    Raises ArtError if its result.json is not what artart writes.
    """
    file = run_dir / "result.json"
    if not file.exists():
        return None
    try:
        result = json.loads(file.read_text(encoding="utf-8") if file.is_file() else "")
        done = {"max_steps": result["steps"], "max_epochs": result["epochs"]}
        return next((one for one in done.items() if 0 <= cfg.trainer[one[0]] <= one[1]), None)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtError(f"{file} is not the result of a run; move it away") from None


def save_settings(cfg: DictConfig, words: Sequence[str]) -> None:
    """Write the settings, and the `words` of the command line, into cfg.run_dir, unless they are there.

    Raises OSError if they cannot be written.
    """
    texts = {"config.yaml": OmegaConf.to_yaml(cfg), "overrides.yaml": OmegaConf.to_yaml(list(words))}
    for name, text in texts.items():
        path = Path(cfg.run_dir, ".hydra", name)
        if not path.is_file() or path.read_bytes() != text.encode():
            with atomic(path) as file:
                file.write(text.encode())


def keep_log_lines() -> None:
    """Keep log lines from here on, until `open_log`; those of an earlier run in the same process end."""
    _lines.setTarget(None)
    _lines.buffer.clear()
    _lines.flushLevel = logging.CRITICAL + 1
    logging.getLogger().addHandler(_lines)


def open_log(cfg: DictConfig, log_name: str = LOG) -> None:
    """Send log lines to a file in cfg.run_dir; those since `keep_log_lines` first, if this process has called it.

    A process of a higher rank has a file of its own.

    Raises ArtError if it cannot be written.
    """
    log_name = f"train_rank_{rank()}.log" if rank() else log_name
    with disk_errors(cfg):
        handler = logging.FileHandler(Path(cfg.run_dir, log_name), encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _lines.setTarget(handler)
    _lines.flush()
    _lines.flushLevel = logging.NOTSET  # passes each line on at once
    logging.getLogger().addHandler(_lines)


def close_log() -> None:
    """Send no more lines to the file of `open_log`."""
    logging.getLogger().removeHandler(_lines)
    if _lines.target:
        _lines.target.close()


@contextmanager
def disk_errors(cfg: DictConfig) -> Iterator[None]:
    """Turn an error of the disk into one line with the remedy."""
    try:
        yield
    except OSError as error:
        folder = error.filename or cfg.run_dir or RUNS
        raise ArtError(
            f"run_dir={cfg.run_dir or 'null'}: {folder}: {error.strerror}; name another folder: run_dir=DIR"
        ) from None
