"""Resume a run: check its checkpoint against the settings."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from artart import ArtError
from artart.checkpoints.format import is_older
from artart.checkpoints.load import read
from artart.checkpoints.validate import finished_epochs
from artart.config.build import Config, format_value, join_words, select_or_none
from artart.config.paths import PREVIOUS
from artart.data.labels import CLASS, LabelNames
from artart.data.vocabulary import Prompts
from artart.diffusion.first_stage import FrozenAutoencoder, fingerprint
from artart.io.terminal import pasteable, printable, relative_to_cwd
from artart.training.restore import check_state

log = logging.getLogger(__name__)

MUST_MATCH = ("image_size", "model", "objective", "optimizer", "scheduler")  # the checkpoint's state fits no others
OF_STEPS = ("optimizer", "scheduler")  # which a run that begins with the weights may change
MAX_SHOWN_DIFFERENCES = 12


class ResumeState(NamedTuple):
    """What a checkpoint says of the run that is resumed."""

    path: Path
    step: int
    epochs: int  # finished
    data: dict[str, Any]
    curves: dict[str, int]
    is_within_epoch: bool
    first_stage: dict[str, Any]  # what `FrozenAutoencoder.content` was; empty: there is none
    teacher: str | None = None  # hash of the network from which it is distilled


def load_resume_state(
    path: Path | None,
    config: Config,
    label_names: LabelNames,
    vocabulary: Prompts | None = None,
    first_stage: FrozenAutoencoder | None = None,
) -> ResumeState | None:
    """Check a checkpoint against the settings, and log the settings that differ; None for no path.

    Raises ArtError if it is damaged, of another kind of run, or beyond the end of this one.
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
    _check_labels(path, content["labels"], label_names)
    if vocabulary and not vocabulary.identity.items() <= content.get("text", {}).items():
        raise ArtError(
            f"resume={path}: was trained with other captions, whose words have other numbers; begin with its weights, "
            f"which keeps them: init_from={path}"
        )
    held = content.get("first_stage", {})
    _check_first_stage(path, held, config, first_stage)
    differences = list(_differences(content["config"], config))
    _check_settings(path, content, config, differences)
    if "current_model_state" in content and not select_or_none(config, "callbacks.ema"):
        raise ArtError(f"callbacks.ema=null: {path} holds an average of the weights; resume with callbacks.ema")
    check_state(path, content, config)
    log.info("resume: from %s", relative_to_cwd(path))
    if (threads := content["artart"].get("threads", torch.get_num_threads())) != torch.get_num_threads():
        log.warning(
            "resume: trained with %s threads, now %d: rounding differs on a CPU, so the result is not bitwise the same",
            printable(threads),
            torch.get_num_threads(),
        )
    _log_differences(differences, content["config"])
    step, curves = content["global_step"], content.get("curves", {})
    progress = (step, finished_epochs(content), content["data"], curves, _is_within_epoch(content))
    return ResumeState(path, *progress, held, content.get("teacher"))


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


def _check_labels(path: Path, before: LabelNames, now: LabelNames) -> None:
    """Raises ArtError if the labels have another meaning than before."""
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


def _check_first_stage(
    path: Path, held: Mapping[str, Any], config: Config, first_stage: FrozenAutoencoder | None
) -> None:
    """Raises ArtError if the checkpoint was trained with another first stage."""
    if held and config.get("first_stage") == "auto":
        return  # it takes these weights, if they fit
    its = fingerprint(held["model"], held["state_dict"]) if held else None
    if its != (first_stage and first_stage.sha256):
        was, remedy = ("another", f"set first_stage={path}") if held else ("none", "leave it out")
        raise ArtError(
            f"first_stage={format_value(config.get('first_stage'))}: {path} was trained with {was}; {remedy}"
        )


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, value before and value now of each setting that differs; keys of the top come first."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        if before != now:
            yield key, before, now
        return
    names = [*before, *(name for name in now if name not in before)]
    for name in sorted(names, key=lambda name: isinstance(before.get(name, now.get(name)), Mapping)):
        yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))


def _check_settings(
    path: Path, content: Mapping[str, Any], config: Config, differences: Iterable[tuple[str, Any, Any]]
) -> None:
    """Raises ArtError if the checkpoint is of another kind of run, or beyond the end of this one."""
    for key, was, now in differences:
        if key.partition(".")[0] in MUST_MATCH:
            weights = f"begin with its weights: init_from={pasteable(path)}"
            remedy = weights if key.partition(".")[0] in OF_STEPS else "start afresh in another folder"
            raise ArtError(
                f"resume={path}: was trained with {key}={printable(format_value(was))}, not {format_value(now)}; "
                f"ask for that, or {remedy}"
            )
    if _is_within_epoch(content) and (was := _batches(content["config"])) != (now := _batches(config)):
        raise ArtError(
            f"resume={path}: lies within an epoch of batches of {was[0]} images in the order of seed={was[1]}, now "
            f"{now[0]} and seed={now[1]}; ask for the same, or resume from the end of an epoch"
        )
    epochs, asked = finished_epochs(content), config["trainer"]["max_epochs"]
    has_ended = epochs == asked and not _is_within_epoch(content) and (path.parent.parent / "result.json").is_file()
    if epochs > asked or has_ended:
        raise ArtError(
            f"trainer.max_epochs={asked}: {path} has finished {epochs} epochs; "
            f"ask for more, such as trainer.max_epochs={2 * epochs}"
        )


def _is_within_epoch(content: Mapping[str, Any]) -> bool:
    """Whether the checkpoint's epoch has batches to come."""
    state, progress = content.get("ArtDataModule"), select_or_none(content, "loops.fit_loop.epoch_progress.current")
    if not state or not progress or progress["processed"] == progress["ready"]:
        return False
    return state["batches"] < state["images"] // max(1, state["global_batch_size"])


def _batches(config: Config) -> tuple[int, int]:
    """Images in a step of all processes, and the seed of their order."""
    trainer = config["trainer"]
    return config["data"]["batch_size"] * trainer["devices"] * trainer["num_nodes"], config["data"].get(
        "seed", config["seed"]
    )


def _log_differences(differences: Sequence[tuple[str, Any, Any]], before: Mapping[str, Any]) -> None:
    """Log the settings that differ, without paths of the run's folder and keys that repeat one of the top."""
    top = {key: (was, now) for key, was, now in differences if "." not in key}
    shown = list[str]()
    for key, was, now in differences:
        repeats = "." in key and top.get(key.rpartition(".")[2]) == (was, now)
        if (
            key not in ("run_dir", "resume", "trusted_classes")
            and not str(was).startswith(str(before.get("run_dir")))
            and not repeats
        ):
            words = ["set" if isinstance(one, Mapping) else printable(format_value(one)) for one in (now, was)]
            shown.append(f"{key}={words[0]} (was {words[1]})")
    if shown:
        more = f" and {len(shown) - MAX_SHOWN_DIFFERENCES} more" if len(shown) > MAX_SHOWN_DIFFERENCES else ""
        log.info("resume: other settings than before: %s%s", ", ".join(shown[:MAX_SHOWN_DIFFERENCES]), more)
    if any(key.startswith("first_stage_settings") for key, *_ in differences):
        log.info("resume: the first stage has been trained, so first_stage_settings have no effect")
