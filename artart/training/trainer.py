"""Lightning's Trainer as artart uses it: its precision, its callbacks, and how it ends."""

import logging
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, LambdaCallback, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from artart import ArtError
from artart.checkpoints.device import computes_in_bf16
from artart.config.build import Config, build, build_all, format_value, in_sweep
from artart.data.datamodule import ArtDataModule
from artart.io.terminal import pasteable, printable
from artart.training.callbacks.checkpoints import AtomicCheckpointIO
from artart.training.callbacks.stopping import LastEpoch
from artart.training.module import ArtModule
from artart.training.restore import unusable

log = logging.getLogger(__name__)

OURS = {  # arguments of the Trainer that artart sets itself
    "barebones": "leave it out; callbacks=none logger=none writes nothing during training",
    "callbacks": "is a group of its own: callbacks=none, +callbacks.NAME={_target_: ...}",
    "enable_checkpointing": "leave it out; callbacks=none, or callbacks.last=null and others, writes no checkpoints",
    "fast_dev_run": "leave it out; trainer=debug tries a few batches",
    "logger": "is a group of its own: logger=none, logger=csv, logger=[tensorboard,wandb]",
    "overfit_batches": "leave it out; each epoch has other batches; name a folder of few images: data.root=DIR",
    "plugins": "leave it out; checkpoints are written by artart's plugin",
    "reload_dataloaders_every_n_epochs": "leave it out; the images are read once",
}

HINTS = (  # warnings of Lightning about what is intended here
    ".*is smaller than the logging interval.*",
    ".*exists and is not empty.*",
    ".*could not find the monitored key.*",
    ".*treespec.*",
    ".*sync_dist=True.*",  # values are reduced by ArtModule
)


def precision_of(config: Config) -> str:
    """trainer.precision; where it is null, bf16 on a GPU that computes in it, else full precision.

    Raises ArtError if a GPU is asked for and there is none.
    """
    accelerator, precision = config["trainer"]["accelerator"], config["trainer"]["precision"]
    if accelerator in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise ArtError(f"trainer.accelerator={accelerator}: PyTorch finds no GPU; trainer=cpu works everywhere")
    return precision or ("bf16-mixed" if computes_in_bf16(device_of(config)) else "32-true")


def device_of(config: Config) -> torch.device:
    """The device on which to compute before there is a Trainer."""
    on_cuda = config["trainer"]["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if on_cuda else "cpu")


def check_arguments(trainer: Mapping[str, Any]) -> None:
    """Raises ArtError if a Trainer argument would have no effect, since artart decides it."""
    for key in [key for key in OURS if trainer.get(key) is not None]:
        raise ArtError(f"trainer.{key}={format_value(trainer[key])}: {OURS[key]}")


def make_trainer(config: Config, val_is_held_out: bool) -> Trainer:
    """Lightning's Trainer with loggers, checkpoints and those callbacks that apply.

    `val_is_held_out`: whether there are validation metrics.
    """
    callbacks, loggers = build_all(config, "callbacks"), build_all(config, "logger")
    run_dir = str(config["run_dir"])
    if run_dir.encode(errors="ignore").decode() != run_dir:
        log.warning("logger.tensorboard: left out; TensorBoard cannot write to a path that is not UTF-8")
        loggers = [logger for logger in loggers if not isinstance(logger, TensorBoardLogger)]
    if not loggers:
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    if not val_is_held_out and config["monitor"].startswith("val/"):
        log.info("data.val_fraction=0: no validation, so there is no %s and no best.ckpt", config["monitor"])
        callbacks = [callback for callback in callbacks if getattr(callback, "monitor", None) != config["monitor"]]
    trainer: Trainer = build(
        config,
        "trainer",
        precision=precision_of(config),
        max_steps=-1,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO(config)],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )
    trainer.callbacks.append(LastEpoch(config["trainer"]["max_steps"]))  # type: ignore[attr-defined]  # after max_time's
    return trainer


def quieten_lightning() -> None:
    """Send Lightning's lines through the root logger, once; drop its hints about what is intended."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
        logger.propagate = True
    for name in ("profilers.profiler", "callbacks.model_summary"):  # what was asked for
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)  # it warns of each new experiment
    for hint in HINTS:
        warnings.filterwarnings("ignore", hint, module="lightning")


def fit(trainer: Trainer, module: ArtModule, data: ArtDataModule, checkpoint: Path | None, run_dir: Path) -> None:
    """Train, from a checkpoint if one is given; a signal ends the process with that signal's exit code.

    `run_dir` is the folder of the run to resume, of which this one may be a part.

    Raises ArtError if the state of training in the checkpoint cannot be used.
    """
    began: list[int] = []  # the step at which training began, once it did
    note_step = LambdaCallback(on_train_start=lambda *_: began.append(trainer.global_step))
    trainer.callbacks.append(note_step)  # type: ignore[attr-defined]
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        _exit(signal.SIGTERM, module, run_dir)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C is 1
        _exit(signal.SIGINT if stop.code == 1 else signal.SIGTERM, module, run_dir)
    except (ArtError, OSError, MemoryError, FloatingPointError):
        raise
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        in_optimizer = str(frame.f_globals.get("__name__")).startswith("torch.optim")
        is_of_state = not began or (in_optimizer and began[0] == trainer.global_step)
        if checkpoint is None or not is_of_state or type(error).__name__ == "OutOfMemoryError":
            raise
        raise unusable(checkpoint, printable(f"{type(error).__name__}: {error}")) from error


def _exit(number: signal.Signals, module: ArtModule, run_dir: Path) -> None:
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    if in_sweep():
        remedy = "the sweep ends here"
    elif not any(run_dir.rglob("checkpoints/last.ckpt")):
        remedy = "nothing was saved"
    else:
        remedy = f"to resume, repeat the command with resume=auto run_dir={pasteable(run_dir)}"
    log.warning("stopped by %s in %s; %s", name, module.place, remedy)
    sys.exit(128 + number)
