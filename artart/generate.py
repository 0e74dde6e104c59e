"""python -m artart.generate: a checkpoint makes images, from noise or from images."""

import logging
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from artart.config.build import build
from artart.config.cli import command
from artart.config.commands import check_mode, check_one_step
from artart.config.schema import check

log = logging.getLogger(__name__)


@command("generate")
def run(cfg: DictConfig) -> None:
    """Load a network and write the images that it makes in a mode it was trained for."""
    config = check(cfg)

    from artart.checkpoints.load import load
    from artart.evaluation.attribution import attribution_for
    from artart.generation.conditions import Asked, prompts_of, warn_of_unknown
    from artart.generation.modes import write_images
    from artart.generation.output import Output
    from artart.generation.plan import guidance_for, mode_of, modes_of, sampling_for
    from artart.io.files import output_folder
    from artart.io.images import show
    from artart.io.terminal import relative_to_cwd

    trust = {key: config[key] for key in ("trusted_classes", "device")}
    loaded = load(Path(config["checkpoint"]), **trust)
    mode = mode_of(loaded, config["mode"])
    check_mode(config, mode, modes_of(loaded.objective))
    check_one_step(loaded.objective.one_step, config["checkpoint"])
    asked = Asked(config["label"], prompts_of(config["prompt"], config["prompts"]))
    warn_of_unknown(loaded.text, asked.prompts)
    resample, num_nearest = config["resample"], config["attribute"]
    attribution = attribution_for(loaded, num_nearest, resample, **config["data"]) if num_nearest else None
    with output_folder(config["out"], Path(f"outputs/samples/{datetime.now():%Y-%m-%d/%H-%M-%S}")) as folder:
        guidance = guidance_for(loaded, **config["guidance"], **trust, negative_prompt=config["negative_prompt"])
        how = sampling_for(loaded, build(config, "sampler"), guidance, config["batch_size"])
        out = Output(folder, config["scale"], resample, attribution.add if attribution else None)
        written = write_images(mode, loaded, how, out, {**config, "asked": asked})
        verdict = attribution.write(folder) if attribution else None
    first = relative_to_cwd(written.first)
    others = f"{written.number} files in {relative_to_cwd(folder)}: {first.name} ..."
    log.info("%s", first if written.number == 1 else others)
    if verdict:
        log.info("%s", verdict)
    if config["show"]:
        show(first)


if __name__ == "__main__":
    run()
