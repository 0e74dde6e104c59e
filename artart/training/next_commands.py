"""What to do after a run: look at what it learned, and train towards images of one's own."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from artart.config.commands import arguments_of
from artart.io.terminal import pasteable
from artart.metrics.memorization import MIN_HELD_OUT
from artart.training.auto import AUTO
from artart.training.run import Run

log = logging.getLogger(__name__)


def log_next_commands(run: Run, checkpoint: Path | None) -> None:
    """Log what to do with a checkpoint of a run that has ended; None: it has none."""
    log.info("try next")
    found, ours = map(os.path.normcase, (shutil.which("python") or "", sys.executable))
    python = "python" if found == ours else pasteable(Path(sys.executable))
    for command, note in next_commands(run, checkpoint):
        log.info("  %s -m %s%s", python, command, note and f"   # {note}")


def next_commands(run: Run, checkpoint: Path | None) -> Iterator[tuple[str, str]]:
    """Modules with their arguments, as a shell reads them, and a note on each."""
    if checkpoint:
        arguments = arguments_of(run.objective.mode, run.objective.one_step)
        yield f"artart.generate checkpoint={pasteable(checkpoint)} {arguments}", ""
    yield from _trainings(run)
    enough = MIN_HELD_OUT if run.objective.mode == "sample" else 1
    if checkpoint and run.data.val_is_held_out and len(run.data.val_ids) >= enough:
        yield f"artart.evaluate checkpoint={pasteable(checkpoint)}", "how good it is"
    logs = pasteable(Path(run.cfg.run_dir))
    yield f"tensorboard.main --logdir {logs} --samples_per_plugin images=1000", "curves and grids"


def _trainings(run: Run) -> Iterator[tuple[str, str]]:
    """Trainings that lead from demo art to one's own, and from an autoencoder to images out of noise."""
    root, can_sample = run.cfg.data.root, run.objective.mode == "sample"
    if root is None:
        if not can_sample:
            yield "artart.train experiment=quickstart_diffusion", "images out of noise"
        yield f"artart.train {AUTO} data.root=FOLDER_OF_YOUR_ART", "images like your art"
    elif not can_sample:
        yield f"artart.train {AUTO} data.root={pasteable(Path(root))}", "images out of noise"
