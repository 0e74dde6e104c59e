"""python -m artart.sweep: search for settings of artart.train by trials, each of which is a run."""

import gc
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from artart import ArtError
from artart.config.build import as_dict, build, overrides
from artart.config.cli import command, compose_config
from artart.config.schema import check
from artart.io.terminal import only_errors, relative_to_cwd
from artart.train import prepare, run_training
from artart.training import run_files

if TYPE_CHECKING:
    from artart.training.optuna_sweep import Objective, ShouldPrune

log = logging.getLogger(__name__)


@command("sweep")
def run(cfg: DictConfig) -> None:
    """Check the ranges, claim the folder, run the trials that are left, report."""
    if find_spec("optuna") is None:
        raise ArtError("sweep: needs optuna: pip install 'artart[sweep]'")
    config = check(cfg)

    from artart.config.space import parameters
    from artart.evaluation.runs import read_run
    from artart.training.optuna_sweep import Objective, Study
    from artart.training.sweep_folder import choose, claim, is_worker, run_workers

    sweep = build(config, "sweep")
    begun, is_continued = choose(sweep.dir, overrides(), sweep.space)
    shared = as_dict(compose_config("train", begun.words))
    drawn = parameters(begun.space, shared, begun.words)
    objective = Objective(drawn, begun.words, shared["monitor"], shared["mode"])
    if not is_continued:
        _check_trials(objective)
    study = Study(sweep, objective, folder := claim(sweep.dir, begun))
    if is_worker():
        study.run(_train)
        return
    log.info("sweep folder: %s; %d of %d trials have ended", relative_to_cwd(folder), study.num_ended, sweep.num_trials)
    try:
        if sweep.num_processes == 1:
            study.run(_train)
        else:
            run_workers(sweep.num_processes, folder)
    finally:
        best = study.report()
    if not best:
        raise SystemExit(1)
    log.info("best: %s\n  %s", relative_to_cwd(best), read_run(best).command)


def _check_trials(objective: "Objective") -> None:
    """Raises ArtError if a run cannot have the settings that trials share, or one of the ends of a range with them."""
    drawn = [parameter.word(value) for parameter in objective.parameters for value in parameter.extremes()]
    for words in (objective.words, *([*objective.words, word] for word in drawn)):
        with only_errors():
            prepare(compose_config("train", words), words)


def _train(words: list[str], folder: Path, should_prune: "ShouldPrune") -> None:
    """Train a trial's run, from where it has been interrupted."""
    from artart.training.callbacks.pruning import Pruning

    with only_errors():
        try:
            cfg = compose_config("train", [*words, f"run_dir={folder}", "resume=auto"])
            run_training(cfg, words, [Pruning(cfg.monitor, should_prune)])
        finally:
            run_files.close_log()
            gc.collect()  # trainer, module and callbacks form reference cycles


if __name__ == "__main__":
    run()
