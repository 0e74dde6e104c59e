"""Runs side by side: a table of what differs and what came of it, grids, curves."""

import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from PIL import Image

from artart.config.build import format_value
from artart.evaluation.runs import KIDS, Curve, Run
from artart.io.page import Figure, Slides, Table, curves, html
from artart.io.terminal import printable

IGNORED = (  # beginnings of settings that do not tell groups apart: seeds, names of folders, the machine
    *("seed", "data.seed", "run_dir", "resume", "hydra", "data.cache_dir", "data.num_workers"),
    *("trainer.accelerator", "trainer.devices", "trainer.default_root_dir"),
)
OF_ART = ("data.root", "data.metadata", "data.val_fraction", "data.resize_mode", "image_size")  # what is held out
MAX_WITH_GRIDS = 12  # runs
MAX_EPOCHS = 8  # of a run
MAX_WIDTH = 480  # width in pixels of a grid
MAX_CURVES = 12
MAX_POINTS = 300
MAX_WORDS = 200  # characters of a command line in the table
MAX_LINES, MAX_COLUMNS, MAX_CELL = 60, 12, 80  # of the table of settings
COPIES = "memorization/rate"
SEEDS = (
    "Several seeds: mean ± standard deviation of trainings. The interval of a KID is of the images of one network, and "
    "does not cover what another seed of training changes."
)
SHARED = ("train/loss", *KIDS, COPIES)  # besides `monitor`


class Group(NamedTuple):
    """Runs that differ in their seed alone."""

    runs: Sequence[Run]
    settings: Mapping[str, str]  # those in which groups differ
    words: str  # the part of their command line in which groups differ

    @property
    def scores(self) -> list[float]:
        return [run.score for run in self.runs if math.isfinite(run.score)]

    def mean(self, kid: str | None) -> float:
        """The mean of one of `Run.kids`, or of the scores; NaN if there is none."""
        return _mean(run.kids.get(kid) if kid else run.score for run in self.runs)

    @property
    def has_memorized(self) -> bool:
        return any(run.has_memorized for run in self.runs)


def _finite(values: Iterable[Any]) -> list[float]:
    return [value for value in values if isinstance(value, int | float) and math.isfinite(value)]


def _mean(values: Iterable[Any]) -> float:
    """The mean of those that are finite numbers; NaN if there is none."""
    found = _finite(values)
    return fmean(found) if found else math.nan


def _spread(values: Sequence[float], form: str = ".4g") -> str:
    """The mean, of several seeds with the standard deviation; empty without a value."""
    spread = f" ± {stdev(values):.2g} ({len(values)} seeds)" if len(values) > 1 else ""
    return f"{fmean(values):{form}}{spread}" if values else ""


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Runs in groups: the best first, by a KID if monitors differ; without one the best of each monitor.

    Those that have memorized training images come after the others, whose scores are not those of copies.
    """
    readable = [run for run in runs if run.settings]
    keys = dict.fromkeys(key for run in readable for key in run.settings if not key.startswith(IGNORED))
    differing = [key for key in keys if len({format_value(run.settings.get(key)) for run in readable}) > 1]
    words = {run.folder: frozenset(word for word in run.words if not word.startswith(IGNORED)) for run in runs}
    alike = defaultdict[object, list[Run]](list)
    for run in runs:
        values = tuple(format_value(run.settings.get(key)) for key in differing)
        alike[values if run.settings else words[run.folder]].append(run)
    known = [words[first.folder] for first, *_ in alike.values() if first.settings]
    common = frozenset.intersection(*known) if len(known) > 1 else frozenset[str]()
    groups = list[Group]()
    for same in alike.values():
        named = dict(word.partition("=")[::2] for word in same[0].words)  # all that is known of a job without a folder
        own = same[0].settings or dict.fromkeys(differing, "") | named
        settings = {key: format_value(own.get(key)) for key in differing}
        groups.append(Group(same, settings, " ".join(sorted(words[same[0].folder] - common))))
    kid = common_kid(groups)

    def place(group: Group) -> tuple[bool, bool, str, float]:
        first, value = group.runs[0], group.mean(kid)
        return math.isnan(value), group.has_memorized, kid or first.monitor, value * (1 if kid else first.sign)

    return sorted(groups, key=place)


def common_kid(groups: Sequence[Group]) -> str | None:
    """The KID that all finished groups with a score have; "" if there is none, None if they have one monitor."""
    scored = [group for group in groups if group.scores]
    if len({(group.runs[0].monitor, group.runs[0].sign) for group in scored}) < 2:
        return None
    judged = [group for group in scored if any(run.status == "finished" for run in group.runs)] or scored
    names = dict.fromkeys(name for run in judged[0].runs for name in run.kids)
    return next((name for name in names if all(math.isfinite(group.mean(name)) for group in judged)), "")


def verdict(groups: Sequence[Group]) -> list[str]:
    """How many runs have finished, and which is the best."""
    runs, best, kid = [run for group in groups for run in group.runs], groups[0], common_kid(groups)
    sentences = [f"{len(runs)} runs, of which {sum(run.status == 'finished' for run in runs)} have finished."]
    if kid == "":
        sentences.append("Monitors differ, so none is the best; python -m artart.evaluate gives samples a common KID.")
    elif kid or best.scores:
        words = f", {printable(best.words)[:MAX_WORDS]}" if best.words else ""
        metric = f"KID ({kid})" if kid else best.runs[0].monitor
        sentences.append(f"Best {metric}: {', '.join(run.name for run in best.runs)}{words}.")
        if best.has_memorized:
            sentences.append("Its samples are copies of training images more often than held-out art is.")
    if differing := [key for key in OF_ART if key in best.settings]:
        sentences.append(f"Their held-out images differ ({', '.join(differing)}): so do scores of equal networks.")
    return sentences


def table(groups: Sequence[Group]) -> Table:
    """A row for each group; columns that would be empty are left out."""
    kid, judged = common_kid(groups), ["KID of an evaluation", "near-duplicates"]
    score = groups[0].runs[0].monitor if kid is None else "score"
    header = ["run", "command line", score, kid or "", *judged, "images", "time", "parameters", "status"]
    rows = [_row(group, kid) for group in groups]
    kept = [k for k in range(len(header)) if any(row[k] for row in rows)]
    note = SEEDS if any(len(group.scores) > 1 for group in groups) else ""
    return Table("Runs", [header[k] for k in kept], [[row[k] for k in kept] for row in rows], note)


def _row(group: Group, common: str | None) -> list[str]:
    names, scores = ", ".join(run.name for run in group.runs), group.scores
    score = f"{group.runs[0].monitor} " * (common is not None) + _spread(scores) if scores else ""
    score += " so far" * any("seconds" not in run.result for run in group.runs if math.isfinite(run.score))
    logged = _spread(_finite(run.kids.get(common) for run in group.runs)) if common in KIDS else ""
    judged = dict.fromkeys(key for run in group.runs for key in run.evaluation if key.startswith("kid_"))
    kids = "; ".join(_kid(key, [run.evaluation for run in group.runs if key in run.evaluation]) for key in judged)
    shares = [  # of near-duplicates: of an evaluation, else those that training measured last
        run.evaluation.get("memorization", {}).get("rate", {}).get("value", run.result.get("last", {}).get(COPIES))
        for run in group.runs
    ]
    copies = ", ".join(f"{share:.1%}" for share in shares if share is not None)
    means = [_mean(run.result.get(key) for run in group.runs) for key in ("images_seen", "seconds", "num_parameters")]
    texts = f"{means[0]:,.0f}", f"{means[1] / 60:.1f} min", f"{means[2]:,.0f}"
    cost = ["" if "nan" in text else text for text in texts]
    known = [run.status.partition(":")[0] for run in group.runs]
    status = known[0] if len(set(known)) == 1 else ", ".join(known)
    words = printable(group.words)[:MAX_WORDS]
    return [names, words, score, logged, kids, copies, *cost, status]


def _kid(key: str, evaluations: Sequence[Mapping[str, Any]]) -> str:
    """A KID of evaluations: of one network with its interval."""
    first = evaluations[0][key]
    text = _spread([one[key]["value"] for one in evaluations], ".4f")
    if len(evaluations) == 1 and first["low"] is not None:
        text += f" ({first['low']:.4f} to {first['high']:.4f})"
    return text + f" {key[4:]}" * (key != "kid_alexnet") + " of reconstructions" * ("psnr" in evaluations[0])


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
    sections: list[Table | Figure | Slides] = [table(groups), *([failed] if (failed := reasons(groups)).rows else [])]
    with_grids = ((run.name, slides) for run in runs if (slides := grids_of(run.folder)))
    if shown := [*islice(with_grids, MAX_WITH_GRIDS)]:
        sections.append(Slides("Samples through the epochs", shown, _left_out(len(runs), len(shown))))
    sections += _curves(runs)
    if groups[0].settings:
        sections.append(_settings(groups))
    commands = [[run.name, run.command] for run in runs if run.settings or run.words]
    sections.append(Table("Commands", ["run", "repeats it"], commands))
    return html("Comparison of runs", verdict(groups), sections, {"runs": len(runs)})


def _left_out(number: int, shown: int, what: str = "runs") -> str:
    return f"The first {shown} of {number} {what}." if shown < number else ""


def grids_of(run_dir: Path, width: int = MAX_WIDTH) -> list[tuple[str, bytes]]:
    """Some grids of a run through its epochs, as JPEGs of at most that width, with the last."""
    paths = (run_dir / "samples").glob("epoch_*.png")
    found = sorted((int(path.stem[6:]), path) for path in paths if path.stem[6:].isdecimal())
    step = max(1, -(-len(found) // MAX_EPOCHS))
    shown = ((f"epoch {epoch}", _small(path, width)) for epoch, path in found[::-1][::step][::-1])
    return [(name, image) for name, image in shown if image]


def _small(path: Path, width: int) -> bytes:
    """A grid, which may have more rows than columns, as a JPEG; empty if it cannot be read."""
    file = io.BytesIO()
    with suppress(Exception):  # Pillow raises nearly anything on damaged bytes
        with Image.open(path) as grid:
            image = grid.convert("RGB")
        image.thumbnail((width, 4 * width))
        image.save(file, "JPEG", quality=90, subsampling=0)  # few pixels each
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
