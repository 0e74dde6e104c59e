"""python -m artart.generate: a checkpoint makes images, from noise or from images."""

import logging
from collections.abc import Callable
from datetime import datetime
from inspect import signature
from pathlib import Path

from omegaconf import DictConfig

from artart.config.build import build
from artart.config.cli import command
from artart.config.commands import check_mode
from artart.config.schema import check

log = logging.getLogger(__name__)


@command("generate")
def run(cfg: DictConfig) -> None:
    """Load a network and write the images that it makes in a mode it was trained for."""
    config = check(cfg)

    from artart.checkpoints.load import load
    from artart.generation.conditions import Asked, prompts_of, warn_of_unknown
    from artart.generation.img2img import write_variations
    from artart.generation.interpolate import write_interpolation
    from artart.generation.output import Output, Written
    from artart.generation.plan import MODES, Sampling, guidance_for, mode_of
    from artart.generation.reconstruct import write_reconstructions
    from artart.generation.sample import write_samples
    from artart.io.files import output_folder
    from artart.io.images import show
    from artart.io.terminal import relative_to_cwd

    trust = {key: config[key] for key in ("trusted_classes", "device")}
    loaded = load(Path(config["checkpoint"]), **trust)
    mode = mode_of(loaded, config["mode"])
    check_mode(config, mode, MODES[loaded.objective.mode])
    asked = Asked(config["label"], prompts_of(config["prompt"], config["prompts"]))
    warn_of_unknown(loaded.text, asked.prompts)
    writers: dict[str, Callable[..., Written]] = {
        "sample": write_samples,
        "img2img": write_variations,
        "inpaint": write_variations,
        "interpolate": write_interpolation,
        "reconstruct": write_reconstructions,
    }
    with output_folder(config["out"], Path(f"outputs/samples/{datetime.now():%Y-%m-%d/%H-%M-%S}")) as folder:
        guidance = guidance_for(loaded, **config["guidance"], **trust, negative_prompt=config["negative_prompt"])
        how = Sampling(build(config, "sampler"), guidance, config["batch_size"])
        out, given = Output(folder, config["scale"], config["resample"]), {**config, "asked": asked}
        keys = signature(writers[mode]).parameters.keys() & given.keys() - {"out"}
        written = writers[mode](loaded, how, out, **{key: given[key] for key in keys})
    first = relative_to_cwd(written.first)
    others = f"{written.number} files in {relative_to_cwd(folder)}: {first.name} ..."
    log.info("%s", first if written.number == 1 else others)
    if config["show"]:
        show(first)


if __name__ == "__main__":
    run()
