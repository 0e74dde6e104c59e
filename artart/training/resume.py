"""Resume a run: check its checkpoint against the settings, and prepare its folder."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from artart import ArtError
from artart.checkpoints.format import is_older
from artart.checkpoints.load import read
from artart.checkpoints.validate import finished_epochs, printable
from artart.config.build import format_value, join_words, select_or_none
from artart.data.datamodule import ArtDataModule
from artart.data.labels import CLASS
from artart.io.files import new_folder
from artart.io.terminal import relative_to_cwd
from artart.training.callbacks.last import LAST, PREVIOUS
from artart.training.distributed import rank
from artart.training.loggers import cut_back, files
from artart.training.restore import misfit
from artart.training.run_dir import Plan
from artart.training.run_files import LOG, open_log, save_settings

log = logging.getLogger(__name__)

MUST_MATCH = ("image_size", "model", "objective")  # with others it would be another run
STATEFUL = ("optimizer", "scheduler")  # have a state that fits no other
MAX_SHOWN_DIFFERENCES = 12


class ResumeState(NamedTuple):
    """What a checkpoint says of the run that is resumed."""

    path: Path
    step: int
    epochs: int  # finished
    config: dict[str, Any]
    data: dict[str, Any]
    curves: dict[str, int]
    is_within_epoch: bool


def load_resume_state(
    path: Path | None, config: Mapping[str, Any], label_names: Mapping[str, Sequence[str]]
) -> ResumeState | None:
    """Check a checkpoint against the settings, and log in what they differ; None for no path.

    With resume=auto a damaged last.ckpt is replaced by the checkpoint before it.

    Raises:
        ArtError: if it is damaged, of another kind of run, or beyond the end of this one.
    """
    if path is None:
        return None
    path, content = _readable(path, falls_back=config.get("resume") == "auto")
    if "optimizer_states" not in content:
        raise ArtError(f"resume={path}: holds weights alone, without the state of the optimizer; name a .ckpt")
    if is_older(content):
        raise ArtError(f"resume={path}: written by an older artart; begin with its weights: init_from={path}")
    if content.get("images_seen") is None:
        raise ArtError(
            f"resume={path}: does not hold enough to resume exactly; begin with its weights: init_from={path}"
        )
    before = ResumeState(
        path,
        content["global_step"],
        finished_epochs(content),
        content["config"],
        content["data"],
        content.get("curves", {}),
        _is_within_epoch(content),
    )
    _compare_labels(path, content["labels"], label_names)
    _compare_settings(before, config)
    if "current_model_state" in content and not select_or_none(config, "callbacks.ema"):
        raise ArtError(f"callbacks.ema=null: {path} holds an average of the weights; resume with callbacks.ema")
    if reason := misfit(content, config):
        raise ArtError(
            f"resume={path}: its training state cannot be used ({reason}); take an earlier checkpoint, or begin with "
            f"its weights: init_from={path}"
        )
    if differing := list(_shown_differences(before.config, config)):
        more = f" and {len(differing) - MAX_SHOWN_DIFFERENCES} more" if len(differing) > MAX_SHOWN_DIFFERENCES else ""
        log.info("resume: other settings than before: %s%s", ", ".join(differing[:MAX_SHOWN_DIFFERENCES]), more)
    return before


def _compare_settings(before: ResumeState, config: Mapping[str, Any]) -> None:
    """Raises ArtError if the checkpoint is of another kind of run, or beyond the end of this one."""
    path = before.path
    for key in (*MUST_MATCH, *STATEFUL):
        was, now = select_or_none(before.config, key), select_or_none(config, key)
        if was != now:
            ((name, was, now), *_) = _differences(was, now, key)
            raise ArtError(
                f"resume={path}: was trained with {name}={printable(format_value(was))}, not {format_value(now)}; "
                "ask for that, or start afresh in another folder"
            )
    if before.is_within_epoch and (was := _batches(before.config)) != (now := _batches(config)):
        raise ArtError(
            f"resume={path}: lies within an epoch of batches of {was[0]} images in the order of seed={was[1]}, now "
            f"{now[0]} and seed={now[1]}; ask for the same, or resume from the end of an epoch"
        )
    if before.epochs > (asked := config["trainer"]["max_epochs"]):
        raise ArtError(
            f"trainer.max_epochs={asked}: {path} has finished {before.epochs} epochs; "
            f"ask for more, such as trainer.max_epochs={2 * before.epochs}"
        )


def _readable(path: Path, falls_back: bool) -> tuple[Path, dict[str, Any]]:
    """A checkpoint and its content; if it is damaged, those of previous.ckpt where `falls_back` allows it."""
    try:
        return path, read(path)
    except ArtError:
        before = path.with_name(PREVIOUS)
        if not falls_back or not before.is_file():
            raise
        with suppress(ArtError):
            content = read(before)
            log.warning("resume: %s is damaged; the checkpoint before it is used", relative_to_cwd(path))
            return before, content
        raise


def _compare_labels(path: Path, before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> None:
    """Raises ArtError if the labels mean something else than they did."""
    if list(before) != list(now):
        was = printable(", ".join(before))
        raise ArtError(
            f"resume={path}: was trained with data.labels=[{was}], not [{', '.join(now)}]; ask for that, or start "
            "afresh in another folder"
        )
    for column in now:
        if list(before[column]) != list(now[column]):
            was, given = (printable(join_words(names[column], "and")) or "none" for names in (before, now))
            kind = "classes" if column == CLASS else f"labels of {column}"
            raise ArtError(
                f"resume={path}: was trained on the {kind} {was}, the data has {given}; start afresh in another folder"
            )


def _is_within_epoch(content: Mapping[str, Any]) -> bool:
    """Whether the checkpoint's epoch has batches to come."""
    state, progress = content.get("ArtDataModule"), select_or_none(content, "loops.fit_loop.epoch_progress.current")
    if not state or not progress:
        return False
    is_over = progress["processed"] == progress["ready"]
    return not is_over and state["batches"] < state["images"] // max(1, state["global_batch_size"])


def _batches(config: Mapping[str, Any]) -> tuple[int, int]:
    """Images in a step of all processes, and the seed of their order."""
    trainer = config["trainer"]
    return config["data"]["batch_size"] * trainer["devices"] * trainer["num_nodes"], config["seed"]


def _shown_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """In words, without paths of the run's folder and without settings that repeat a key of the top."""
    top: dict[str, Any] = {}
    for key, was, value in _differences(before, now):
        places = (str(select_or_none(before, "run_dir")), str(select_or_none(now, "run_dir")))
        name = key.rpartition(".")[2]
        if key in ("run_dir", "resume") or str(was).startswith(places[0]) or top.get(name) == (was, value):
            continue
        if "." not in key:
            top[key] = (was, value)
        words = ["set" if isinstance(one, Mapping) else printable(format_value(one)) for one in (value, was)]
        yield f"{key}={words[0]} (was {words[1]})"


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each value that differs: its key, what it was, what it is. Keys of the top come first."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        if before != now:
            yield key, before, now
        return
    names = [*before, *(name for name in now if name not in before)]
    for name in sorted(names, key=lambda name: isinstance(before.get(name, now.get(name)), Mapping)):
        yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))


def open_run_dir(
    cfg: DictConfig,
    words: Sequence[str],
    planned: Plan,
    state: ResumeState | None,
    trainer: Trainer,
    data: ArtDataModule,
) -> None:
    """Open the log in the run's folder, and write there what belongs to a run before its first step.

    A folder whose run is resumed gets the new settings with the first checkpoint that has them: if the command fails
    before that, resume=auto still finds the run by its old ones.
    """
    open_log(cfg, f"train_rank_{rank()}.log" if rank() else LOG)
    if rank():
        return
    prepare_run_dir(Path(cfg.run_dir), state, trainer.loggers)
    data.list_unused(Path(cfg.run_dir))
    if planned.is_in_place:
        save = LambdaCallback(on_save_checkpoint=lambda *_: save_settings(cfg, words))
        trainer.callbacks.insert(0, save)  # type: ignore[attr-defined]
    else:
        save_settings(cfg, words)


def prepare_run_dir(run_dir: Path, before: ResumeState | None, loggers: Sequence[Logger]) -> None:
    """Set aside files of later steps, and cut curves back to the step of the checkpoint.

    After a crash there is nothing to set aside: training repeats what came after last.ckpt. Where no run is resumed,
    curves in the folder are of one that left no checkpoint.
    """
    for part in run_dir.glob("checkpoints/.*.ckpt.*.part"):  # of a process that was killed while it saved
        part.unlink()
    if before is None or before.path.resolve().parent.parent != run_dir.resolve():
        if old := files(loggers, run_dir):
            aside = _set_aside(run_dir, old)
            log.info("curves of a run without a checkpoint are set aside in %s", relative_to_cwd(aside))
        return
    if before.path.name != LAST and (later := _later(run_dir, before)):
        aside = _set_aside(run_dir, later)
        for path in files(loggers, run_dir):
            place = aside / path.relative_to(run_dir)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
        log.info("resume: files of later steps than %d are set aside in %s", before.step, relative_to_cwd(aside))
    cut_back(loggers, run_dir, before.curves)


def _later(run_dir: Path, before: ResumeState) -> list[Path]:
    """Checkpoints of later steps, and if there are any, the grids of later epochs and the result."""
    others = [path for path in run_dir.glob("checkpoints/*.ckpt") if path != before.path and _step(path) > before.step]
    grids = [path for path in run_dir.glob("samples/epoch_*.png") if _epoch(path) > before.epochs]
    return [*others, *grids, *run_dir.glob("result.json")] if others else []


def _set_aside(run_dir: Path, paths: Iterable[Path]) -> Path:
    """Move files into a new sub-folder, which is returned."""
    aside = new_folder(run_dir / f"set_aside_{datetime.now():%Y-%m-%d_%H-%M-%S}")
    for path in paths:
        place = aside / path.relative_to(run_dir)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    return aside


def _step(path: Path) -> int:
    """The step of a checkpoint; of one that cannot be read, a late one."""
    try:
        return read(path)["global_step"]
    except ArtError:
        return 2**63


def _epoch(path: Path) -> int:
    number = path.stem.split("_")[1]
    return int(number) if number.isdecimal() else 0


def compare_data(before: ResumeState, facts: Mapping[str, Any]) -> None:
    """Log a line if the images are not those of before.

    Raises:
        ArtError: if the checkpoint lies within an epoch, whose order would change.
    """
    if before.data["sha256"] != facts["sha256"]:
        numbers = (facts["num_train"], facts["num_val"], before.data["num_train"], before.data["num_val"])
        message = "{} for training and {} held out, which were {} and {}".format(*numbers)
        if before.is_within_epoch:
            raise ArtError(
                f"resume={before.path}: lies within an epoch of other images ({message}); resume from an epoch's end"
            )
        log.warning("resume: other images than before: %s", message)
