"""python -m artart.gallery RUN: one page of samples of a network."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from artart import ArtError
from artart.config.build import build
from artart.config.cli import command
from artart.config.commands import check_sampling
from artart.config.schema import check

log = logging.getLogger(__name__)


@command("gallery")
def run(cfg: DictConfig) -> None:
    """Sample, find the nearest training images, and write gallery.html into a new folder."""
    config = check(cfg)

    from artart.checkpoints.load import load
    from artart.evaluation.attribution import training_set_for
    from artart.evaluation.comparison import grids_of
    from artart.evaluation.gallery import page
    from artart.generation.conditions import Asked, prompts_of
    from artart.generation.plan import guidance_for, make, sampling_for
    from artart.generation.sample import plan_samples
    from artart.io.files import output_folder, write_new
    from artart.io.images import to_pixels
    from artart.io.terminal import relative_to_cwd

    path = Path(config["checkpoint"])
    loaded = load(path, config["trusted_classes"], config["device"], config["precision"])
    check_sampling(config, loaded.objective.one_step, loaded.objective.num_steps)
    if loaded.objective.mode != "sample":
        raise ArtError(f"checkpoint={path}: reproduces images and makes no new ones; name a network that does")
    prompts = prompts_of(loaded, config["prompt"], config["prompts"])
    asked = Asked(config["num_images"], config["seed"], config["label"], prompts)
    guidance = guidance_for(loaded, **config["guidance"])
    how = sampling_for(loaded, build(config, "sampler"), guidance, config["batch_size"])
    training = training_set_for(loaded, **config["data"]) if config["nearest"] else None  # first: prompts get new rows
    plan = plan_samples(loaded, how, asked)
    with output_folder(config["out"], "galleries") as folder:
        made = [(item.name.stem, to_pixels(image), item.provenance) for item, image in make(loaded, plan)]
        run_dir = path.resolve().parent.parent
        content = page(run_dir.name, made, training, grids_of(run_dir, width=1200), plan.details)
        log.info("page: %s", relative_to_cwd(write_new(folder / "gallery.html", content)))


if __name__ == "__main__":
    run()
