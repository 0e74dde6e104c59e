"""Runs side by side: a table of what differs and what came of it, grids, curves."""

import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from PIL import Image

from artart.config.build import format_value
from artart.evaluation.runs import Curve, Run
from artart.io.page import Figure, Slides, Table, curves, html
from artart.io.terminal import printable

IGNORED = (  # beginnings of settings that do not tell groups apart: seeds, names of folders, the machine
    *("seed", "data.seed", "run_dir", "resume", "hydra", "data.cache_dir", "data.num_workers"),
    *("trainer.accelerator", "trainer.devices", "trainer.default_root_dir"),
)
MAX_WITH_GRIDS = 12  # runs
MAX_EPOCHS = 8  # of a run
MAX_SIDE = 480  # pixels of a grid
MAX_CURVES = 12
MAX_POINTS = 300
MAX_WORDS = 200  # characters of a command line in the table
MAX_LINES, MAX_COLUMNS, MAX_CELL = 60, 12, 80  # of the table of settings
COPIES = "memorization/rate"
SEEDS = (
    "Several seeds: mean ± standard deviation of trainings. The interval of a KID is of the images of one network, and "
    "does not cover what another seed of training changes."
)
SHARED = ("train/loss", "samples/kid_alexnet", "samples/kid_no_memorization", COPIES)  # besides `monitor`


class Group(NamedTuple):
    """Runs that differ in their seed alone."""

    runs: Sequence[Run]
    settings: Mapping[str, str]  # those in which groups differ
    words: str  # the part of their command line in which groups differ

    @property
    def scores(self) -> list[float]:
        return [run.score for run in self.runs if math.isfinite(run.score)]


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Runs in groups, the best first."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.startswith(IGNORED))
    differing = [key for key in keys if len({format_value(run.settings.get(key)) for run in runs}) > 1]
    by_settings = defaultdict[tuple[str, ...], list[Run]](list)
    for run in runs:
        by_settings[tuple(format_value(run.settings.get(key)) for key in differing)].append(run)
    words = [{word for word in members[0].words if not word.startswith(IGNORED)} for members in by_settings.values()]
    common = set.intersection(*words) if len(words) > 1 else set()
    groups = [
        Group(members, dict(zip(differing, values, strict=True)), " ".join(sorted(own - common)))
        for (values, members), own in zip(by_settings.items(), words, strict=True)
    ]
    sign = -1 if any(run.settings.get("mode") == "max" for run in runs) else 1
    return sorted(groups, key=lambda group: sign * fmean(group.scores) if group.scores else math.inf)


def table(groups: Sequence[Group]) -> Table:
    """A row for each group; columns that would be empty are left out."""
    score = " or ".join(sorted({run.monitor for group in groups for run in group.runs} - {""}))
    judged = ["KID of an evaluation", "near-duplicates"]
    header = ["run", "command line", score, *judged, "images", "time", "parameters", "status"]
    rows = [_row(group) for group in groups]
    kept = [k for k in range(len(header)) if any(row[k] for row in rows)]
    note = SEEDS if any(len(group.scores) > 1 for group in groups) else ""
    return Table("Runs", [header[k] for k in kept], [[row[k] for k in kept] for row in rows], note)


def _row(group: Group) -> list[str]:
    def mean(key: str) -> float:
        found = [run.result[key] for run in group.runs if isinstance(run.result.get(key), int | float)]
        return fmean(found) if found else math.nan

    names, scores = ", ".join(run.name for run in group.runs), group.scores
    score = f"{fmean(scores):.4g}" if scores else ""
    spread = f" ± {stdev(scores):.2g} ({len(scores)} seeds)" if len(scores) > 1 else ""
    kids = "; ".join(
        f"{one['value']:.4f} ({one['low']:.4f} to {one['high']:.4f})" + f" {key[4:]}" * (key != "kid_alexnet")
        for run in group.runs
        for key, one in run.evaluation.items()
        if key.startswith("kid_")
    )
    shares = [  # of near-duplicates: of an evaluation, else those that training measured last
        run.evaluation.get("memorization", {}).get("rate", {}).get("value", run.result.get("last", {}).get(COPIES))
        for run in group.runs
    ]
    copies = ", ".join(f"{share:.1%}" for share in shares if share is not None)
    images, parameters = (
        f"{value:,.0f}" if math.isfinite(value := mean(key)) else "" for key in ("images_seen", "num_parameters")
    )
    minutes = f"{value / 60:.1f} min" if math.isfinite(value := mean("seconds")) else ""
    known = [run.status.partition(":")[0] for run in group.runs]
    status = known[0] if len(set(known)) == 1 else ", ".join(known)
    words = printable(group.words)[:MAX_WORDS]
    return [names, words, score + spread, kids, copies, images, minutes, parameters, status]


def reasons(groups: Sequence[Group]) -> Table:
    """Why runs failed or cannot be read, a row for each."""
    rows = [[run.name, run.status] for group in groups for run in group.runs if ":" in run.status]
    return Table("What failed", ["run", "reason"], rows[:MAX_LINES], _left_out(len(rows), MAX_LINES))


def _settings(groups: Sequence[Group]) -> Table:
    """The settings in which groups differ, a row for each."""
    shown, keys = groups[:MAX_COLUMNS], list(groups[0].settings)
    rows = [[key, *(printable(group.settings[key])[:MAX_CELL] for group in shown)] for key in keys[:MAX_LINES]]
    header = ["setting", *(group.runs[0].name for group in shown)]
    return Table("Settings that differ", header, rows, _left_out(len(keys), MAX_LINES, "settings"))


def page(groups: Sequence[Group]) -> bytes:
    """The comparison as HTML, whose size is bounded whatever the number of runs."""
    runs = [run for group in groups for run in group.runs]
    sentences = [f"{len(runs)} runs, of which {sum(run.status == 'finished' for run in runs)} have finished."]
    if best := next((group for group in groups if group.scores), None):
        words = f", {printable(best.words)[:MAX_WORDS]}" if best.words else ""
        sentences.append(f"Best {best.runs[0].monitor}: {', '.join(run.name for run in best.runs)}{words}.")
    sections: list[Table | Figure | Slides] = [table(groups), *([failed] if (failed := reasons(groups)).rows else [])]
    with_grids = ((run.name, slides) for run in runs if (slides := grids_of(run.folder)))
    if shown := [*islice(with_grids, MAX_WITH_GRIDS)]:
        sections.append(Slides("Samples through the epochs", shown, _left_out(len(runs), len(shown))))
    sections += _curves(runs)
    if groups[0].settings:
        sections.append(_settings(groups))
    commands = [[run.name, run.command] for run in runs if run.words]
    sections.append(Table("Commands", ["run", "repeats it"], commands))
    return html("Comparison of runs", sentences, sections, {"runs": len(runs)})


def _left_out(number: int, shown: int, what: str = "runs") -> str:
    return f"The first {shown} of {number} {what}." if shown < number else ""


def grids_of(run_dir: Path) -> list[tuple[str, bytes]]:
    """Some grids of a run through its epochs, as JPEGs, with the last."""
    found = [(int(path.stem[6:]), path) for path in sorted((run_dir / "samples").glob("epoch_[0-9]*[0-9].png"))]
    step = max(1, -(-len(found) // MAX_EPOCHS))
    return [(f"epoch {epoch}", _small(path)) for epoch, path in found[::-1][::step][::-1]]


def _small(path: Path) -> bytes:
    file = io.BytesIO()
    with Image.open(path) as grid:
        image = grid.convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


def _curves(runs: Sequence[Run]) -> Iterator[Figure]:
    """The curves of the first runs that have some, those of one metric overlaid."""
    logged = [(run.name, run.curves()) for run in runs[: MAX_CURVES * 2]]
    metrics = dict.fromkeys([*(run.monitor for run in runs if run.monitor), *SHARED])
    for metric in metrics:
        lines = {name: _thinned(found[metric]) for name, found in logged if found.get(metric)}
        lines = dict([*lines.items()][:MAX_CURVES])
        if any(len(x) > 1 for x, _ in lines.values()):
            yield curves(metric, "step", metric, lines, _left_out(len(runs), len(lines)))


def _thinned(curve: Curve) -> tuple[list[float], list[float]]:
    """Steps and values, at most MAX_POINTS, each the mean of its neighbours."""
    width = -(-len(curve) // MAX_POINTS)
    parts = [curve[k : k + width] for k in range(0, len(curve), width)]
    return [fmean(step for step, _ in part) for part in parts], [fmean(value for _, value in part) for part in parts]
