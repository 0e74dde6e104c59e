"""The parts of a run: data, objective and network, built from the settings and checked before any work."""

import logging
import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import seed_everything
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from artart import ArtError
from artart.checkpoints.load import check_writable
from artart.config.build import Config, build, select_or_none
from artart.config.compatibility import check_memory, check_monitor, check_num_images, check_parts
from artart.data.datamodule import ArtDataModule
from artart.data.labels import LabelNames, num_classes_of
from artart.diffusion.first_stage import FrozenAutoencoder
from artart.features.alexnet import alexnet_for
from artart.objectives.base import Objective
from artart.training import distributed
from artart.training.finetune import init_weights
from artart.training.module import ArtModule
from artart.training.resume import ResumeState
from artart.training.trainer import check_arguments, device_of, precision_of

log = logging.getLogger(__name__)


def build_data_and_objective(
    config: Config, first_stage: FrozenAutoencoder | None
) -> tuple[ArtDataModule, Objective, dict[str, Any]]:
    """Data and objective, and the settings of the network that depend on them."""
    data: ArtDataModule = build(config, "data")
    latent = {} if first_stage is None else {"first_stage": first_stage}
    objective: Objective = build(config, "objective", loss=build(config, "loss"), **latent)
    return data, objective, {"num_classes": num_classes_of(data.label_names), **objective.network}


def build_net(config: Config, initial: Mapping[str, Any] | None, label_names: LabelNames) -> nn.Module:
    """The network, with the weights of `initial` (see `finetune.adopt_config`) or fresh ones; logs its size."""
    seed_everything(config["seed"], verbose=False)
    net: nn.Module = build(config, "model")
    if initial:
        init_weights(net, initial, label_names)
    log.info(describe_net(net))
    if config["compile"]:
        _compile(net, config["trainer"]["accelerator"])
    return net


def describe_net(net: nn.Module) -> str:
    """A network's parameters and its operations for one image, in words."""
    num_parameters = sum(parameter.numel() for parameter in net.parameters())
    counter = FlopCounterMode(display=False)
    was_training = net.training
    shape: Any = (1, net.channels, net.image_size, net.image_size)
    with torch.no_grad(), counter:
        net.eval()(torch.zeros(shape))
    net.train(was_training)
    return f"network: {num_parameters:,} parameters, {counter.get_total_flops() / 1e9:.2f} GFLOPs per image"


def _compile(net: nn.Module, accelerator: str) -> None:
    """torch.compile in place, which keeps the names in checkpoints."""
    on_cpu = accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu and not shutil.which(os.environ.get("CXX", "g++")):
        raise ArtError("compile=true: needs a C++ compiler on the CPU, and there is no g++; install it or omit compile")
    net.compile()


def build_module(
    config: Config, net: nn.Module, objective: Objective, label_names: LabelNames, stage: str = ""
) -> ArtModule:
    """The LightningModule, with optimizer and learning-rate schedule."""
    optimizer, scheduler = build(config, "optimizer"), build(config, "scheduler")
    return ArtModule(net, objective, optimizer, scheduler, config, label_names, stage)


def validate(config: Config, objective: Objective, label_names: LabelNames, net: nn.Module) -> None:
    """Check the parts against each other, and that checkpoints of the run will be readable.

    Raises:
        ArtError: one line per mistake, with key, value and remedy.
    """
    check_parts(config, objective.mode, label_names, hasattr(net, "posterior"))
    check_writable(config, label_names, net, objective.first_stage.content)
    check_monitor(config, objective.metrics)
    check_arguments(config["trainer"])
    build(config, "trainer", precision=precision_of(config), logger=False)  # raises if its arguments are wrong


def load_pretrained(config: Config, objective: Objective) -> dict[str, str]:
    """Load pretrained networks, perhaps by download; returns the origin of each one's weights, by loss term or metric.

    Raises:
        ArtError: if weights are not available.
    """
    with distributed.rank_zero_first():
        origins = objective.loss.load()
        if weights := select_or_none(config, "callbacks.memorization.weights"):
            origins |= {"samples/kid_alexnet": alexnet_for("callbacks.memorization.weights", weights)}
    return origins


def load_images(
    data: ArtDataModule, config: Config, state: ResumeState | None, loaded: ArtDataModule | None = None
) -> None:
    """Read the images, in the first process first, or share those that have been `loaded`.

    Raises:
        ArtError: if they are too few for the settings, or not those of the run that is resumed.
    """
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
        log.warning("resume: other images than before: %s", message)


def encode_images(data: ArtDataModule, first_stage: FrozenAutoencoder, config: Config) -> None:
    """Encode the images, in the first process first, and normalise their latents.

    Raises:
        ArtError: if the cache cannot be written or has too little space.
    """
    with distributed.rank_zero_first():
        data.encode(first_stage, device_of(config))
        first_stage.normalize_by(data.training_latents())
