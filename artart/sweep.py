"""python -m artart.sweep: search for settings of artart.train by trials, each of which is a run."""

import gc
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from artart import ArtError
from artart.config.build import as_dict, build, overrides
from artart.config.cli import command, compose_config
from artart.config.schema import check
from artart.io.terminal import only_errors, relative_to_cwd
from artart.train import prepare, run_training
from artart.training import run_files

log = logging.getLogger(__name__)


@command("sweep")
def run(cfg: DictConfig) -> None:
    """Check the ranges, claim the folder, run the trials that are left, report."""
    if find_spec("optuna") is None:
        raise ArtError("sweep: needs optuna: pip install 'artart[sweep]'")
    config = check(cfg)

    from artart.config.space import parameters
    from artart.evaluation.runs import read_run
    from artart.training import sweep_folder
    from artart.training.optuna_sweep import Study

    sweep = build(config, "sweep")
    begun, is_continued = sweep_folder.choose(sweep.dir, overrides(), config["sweep"])
    sweep = replace(sweep, **begun.settings)
    shared = as_dict(compose_config("train", begun.words))
    drawn = parameters(begun.space, shared, begun.words)
    if not is_continued:
        _check(begun.words, [one.word(value) for one in drawn for value in one.choices or (one.low, one.high)])
    folder = sweep_folder.claim(sweep.dir, begun)
    study = Study(sweep, drawn, begun.words, shared["monitor"], shared["mode"], folder)
    if sweep_folder.WORKER in os.environ:
        study.run(_train)
        return
    log.info("sweep folder: %s; %d of %d trials have ended", relative_to_cwd(folder), study.num_ended, sweep.num_trials)
    is_whole = True
    try:
        if sweep.num_processes == 1:
            study.run(_train)
        else:
            is_whole = sweep_folder.run_workers(sweep.num_processes, folder)
    finally:
        best = study.report()
    if best:
        log.info("best: %s\n  %s", relative_to_cwd(best), read_run(best).command)
    if not best or not (is_whole or study.num_ended >= sweep.num_trials):
        raise SystemExit(1)


def _check(shared: Sequence[str], drawn: Sequence[str]) -> None:
    """Raises ArtError if a run cannot have the settings that trials share, or one of those that are drawn with them."""
    for words in (shared, *([*shared, word] for word in drawn)):
        try:
            with only_errors():
                prepare(compose_config("train", words), words)
        except ArtError as error:
            raise ArtError(str(error) if words == shared else f"sweep.space: {error}") from None


def _train(words: list[str], folder: Path, should_prune: Any) -> None:
    """Train the run of a trial, from where it was interrupted."""
    from artart.training.callbacks.stopping import Pruning

    try:
        with only_errors():
            cfg = compose_config("train", [*words, f"run_dir={folder}", "resume=auto"])
            run_training(cfg, words, [Pruning(cfg.monitor, should_prune)])
    finally:
        run_files.close_log()
        gc.collect()  # trainer, module and callbacks form reference cycles


if __name__ == "__main__":
    run()
