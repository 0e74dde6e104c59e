"""Settings that exclude each other, found before any work."""

import sys
from collections.abc import Iterator, Sequence

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from rich.filesize import decimal
from torch import nn

from artart import ArtError
from artart.config.build import Config, in_sweep, select_or_none
from artart.data.labels import CLASS, LabelNames, num_classes_of
from artart.diffusion.augment import AUGMENT_DIM
from artart.io import memory
from artart.metrics.memorization import MIN_HELD_OUT
from artart.objectives.losses import Perceptual

OF_SAMPLES = "samples/kid_no_memorization"
COARSE = ("bf16-true", "16-true", "64-true")
KINDS = {"reconstruct": "reconstruction", "sample": "diffusion"}  # of objectives, by mode
OWN_LOSSES = {"RelativisticLoss": "gan", "DistributionMatching": "distillation"}  # and whose they are
LOSSES = {
    "reconstruction": "hybrid",
    "diffusion": "hybrid_diffusion",
    "gan": "relativistic",
    "distillation": "distribution_matching",
}
AUGMENTATION = "objective.augment.probability"
CALLBACKS = {"reconstruction": "default", "diffusion": "diffusion", "gan": "gan", "distillation": "gan"}


def check_parts(config: Config, mode: str, label_names: LabelNames, net: object = None, one_step: bool = False) -> None:
    """Check the parts of a run against each other; `mode` and `one_step` are the objective's.

    Raises ArtError, one line per mistake, with key, value and remedy.
    """
    kind = "gan" if one_step else KINDS[mode]
    trained = "distillation" if _is_distillation(config) else kind
    problems = [*_wrong_callbacks(config, mode, trained), *_changing_targets(config)]
    problems += [*_wrong_labels(config, label_names), *_wrong_network(config, kind, net), *_wrong_loss(config, trained)]
    if kind != "reconstruction":
        problems += [*_wrong_sampling(config, trained)]
    is_scaled = config["trainer"]["precision"] == "16-mixed"
    if is_scaled and all(select_or_none(config, key) for key in ("trainer.gradient_clip_val", "optimizer.fused")):
        problems.append("optimizer.fused=true: clips before trainer.precision=16-mixed unscales; leave it out")
    if "final_beta2" in config.get("scheduler", {}) and "betas" not in config["optimizer"]:
        problems.append("scheduler=burn_in: changes beta2 of Adam; use optimizer=adam")
    if select_or_none(config, "optimizer._target_") == "artart.training.muon.Muon" and _has_no_filters(net):
        remedy = "use optimizer=adamw optimizer.lr=1e-3"
        problems.append(f"optimizer=muon: trains filters of convolutions; this network has none; {remedy}")
    if kind == "gan" and (how := config["compile"]):
        problems.append(f"compile={how}: objective=gan needs gradients of gradients; leave it null")
    if problems:
        raise ArtError("\n".join(problems))


def _has_no_filters(net: object) -> bool:
    return isinstance(net, nn.Module) and not any(parameter.ndim == 4 for parameter in net.parameters())


def check_first_stage(config: Config) -> None:
    """Raises ArtError if settings exclude a first stage."""
    if config["first_stage"] == "auto" and in_sweep():
        raise ArtError("first_stage=auto: each job of a sweep would train one; train it alone: experiment=autoencoder")
    if "schedule" not in config["objective"]:
        raise ArtError(f"first_stage={config['first_stage']}: has latents for objective=diffusion; add that")
    if select_or_none(config, "loss.weights.perceptual"):
        message = "compares images, but with first_stage= the network outputs latents; set loss=mse_diffusion"
        raise ArtError(f"loss.weights.perceptual: {message}")
    if probability := select_or_none(config, AUGMENTATION):
        raise ArtError(f"{AUGMENTATION}={probability}: is for images, not for the latents of first_stage; set 0")


def _wrong_callbacks(config: Config, mode: str, kind: str) -> Iterator[str]:
    """Callbacks that name the `mode` they are for."""
    for name, node in config["callbacks"].items():
        if node and getattr(get_object(node["_target_"]), "mode", mode) != mode:
            yield f"callbacks.{name}: is not for objective={kind}; use callbacks={CALLBACKS[kind]}"


def _wrong_network(config: Config, kind: str, net: object) -> Iterator[str]:
    """Networks for another objective: an autoencoder has a `posterior` of latents, a generator a `latent_dim`."""
    has_latents, is_generator = hasattr(net, "posterior"), hasattr(net, "latent_dim")
    probability = select_or_none(config, AUGMENTATION)
    if is_generator and kind != "gan":
        yield "model: the generator of a GAN is for objective=gan alone; choose another such as model=unet_small"
    elif kind == "gan" and not is_generator:
        yield "model: objective=gan needs a generator; use model=gan"
    elif kind == "diffusion" and has_latents:
        message = "an autoencoder is not conditioned on noise and class, as objective=diffusion needs"
        yield f"model: {message}; choose another network such as model=unet_small"
    if select_or_none(config, "objective.regularizer") and not has_latents:
        message = "the network has no latents; use model=autoencoder, or set objective.regularizer=null"
        yield f"objective.regularizer: {message}"
    if kind == "diffusion" and select_or_none(config, "model.conditioned") is False:
        yield "model.conditioned=false: objective=diffusion needs a network that is conditioned on time and class"
    if kind == "diffusion" and probability and select_or_none(config, "model.augment_dim") != AUGMENT_DIM:
        message = f"the network must be conditioned on it; set model.augment_dim={AUGMENT_DIM}"
        yield f"{AUGMENTATION}={probability}: {message}"


def _is_distillation(config: Config) -> bool:
    return _class(config.get("objective", {})) == "Distillation"


def _class(node: Config) -> str:
    """The name of the class that settings name."""
    return str(node.get("_target_")).rpartition(".")[2]


def _wrong_loss(config: Config, kind: str) -> Iterator[str]:
    owner = OWN_LOSSES.get(_class(config["loss"]))
    if owner is not None and owner != kind:
        yield f"loss={LOSSES[owner]}: is for objective={owner} alone; use loss={LOSSES[kind]}"
    elif owner is None and kind in OWN_LOSSES.values():
        yield f"loss: objective={kind} has a loss of its own; use loss={LOSSES[kind]}"
    if kind == "diffusion" and select_or_none(config, "loss.mse.units") == "imagenet":
        yield "loss.mse.units=imagenet: objective=diffusion needs units of the model; use loss=hybrid_diffusion"
    if kind == "diffusion" and (weight := select_or_none(config, "loss.weights.adversarial")):
        yield f"loss.weights.adversarial={weight}: is for objective=reconstruction alone; use loss=hybrid_diffusion"


def _wrong_sampling(config: Config, kind: str) -> Iterator[str]:
    """What excludes training for samples, and settings of samples that a GAN or a distilled network does not take."""
    if (precision := config["trainer"]["precision"]) in COARSE:
        yield f"trainer.precision={precision}: too coarse or slow; use bf16-mixed or 32-true"
    objective = config.get("objective", {})
    if kind == "distillation":
        if not config["init_from"]:
            yield "init_from: objective=distillation distils a trained network; set init_from=CHECKPOINT"
        elif (name := objective["parameterization"]) != "v":
            yield f"init_from={config['init_from']}: its parameterization is {name}; objective=distillation needs v"
    for part in ("callbacks.grid", "callbacks.memorization") if kind != "diffusion" else ():
        sampler, weight = (select_or_none(config, f"{part}.{key}") for key in ("sampler", "guidance"))
        num_steps = select_or_none(config, f"{part}.sampler.num_steps")
        if kind == "gan" and num_steps not in (None, 1):
            message = "objective=gan makes an image in one step; set sampler.num_steps=1"
            yield f"{part}.sampler.num_steps={num_steps}: {message}"
        elif kind != "gan" and sampler and (sampler["_target_"][-5:], num_steps) != (".DDIM", objective["num_steps"]):
            yield f"{part}.sampler: must be DDIM with objective.num_steps; leave sampler out"
        if weight not in (None, 1):
            yield f"{part}.guidance={weight}: objective={kind} takes no guidance; set 1"


def _wrong_labels(config: Config, label_names: LabelNames) -> Iterator[str]:
    num, wanted = select_or_none(config, "model.num_classes") or 0, num_classes_of(label_names)
    if config["data"].get("captions") == "none":
        given = [key for key in ("data.text_encoder", "data.prompts", "model.text") if select_or_none(config, key)]
        yield from (f"{key}: needs captions; set data.captions=auto, or leave it out" for key in given)
    if num not in (0, wanted):
        yield f"model.num_classes={num}: the data has {wanted} classes; null takes as many"
    for column, names in label_names.items():
        if column != CLASS and not names:
            least = config["data"]["min_per_label"]
            yield f"data.min_per_label={least}: no {column} has so many files; lower it, or remove it from data.labels"


def _changing_targets(config: Config) -> Iterator[str]:
    """Settings that change images whose features are cached."""
    for key, remedy in (("data.random_flip", "false"), (AUGMENTATION, "0")):
        if _caches_targets(config) and select_or_none(config, key):
            yield f"loss.perceptual.cache_targets=true: images must not change; set {key}={remedy}"


def _caches_targets(config: Config) -> bool:
    return all(select_or_none(config, f"loss.{key}") for key in ("perceptual.cache_targets", "weights.perceptual"))


def check_memory(config: Config, num_images: int) -> None:
    """Raises ArtError if cached features of these images would take more than half of the memory that holds them."""
    if _caches_targets(config):
        wanted = num_images * Perceptual.bytes_per_target(config["image_size"])
        on_gpu = select_or_none(config, "trainer.accelerator") != "cpu" and torch.cuda.is_available()
        here = memory.available(torch.device("cuda" if on_gpu else "cpu"))
        if here is not None and wanted > here / 2:
            raise ArtError(
                f"loss.perceptual.cache_targets=true: the features of {num_images} images take {decimal(wanted)}, "
                f"more than half of the {decimal(here)} that are free; leave it false, or use fewer or smaller images"
            )


def check_num_images(config: Config, num_train: int, num_val: int, num_processes: int) -> None:
    """Check that there are enough images for the processes, and for `monitor`.

    Raises ArtError if a process would have none while others wait for it, or if the metric would never be computed.
    """
    if num_train < num_processes:
        message = f"{num_processes} processes have {num_train} images to train on; use fewer processes"
        raise ArtError(f"trainer.devices: {message}")
    if 0 < num_val < num_processes:
        message = f"holds out {num_val} images, and each of {num_processes} processes needs one"
        raise ArtError(f"data.val_fraction: {message}; raise it, or use fewer processes")
    if (monitor := config["monitor"]) != OF_SAMPLES:
        return
    if num_val < MIN_HELD_OUT:
        message = f"{num_val} images are held out, and a test of memorization needs {MIN_HELD_OUT}"
        raise ArtError(f"monitor={monitor}: {message}; raise data.val_fraction, or choose another metric")
    every = config["callbacks"]["memorization"]["every_n_images"]
    if 0 < (seen := (config["trainer"]["max_epochs"] or 0) * num_train) < every:
        key = f"callbacks.memorization.every_n_images={every}"
        message = f"is computed every {key} images, and this run sees {seen}; lower it, or raise trainer.max_epochs"
        raise ArtError(f"monitor={monitor}: {message}")


def check_monitor(config: Config, metrics: Sequence[str]) -> None:
    """Raises ArtError if `monitor` is not logged, if `mode` is wrong for it, or if jobs of a sweep differ in it."""
    monitor, mode = config["monitor"], config["mode"]
    if select_or_none(config, "callbacks.memorization.weights"):
        metrics = [*metrics, OF_SAMPLES]
    elif monitor == OF_SAMPLES:
        raise ArtError(f"monitor={monitor}: needs AlexNet; set callbacks.memorization.weights=auto")
    if monitor == OF_SAMPLES and config["data"]["val_fraction"] == 0:
        raise ArtError(f"monitor={monitor}: needs held-out images; set data.val_fraction=0.1")
    if monitor not in metrics:
        raise ArtError(f"monitor={monitor}: is not logged; choose one of {', '.join(metrics)}")
    if mode != (better := "max" if monitor.endswith("psnr") else "min"):
        raise ArtError(f"mode={mode}: the worst {monitor} would count as the best; set mode={better}")
    if in_sweep() and monitor.endswith("/loss") and _loss_is_swept():
        raise ArtError(
            f"monitor={monitor}: cannot compare jobs whose loss differs; choose another, such as {metrics[-1]}"
        )


def _loss_is_swept() -> bool:
    """Whether the command line gives several values to the loss, to the objective, or to a key of them."""
    overrides = OverridesParser.create().parse_overrides([word for word in sys.argv[1:] if "=" in word])
    return any(one.is_sweep_override() and one.key_or_group.split(".")[0] in ("loss", "objective") for one in overrides)
