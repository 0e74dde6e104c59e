"""Loggers of Weights & Biases and MLflow, whose run a resumed training continues."""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from artart import ArtError
from artart.io.files import atomic
from artart.io.terminal import first_line

PACKAGES: Final = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}  # by the end of a class's name; so are the extras
ID: Final = "run_id"  # a file with the id of the run


def check_packages(loggers: Mapping[str, Any]) -> None:
    """Raises ArtError if the library of a logger is missing."""
    for key, node in loggers.items():
        for name in [package for end, package in PACKAGES.items() if node and node["_target_"].endswith(end)]:
            if not (spec := find_spec(name)) or spec.origin is None:  # a folder of that name, such as wandb/
                raise ArtError(f"logger.{key}: needs the library {name}; install it: pip install 'artart[{name}]'")


def _known_id(file: Path, new: Callable[[], str]) -> str:
    """The id in a file, or a new one, which is written there."""
    if not file.is_file():
        with atomic(file) as opened:
            opened.write(new().encode())
    return file.read_text(encoding="utf-8")


class ContinuedWandbLogger(WandbLogger):
    """A WandbLogger with the id in save_dir/wandb/run_id, which ends its run, since a process may train several."""

    def __init__(
        self, save_dir: str | Path, project: str = "artart", name: str | None = None, offline: bool = False
    ) -> None:
        self.id_file = Path(save_dir, "wandb", ID)
        super().__init__(
            name or _name_of(save_dir), save_dir, project=project, offline=offline, mode="offline" if offline else None
        )
        self._wandb_init.pop("anonymous", None)  # of which W&B warns

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of wandb. Raises ArtError if it cannot begin, as without a key or a network."""
        import wandb

        if self._experiment is None:
            self._id = self._wandb_init["id"] = _known_id(self.id_file, lambda: uuid4().hex[:12])
        try:
            return super().experiment
        except wandb.Error as error:
            reason = first_line(error)
            raise ArtError(f"logger=wandb: {reason}; call wandb login, or logger.wandb.offline=true") from None

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


class ContinuedMLFlowLogger(MLFlowLogger):
    """An MLFlowLogger with the id in save_dir/mlruns/run_id; a parameter keeps its first value, as MLflow demands."""

    def __init__(
        self,
        save_dir: str | Path,
        experiment_name: str = "artart",
        run_name: str | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        folder = Path(save_dir, "mlruns")
        self.id_file = folder / ID
        tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if not tracking_uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 wants to be asked for folders
        super().__init__(experiment_name, run_name or _name_of(save_dir), tracking_uri, save_dir=str(folder))

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """MLflow's client, whose run has begun."""
        if not self._initialized and self.id_file.is_file():
            self._run_id = self.id_file.read_text(encoding="utf-8")
            super().experiment.update_run(self._run_id, "RUNNING")
        client = super().experiment
        _known_id(self.id_file, lambda: str(self._run_id))
        return client

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:  # type: ignore[override]
        known = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({key: value for key, value in params.items() if key not in known})


def _name_of(save_dir: str | Path) -> str:
    return "/".join(Path(save_dir).parts[-2:])
