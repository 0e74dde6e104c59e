"""One output folder a run: found or made once, never one that belongs to another run."""

import fcntl
import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from artart import ArtError
from artart.config import in_sweep
from artart.storage import atomic
from artart.terminal import near

log = logging.getLogger(__name__)

RUNS = Path("outputs/runs")

_locks: list[TextIO] = []  # of this process's run; the system frees it however the process ends


class Plan(NamedTuple):
    """Where a run writes and where it goes on."""

    run_dir: Path | None = None  # None: a new folder
    checkpoint: Path | None = None  # None: from the start


def plan(cfg: DictConfig) -> Plan:
    """The folder and checkpoint that `run_dir` and `resume` name. Writes nothing but a lock.

    Raises:
        ArtError: if the folder belongs to a run that `resume` does not ask for, or that has come to its end.
    """
    if in_sweep() and (cfg.run_dir or cfg.get("resume")):
        raise ArtError("run_dir and resume: each job of a sweep has a new folder of its own; leave them out")
    while _locks:
        _locks.pop().close()  # of an earlier run in the same process
    planned = _find(cfg)
    goes_on_from_last = planned.checkpoint and planned.checkpoint.name == "last.ckpt"
    if planned.run_dir and goes_on_from_last and (limit := _reached(planned.run_dir, cfg)):
        asked = cfg.trainer[limit]
        raise ArtError(
            f"trainer.{limit}={asked}: the run in {planned.run_dir} has reached its end; to go on, ask for more, "
            f"such as trainer.{limit}={2 * asked}"
        )
    return planned


def _find(cfg: DictConfig) -> Plan:
    run_dir = None if cfg.run_dir is None else Path(cfg.run_dir)
    if run_dir and cfg.data.root and run_dir.resolve() == Path(cfg.data.root).resolve():
        raise ArtError(f"run_dir={run_dir}: is the folder of your pictures, which is only read; name another")
    held = sorted(run_dir.glob("checkpoints/*.ckpt")) if run_dir else []
    if cfg.get("resume") is None:  # a preparation has no such key
        if held:
            raise ArtError(
                f"run_dir={run_dir}: holds a run already ({held[0].name}); "
                + ("go on with it by resume=auto, or " if "resume" in cfg else "")
                + "name another folder"
            )
        return Plan(run_dir)
    if cfg.resume != "auto":
        checkpoint = Path(cfg.resume)
        if run_dir and held and checkpoint.resolve().parent.parent != run_dir.resolve():
            raise ArtError(
                f"run_dir={run_dir}: holds another run already ({held[0].name}); name a new folder, or leave it out to "
                f"go on in that of {checkpoint.name}"
            )
        return Plan(run_dir or checkpoint.parent.parent, checkpoint)
    if run_dir:
        last = run_dir / "checkpoints" / "last.ckpt"
        if held and not last.is_file():
            raise ArtError(
                f"run_dir={run_dir}: holds {held[0].name} but no last.ckpt; name the checkpoint to go on from: "
                "resume=FILE"
            )
        return Plan(run_dir, last if held else None)
    return _newest_unfinished(cfg)


def _newest_unfinished(cfg: DictConfig) -> Plan:
    """The newest folder under outputs/runs that asked for the same run and did not reach its end."""
    for last in sorted(RUNS.glob("*/*/checkpoints/last.ckpt"), reverse=True):
        run_dir = last.parent.parent.absolute()
        settings = run_dir / ".hydra" / "config.yaml"
        if (
            settings.is_file()
            and _comparable(OmegaConf.load(settings)) == _comparable(cfg)
            and not _reached(run_dir, cfg)
            and _lock(run_dir)
        ):
            return Plan(run_dir, last.absolute())
    log.info("resume=auto: no unfinished run with these settings under %s; a new one begins", RUNS)
    return Plan()


def _lock(run_dir: Path) -> bool:
    """Reserve a folder for this process; False if another one has it."""
    file = (run_dir / ".hydra" / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _locks.append(file)
    return True


def _comparable(cfg: Any) -> dict[Any, Any]:
    content = OmegaConf.to_container(cfg)
    assert isinstance(content, dict)
    return {key: value for key, value in content.items() if key not in ("resume", "run_dir")}


def _reached(run_dir: Path, cfg: DictConfig) -> str | None:
    """The limit of the trainer that a run has come to: max_epochs or max_steps; None while there is more to do."""
    try:
        result = json.loads((run_dir / "result.json").read_text())
        done = {"max_steps": result["steps"], "max_epochs": result["epochs"]}
    except (OSError, ValueError, KeyError):
        return None
    return next((limit for limit, number in done.items() if 0 <= cfg.trainer[limit] <= number), None)


def claim(cfg: DictConfig, planned: Plan, log_name: str = "train.log") -> Path:
    """Take the run's folder: make it if it is new, note the settings in it, send the log there. Sets cfg.run_dir.

    Raises:
        ArtError: if it cannot be written, or another process is writing there.
    """
    settings = OmegaConf.to_yaml(cfg)
    try:
        run_dir = planned.run_dir or _new_folder()
        (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
        if not _locks and not _lock(run_dir):
            raise ArtError(f"run_dir={run_dir}: another process is writing there; wait for it, or name another folder")
        _write(run_dir / ".hydra" / "config.yaml", settings)
        _write(run_dir / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(overrides()))
        enter(cfg, run_dir, log_name)
    except OSError as error:
        folder = error.filename or cfg.run_dir or RUNS
        raise ArtError(
            f"run_dir={cfg.run_dir or 'null'}: {folder}: {error.strerror}; name another folder: run_dir=DIR"
        ) from None
    if planned.checkpoint:
        log.info("resume: going on from %s", near(planned.checkpoint))
    return run_dir


def enter(cfg: DictConfig, run_dir: Path, log_name: str) -> None:
    """Write into a folder that is there: the log goes there. Sets cfg.run_dir."""
    cfg.run_dir = str(run_dir)
    handler = logging.FileHandler(run_dir / log_name, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)


def overrides() -> list[str]:
    """What was set on the command line, key=value."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _new_folder() -> Path:
    """In a sweep <sweep.dir>/<job number>, else outputs/runs/<date>/<time>, made here and by nobody else."""
    if in_sweep():
        hydra = HydraConfig.get()
        return Path(hydra.sweep.dir, str(hydra.job.num)).absolute()
    day = RUNS.absolute() / f"{datetime.now():%Y-%m-%d}"
    day.mkdir(parents=True, exist_ok=True)
    name, suffix = f"{datetime.now():%H-%M-%S}", 1
    while True:
        folder = day / (name if suffix == 1 else f"{name}-{suffix}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            suffix += 1


def _write(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text.encode())
