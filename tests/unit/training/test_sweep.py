import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from artart.training.sweep import SweepTable


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sweep"


@pytest.fixture
def config(folder):
    def config(number: int):
        hydra = {"mode": "MULTIRUN", "sweep": {"dir": str(folder)}, "job": {"num": number}}
        hydra["overrides"] = {"task": ["a=1", f"seed={number}"]}
        cfg = OmegaConf.create({"hydra": hydra, "mode": "max", "monitor": "val/psnr"})
        cfg.hydra.mode = RunMode.MULTIRUN
        return cfg

    return config


def run_jobs(config, scores: dict[int, float]) -> None:
    """As joblib and submitit run them: each has a SweepTable of its own."""
    for number, score in scores.items():
        table = SweepTable()
        table.on_job_start(config(number))
        table.on_job_end(config(number), JobReturn(_return_value=score, status=JobStatus.COMPLETED))


def test_jobs_of_other_processes_are_in_the_table(config, folder, capsys):
    run_jobs(config, {0: 10.0, 1: 20.0})
    SweepTable().on_multirun_end(config(0))
    header, *rows = (folder / "sweep.csv").read_text().splitlines()
    assert header == "job,settings,val/psnr,seconds,status"
    assert [row.rpartition(",")[0].rpartition(",")[0] for row in rows] == ["1,seed=1,20.0", "0,seed=0,10.0"]
    assert "20.0000" in capsys.readouterr().out


def test_a_second_sweep_in_a_folder_sets_the_table_of_the_first_aside(config, folder, caplog, monkeypatch):
    monkeypatch.setattr("atexit.register", lambda *_: None)
    SweepTable().on_multirun_start(config(0))
    assert not caplog.records
    run_jobs(config, {0: 10.0, 1: 20.0})
    first = (folder / "sweep.csv").read_bytes()
    SweepTable().on_multirun_start(config(0))
    (aside,) = folder.glob("set_aside_*")
    assert (aside / "sweep.csv").read_bytes() == first
    assert sorted(path.name for path in (aside / ".jobs").iterdir()) == ["0.json", "1.json"]
    assert aside.name in caplog.text
    run_jobs(config, {0: 5.0})
    assert len((folder / "sweep.csv").read_text().splitlines()) == 2
