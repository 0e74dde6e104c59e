"""python -m artart.train: a folder of images becomes a trained network, grids, checkpoints and a result."""

import logging
import os
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from artart import ArtError
from artart.config.build import CONF_DIR, as_dict, build, build_all, in_sweep, select_or_none
from artart.config.cli import cli, handle_errors
from artart.config.schema import check
from artart.io.terminal import relative_to_cwd
from artart.training import distributed

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch import nn

    from artart.data.datamodule import ArtDataModule
    from artart.training.module import ArtModule

log = logging.getLogger(__name__)

HINTS = (  # of Lightning, about what is so on purpose
    ".*is smaller than the logging interval.*",
    ".*exists and is not empty.*",
    ".*could not find the monitored key.*",
    ".*dirpath has changed.*",
    ".*treespec.*",
    ".*sync_dist=True.*",  # they are exact already
)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")
@handle_errors
def main(cfg: DictConfig) -> float:
    """The story of a run: check, build, claim the folder, read the images, fit, report. Returns the best score."""
    check(cfg)
    distributed.launch(cfg.trainer)
    config = as_dict(cfg)

    from lightning.pytorch import seed_everything
    from lightning.pytorch.callbacks import LambdaCallback

    from artart.checkpoints.load import check_writable
    from artart.config.compatibility import check_measured, check_memory, check_monitor, check_parts, check_shares
    from artart.data.labels import num_classes_of
    from artart.features.alexnet import alexnet_for
    from artart.training import finetune, resume
    from artart.training.module import ArtModule
    from artart.training.result import Result
    from artart.training.run_dir import LOG, claim_run_dir, enter, note, overrides, plan

    quieten_lightning()
    distributed.init_process_group(config["trainer"])
    initial = finetune.adopt_config(cfg, Path(config["init_from"]), overrides()) if config["init_from"] else None
    config = as_dict(cfg)
    data = build(config, "data")
    label_names = data.label_names
    objective = build(config, "objective", loss=build(config, "loss"))
    fill_in(cfg.model, {"num_classes": num_classes_of(label_names), **objective.network})
    config = as_dict(cfg)
    planned = distributed.broadcast_from_rank_zero(lambda: plan(cfg))
    resume_state = resume.load_resume_state(planned.checkpoint, config, label_names) if planned.checkpoint else None
    if resume_state:
        planned = planned._replace(checkpoint=resume_state.path)
    seed_everything(config["seed"], verbose=False)
    net = build(config, "model")
    if initial:
        finetune.init_weights(net, initial, label_names)
        del initial
    log.info(size_of(net, config["image_size"]))
    if config["compile"]:
        compile_net(net, config["trainer"]["accelerator"])
    check_parts(config, objective.mode, label_names)
    check_writable(config, label_names, net)
    check_monitor(config, objective.metrics)
    precision = config["trainer"]["precision"] or best_precision(config["trainer"]["accelerator"])
    build(config, "trainer", precision=precision, logger=False)  # what is wrong with its arguments is reported now
    with distributed.rank_zero_first():  # it may be a download
        filters = objective.loss.load()
        if weights := select_or_none(config, "callbacks.memorization.weights"):
            filters |= {"samples/kid_alexnet": alexnet_for("callbacks.memorization.weights", weights)}

    if (
        goes_elsewhere := resume_state is not None and not planned.is_in_its_folder()
    ):  # made once its images are not refused
        with distributed.rank_zero_first():
            data.load(None)
            resume.compare_data(resume_state, data.facts)
    run_dir = distributed.broadcast_from_rank_zero(lambda: claim_run_dir(cfg, planned))
    cfg.run_dir = str(run_dir)
    config = as_dict(cfg)
    log_name = f"train_rank_{distributed.rank()}.log" if distributed.rank() else LOG
    goes_on = planned.is_in_its_folder()  # which is left as it is until nothing is refused any more
    if not goes_on:
        if not distributed.rank():
            note(cfg)
        enter(cfg, log_name)
    with distributed.rank_zero_first():
        if not goes_elsewhere:
            data.load(None if goes_on else run_dir)
        elif not distributed.rank():
            data.list_unused(run_dir)
        check_shares(len(data.train_ids), len(data.val_ids), distributed.world_size())
        check_measured(config, len(data.train_ids), len(data.val_ids))
        if resume_state:
            resume.compare_data(resume_state, data.facts)
    check_memory(config, len(data.train_ids) + len(data.val_ids))
    module = ArtModule(net, objective, build(config, "optimizer"), build(config, "scheduler"), config, label_names)
    trainer = make_trainer(config, precision, data.val_is_held_out)
    if goes_on:
        enter(cfg, log_name)
    if not distributed.rank():
        resume.prepare_run_dir(run_dir, resume_state, trainer.loggers)
        if goes_on:
            data.list_unused(run_dir)
            # resume=auto looks for the settings of what was saved, not for those of a command that failed before that.
            trainer.callbacks.insert(0, LambdaCallback(on_save_checkpoint=lambda *_: note(cfg)))  # type: ignore[attr-defined]
    result = Result(run_dir, config, overrides(), filters, resume_state.step if resume_state else None)
    fit(trainer, module, data, run_dir, planned.checkpoint)
    best = result.write(trainer, module)
    if not in_sweep():
        result.say(best, objective.mode)
    return best


def fill_in(model: DictConfig, values: Mapping[str, object]) -> None:
    """Settings of the network that were left to the data and to the objective."""
    for key, value in values.items():
        if key in model and model[key] is None:
            model[key] = value


def quieten_lightning() -> None:
    """Its lines once, through our log; its hints about what artart has already decided not at all."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
        logger.propagate = True
    for hint in HINTS:
        warnings.filterwarnings("ignore", hint, module="lightning")


def best_precision(accelerator: str) -> str:
    """bf16 where the GPU computes in it, else full precision.

    Raises:
        ArtError: if a GPU is asked for and there is none.
    """
    import torch

    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available() and not torch.backends.mps.is_available():
        raise ArtError(
            f"trainer.accelerator={accelerator}: no GPU that PyTorch can use is here; trainer=cpu works everywhere"
        )
    on_cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def size_of(net: "nn.Module", image_size: int) -> str:
    """A network's parameters and its operations for one image, in words."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    num_parameters = sum(parameter.numel() for parameter in net.parameters())
    counter = FlopCounterMode(display=False)
    was_training = net.training
    with torch.no_grad(), counter:
        net.eval()(torch.zeros(1, 3, image_size, image_size))
    net.train(was_training)
    return f"network: {num_parameters:,} parameters, {counter.get_total_flops() / 1e9:.2f} GFLOPs per image"


def compile_net(net: "nn.Module", accelerator: str) -> None:
    """torch.compile in place, so that the names in checkpoints stay as they are.

    Raises:
        ArtError: if there is no compiler.
    """
    import torch

    on_cpu = accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu and not shutil.which(os.environ.get("CXX", "g++")):
        raise ArtError(
            "compile=true: needs a C++ compiler on the CPU and found no g++; install one, or leave compile=false"
        )
    net.compile()


def make_trainer(config: dict[str, Any], precision: str, val_is_held_out: bool) -> "Trainer":
    """Lightning's Trainer with the callbacks that can work."""
    from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor

    from artart.checkpoints.load import read, read_back
    from artart.training.callbacks.checkpoints import AtomicCheckpointIO
    from artart.training.callbacks.stopping import MaxSteps

    callbacks, loggers = build_all(config, "callbacks"), build_all(config, "logger")
    if (max_steps := config["trainer"]["max_steps"]) != -1:
        callbacks.append(MaxSteps(max_steps))
    if not loggers:
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    if not val_is_held_out and config["monitor"].startswith("val/"):
        log.info("data.val_fraction=0: nothing is held out, so there is no %s and no best.ckpt", config["monitor"])
        callbacks = [callback for callback in callbacks if getattr(callback, "monitor", None) != config["monitor"]]
    return build(
        config,
        "trainer",
        precision=precision,
        max_steps=-1,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO(read, partial(read_back, config=config))],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )


def fit(trainer: "Trainer", module: "ArtModule", data: "ArtDataModule", run_dir: Path, checkpoint: Path | None) -> None:
    """Train; a signal ends the process with the exit code of that signal and a line that says how to go on."""
    from lightning.pytorch.callbacks import LambdaCallback
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from artart.checkpoints.validate import printable

    began: list[int] = []  # the step that the training began with, once it did
    note_step = LambdaCallback(on_train_start=lambda *_: began.append(trainer.global_step))
    trainer.callbacks.append(note_step)  # type: ignore[attr-defined]
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        name, code = "SIGTERM", 128 + signal.SIGTERM
    except SystemExit as stop:  # Lightning's answer to Ctrl-C is 1
        name, code = ("Ctrl-C", 128 + signal.SIGINT) if stop.code == 1 else ("SIGTERM", 128 + signal.SIGTERM)
    except (ArtError, OSError, MemoryError, FloatingPointError):
        raise
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        in_optimizer = str(frame.f_globals.get("__name__")).startswith("torch.optim")
        is_of_state = not began or (in_optimizer and began[0] == trainer.global_step)
        if checkpoint is None or not is_of_state or type(error).__name__ == "OutOfMemoryError":
            raise
        reason = printable(f"{type(error).__name__}: {error}")
        raise ArtError(
            f"resume={checkpoint}: its training state cannot be used ({reason}); take an earlier checkpoint, or begin "
            f"with its weights: init_from={checkpoint}"
        ) from error
    else:
        return
    log.warning("stopped by %s in epoch %d; %s", name, trainer.current_epoch + 1, how_to_go_on(run_dir))
    sys.exit(code)


def how_to_go_on(run_dir: Path) -> str:
    """What to type after a run was stopped."""
    if in_sweep():
        return "so the sweep ends here"
    if not (run_dir / "checkpoints" / "last.ckpt").is_file():
        return "nothing was saved"
    return f"go on where it stopped: the same command with resume=auto run_dir={relative_to_cwd(run_dir)}"


def run() -> None:
    cli(main, "train", sweeps=True)


if __name__ == "__main__":
    run()
