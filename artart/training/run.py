"""A run in steps: its parts are built and checked without writing anything; then it begins in its folder and trains."""

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from artart import ArtError
from artart.checkpoints.load import check_writable
from artart.config.build import Config, as_dict, build, select_or_none
from artart.config.compatibility import check_memory, check_monitor, check_num_images, check_parts
from artart.data.datamodule import ArtDataModule
from artart.data.embeddings import Embeddings
from artart.data.labels import LabelNames, num_classes_of
from artart.diffusion.first_stage import FrozenAutoencoder
from artart.features.alexnet import alexnet_for
from artart.features.text_encoder import FrozenTextEncoder
from artart.models.text import attach
from artart.objectives.base import Objective
from artart.training import cost, distributed, module, resume, run_dir
from artart.training.finetune import init_weights
from artart.training.loggers import log_settings
from artart.training.module import ArtModule
from artart.training.result import TrainingResult, report
from artart.training.rewind import prepare_run_dir
from artart.training.run_files import open_log, save_settings
from artart.training.trackers import check_packages
from artart.training.trainer import check_arguments, device_of, fit, make_trainer, precision_of

log = logging.getLogger(__name__)

STAGES = ("stage 1 of 2", "stage 2 of 2")  # of a run with first_stage=auto


class Run(NamedTuple):
    """A run, or one of its two stages, whose settings have been checked."""

    cfg: DictConfig
    words: Sequence[str]  # what was set on the command line, key=value
    plan: run_dir.Plan
    state: resume.ResumeState | None
    data: ArtDataModule
    objective: Objective
    net: nn.Module
    pretrained: Mapping[str, str]  # the origin of pretrained weights, by loss term or metric
    is_part: bool  # whether it is the first stage of another run of this process, in a folder within that one's

    @property
    def stage(self) -> str:
        """What log lines call it; empty: it is no stage of two."""
        return STAGES[0] if self.is_part else STAGES[1] if self.cfg.first_stage == "auto" else ""


def prepare(
    cfg: DictConfig,
    words: Sequence[str],
    initial: Mapping[str, Any] | None,
    first_stage: FrozenAutoencoder | None = None,
    is_part: bool = False,
) -> Run:
    """Build the parts and check them against each other and against what is resumed. Writes nothing but a lock.

    Args:
        cfg: the settings, which `schema.check` has checked; those of the network that depend on other parts are set.
        words: what was set on the command line, key=value.
        initial: of `finetune.adopt_config`.
        first_stage: of latent diffusion.
        is_part: as in Run.

    Raises ArtError, one line per mistake, with key, value and remedy.
    """
    data, objective = _build_data_and_objective(cfg, first_stage, initial)
    plan = distributed.broadcast_from_rank_zero(lambda: run_dir.plan(cfg, is_part))
    config = as_dict(cfg)
    state = resume.load_resume_state(plan.checkpoint, config, data.label_names, data.text.vocabulary, first_stage)
    try:
        net = _build_net(config, initial, data.label_names)
    except ArtError as error:
        if first_stage and str(error).startswith("image_size="):
            side = first_stage.network["image_size"]
            raise ArtError(
                f"image_size={cfg.image_size}: the network has latents of {side} x {side}: {error}"
            ) from None
        raise
    objective.loss.begin_with(net)
    if state and state.teacher not in (None, module.sha256_of_teacher(objective.loss)):
        raise ArtError(f"init_from={cfg.init_from}: is not the network from which {state.path} is distilled; name that")
    check_parts(config, objective.mode, data.label_names, net, objective.one_step)
    check_writable(config, data.label_names, net, objective.first_stage.content)
    check_monitor(config, objective.metrics)
    check_arguments(config["trainer"])
    check_packages(config["logger"])
    build(config, "trainer", precision=precision_of(config), logger=False)  # raises if its arguments are wrong
    return Run(cfg, words, plan, state, data, objective, net, load_pretrained(config, objective), is_part)


def _build_data_and_objective(
    cfg: DictConfig, first_stage: FrozenAutoencoder | None = None, initial: Mapping[str, Any] | None = None
) -> tuple[ArtDataModule, Objective]:
    """Data and objective; the settings of the network that depend on them are set in `cfg`.

    The words of `initial`, of `finetune.adopt_config`, keep their numbers.
    """
    config = as_dict(cfg)
    data: ArtDataModule = build(config, "data")
    if data.text_encoder is not None:
        data.text.encoder = FrozenTextEncoder(data.text_encoder)
    if initial and initial["text"] and data.text.vocabulary:
        if data.text.encoder and data.text.encoder.sha256 != initial["text"].identity.get("sha256"):
            raise ArtError(
                f"data.text_encoder={data.text_encoder}: is not that of init_from={cfg.init_from}; leave it out"
            )
        data.text.vocabulary = initial["text"]
    elif initial and initial["text"]:
        log.warning("init_from=%s: takes prompts, this run none; add data.captions=auto to keep them", cfg.init_from)
    num_classes = num_classes_of(data.label_names) if data.text.vocabulary is None else 0
    _fill_in(cfg, {"num_classes": num_classes})
    config = as_dict(cfg)  # a discriminator may have the labels of the network
    latent = {} if first_stage is None else {"first_stage": first_stage}
    objective: Objective = build(config, "objective", loss=build(config, "loss"), **latent)
    _fill_in(cfg, objective.network)
    if data.text.vocabulary is not None and objective.one_step:
        raise ArtError("data.captions: objective=gan takes labels and no prompts; set data.captions=none")
    sizes: Mapping[str, Any] = {**objective.first_stage.network, **data.text.network}
    for key, value in sizes.items():
        OmegaConf.update(cfg.model, key, value, force_add=True)
    return data, objective


def _fill_in(cfg: DictConfig, values: Mapping[str, Any]) -> None:
    """Set those settings of the network that are null."""
    for key, value in values.items():
        if key in cfg.model and cfg.model[key] is None:
            cfg.model[key] = value


def _build_net(config: Config, initial: Mapping[str, Any] | None, label_names: LabelNames) -> nn.Module:
    """The network, with the weights of `initial` or fresh ones; logs its size."""
    seed_everything(config["seed"], verbose=False)
    net: nn.Module = build(config, "model")
    if initial:
        init_weights(net, initial, label_names)
    log.info(describe_net(net))
    if mode := config["compile"]:
        if device_of(config).type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
            raise ArtError(
                f"compile={mode}: needs a C++ compiler on the CPU, and there is no g++; install it or omit compile"
            )
        log.info("compile=%s: the first step compiles, which takes a minute or more", mode)
    return net


def describe_net(net: nn.Module) -> str:
    """A network's parameters and its operations for one image, in words."""
    num_parameters = sum(parameter.numel() for parameter in net.parameters())
    counter = FlopCounterMode(display=False)
    shape: Any = (1, net.channels, net.image_size, net.image_size)
    with torch.no_grad(), counter:
        net.eval()(torch.zeros(shape))
    net.train()
    return f"network: {num_parameters:,} parameters, {counter.get_total_flops() / 1e9:.2f} GFLOPs per image"


def load_pretrained(config: Config, objective: Objective) -> dict[str, str]:
    """Load pretrained networks, perhaps by download; returns the origin of each one's weights, by loss term or metric.

    Raises ArtError if weights are not available.
    """
    with distributed.rank_zero_first():
        origins = objective.loss.load()
        if weights := select_or_none(config, "callbacks.memorization.weights"):
            origins |= {"samples/kid_alexnet": alexnet_for("callbacks.memorization.weights", weights)}
    return origins


def load_images(run: Run, loaded: ArtDataModule | None = None) -> None:
    """Read the images, in the first process first, or share those that have been `loaded`.

    Raises ArtError if they are too few for the settings or not those of the run that is resumed, or if training needs
    more memory than there is.
    """
    config, data, state = as_dict(run.cfg), run.data, run.state
    with distributed.rank_zero_first():
        data.load(loaded)
    num_train, num_val = len(data.train_ids), len(data.val_ids)
    check_num_images(config, num_train, num_val, distributed.world_size())
    check_memory(config, num_train + num_val)
    if state and state.data["sha256"] != data.facts["sha256"]:
        before = f"which were {state.data['num_train']} and {state.data['num_val']}"
        message = f"{num_train} for training and {num_val} held out, {before}"
        if state.is_within_epoch:
            raise ArtError(
                f"resume={state.path}: lies within an epoch of other images ({message}); resume from an epoch's end"
            )
        log.warning("resume: other images than before: %s; some held out now may have been trained on", message)
    cost.check(config, run.net, run.objective, num_train, device_of(config), run.stage or "the run")
    if isinstance(data.text.vocabulary, Embeddings):
        loss = run.objective.loss
        for net in filter(None, (run.net, loss.teacher, loss.discriminator)):
            attach(net, data.text.vocabulary.table)  # which copies share


def begin(run: Run) -> Trainer:
    """Claim the folder, make the Trainer, and write what belongs to a run before its first step.

    A folder whose run is resumed gets the new settings with the first checkpoint that has them: if the command fails
    before that, resume=auto finds the run by its old ones.
    """
    cfg = run.cfg
    cfg.run_dir = str(distributed.broadcast_from_rank_zero(lambda: run_dir.claim_run_dir(cfg, run.plan)))
    trainer = make_trainer(as_dict(cfg), run.data.val_is_held_out)
    open_log(cfg)
    if distributed.rank():
        return trainer
    prepare_run_dir(Path(cfg.run_dir), run.state, trainer.loggers)
    run.data.list_unused(Path(cfg.run_dir))
    if run.plan.is_in_place:
        save = LambdaCallback(on_save_checkpoint=lambda *_: save_settings(cfg, run.words))
        trainer.callbacks.insert(0, save)  # type: ignore[attr-defined]
    else:
        save_settings(cfg, run.words)
    return trainer


def encode_images(run: Run, first_stage: FrozenAutoencoder) -> None:
    """Encode the images, in the first process first, and normalise their latents.

    Raises ArtError if the cache cannot be written or has too little space.
    """
    with distributed.rank_zero_first():
        run.data.encode(first_stage, device_of(as_dict(run.cfg)))
        first_stage.normalize_by(run.data.training_latents())


def finish(run: Run, trainer: Trainer) -> TrainingResult:
    """Train with the Trainer of `begin`, and report."""
    config, started = as_dict(run.cfg), time.monotonic()
    folder = Path(config["run_dir"])
    optimizer, scheduler = build(config, "optimizer"), build(config, "scheduler")
    module = ArtModule(run.net, run.objective, optimizer, scheduler, config, run.data.label_names, run.stage)
    log_settings(trainer.loggers, config)
    fit(trainer, module, run.data, run.state and run.state.path, folder.parent if run.is_part else folder)
    return report(run, trainer, module, time.monotonic() - started)
