"""python -m artart.generate: a checkpoint makes images, from noise or from images."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from artart.config.build import build, format_value
from artart.config.cli import command
from artart.config.commands import check_mode, check_sampling
from artart.config.schema import check

log = logging.getLogger(__name__)


@command("generate")
def run(cfg: DictConfig) -> None:
    """Load a network and write the images that it makes in a mode it was trained for."""
    config = check(cfg)

    from artart.checkpoints.load import load
    from artart.generation.conditions import Asked, prompts_of
    from artart.generation.modes import write_images
    from artart.generation.output import Output
    from artart.generation.plan import guidance_for, mode_of, modes_of, sampling_for
    from artart.generation.registry import Registry
    from artart.io.files import output_folder
    from artart.io.images import show
    from artart.io.signing import signer_for
    from artart.io.terminal import relative_to_cwd

    sign = signer_for(**config["provenance"])
    loaded = load(Path(config["checkpoint"]), config["trusted_classes"], config["device"], config["precision"])
    mode = mode_of(loaded, config["mode"])
    check_mode(config, mode, modes_of(loaded.objective))
    check_sampling(config, loaded.objective.one_step, loaded.objective.num_steps)
    allowed = config["allowed_labels"] and [format_value(name) for name in config["allowed_labels"]]
    prompts = prompts_of(loaded, config["prompt"], config["prompts"])
    asked = Asked(config["num_images"], config["seed"], config["label"], prompts, allowed)
    training, attribution = _training(loaded, config)
    filters, limits = _filters(config, training)
    registry = Registry(Path(config["registry"])) if config["registry"] else None
    with output_folder(config["out"], "samples") as folder:
        guidance = guidance_for(loaded, **config["guidance"], negative_prompt=config["negative_prompt"])
        how = sampling_for(loaded, build(config, "sampler"), guidance, config["batch_size"])
        how = how._replace(limits=limits)
        on_image, on_file = attribution.add if attribution else None, registry.add if registry else None
        out = Output(folder, config["scale"], config["resample"], on_image, sign, on_file)
        file, num_files = write_images(mode, loaded, how, out, {**config, "asked": asked, "filters": filters})
        verdict = attribution.write(folder, out.save) if attribution else None
    first = relative_to_cwd(file)
    others = f"{num_files} files in {relative_to_cwd(folder)}: {first.name} ..."
    log.info("%s", first if num_files == 1 else others)
    if verdict:
        log.info("%s", verdict)
    if config["show"]:
        show(first)


def _training(loaded: Any, config: dict[str, Any]) -> tuple[Any, Any]:
    """The training images, if a setting needs them, and what finds those nearest to samples."""
    if not config["attribute"] and not config["refuse_memorized"]:
        return None, None

    from artart.evaluation.attribution import Attribution, training_set_for

    training = training_set_for(loaded, **config["data"])
    return training, Attribution(training, config["attribute"], config["resample"]) if config["attribute"] else None


def _filters(config: dict[str, Any], training: Any) -> tuple[dict[str, Callable[..., Any]], dict[str, object]]:
    """Filters of samples by what they refuse, and all limits of images for their provenance."""
    from artart.generation.refusal import checked

    filters: dict[str, Callable[..., Any]] = {}
    if config["refuse_memorized"]:
        from artart.evaluation.attribution import is_memorized

        filters["near-duplicates of training images"] = is_memorized(training)
    if config.get("filter"):
        filters["by the filter"] = checked(build(config, "filter"), config["filter"]["_target_"])
    limits = {key: config[key] for key in ("allowed_labels", "refuse_memorized") if config[key]}
    return filters, limits | ({"filter": config["filter"]["_target_"]} if config.get("filter") else {})


if __name__ == "__main__":
    run()
