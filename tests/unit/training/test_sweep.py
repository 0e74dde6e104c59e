from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from artart.training.sweep import SweepTable


def test_jobs_of_other_processes_are_in_the_table(tmp_path, capsys):
    """As joblib and submitit run them: each has a SweepTable of its own."""
    folder = tmp_path / "sweep"

    def config(number: int):
        hydra = {"mode": "MULTIRUN", "sweep": {"dir": str(folder)}, "job": {"num": number}}
        hydra["overrides"] = {"task": ["a=1", f"seed={number}"]}
        cfg = OmegaConf.create({"hydra": hydra, "mode": "max", "monitor": "val/psnr"})
        cfg.hydra.mode = RunMode.MULTIRUN
        return cfg

    for number, score in ((0, 10.0), (1, 20.0)):
        table = SweepTable()
        table.on_job_start(config(number))
        table.on_job_end(config(number), JobReturn(_return_value=score, status=JobStatus.COMPLETED))
    SweepTable().on_multirun_end(config(0))
    header, *rows = (folder / "sweep.csv").read_text().splitlines()
    assert header == "job,settings,val/psnr,seconds,status"
    assert [row.rpartition(",")[0].rpartition(",")[0] for row in rows] == ["1,seed=1,20.0", "0,seed=0,10.0"]
    assert "20.0000" in capsys.readouterr().out
