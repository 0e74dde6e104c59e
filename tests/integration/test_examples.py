"""What stands in examples/ runs."""

import os
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from artart.io.provenance import provenance_of

ROOT = Path(__file__).parents[2]
QUICK = ("trainer.max_epochs=1", "data.num_demo_images=40", "trainer.accelerator=cpu", "run_dir=run")

SMALLER = {  # of the notebook
    '"trainer.max_epochs=12"': ", ".join(f'"{one}"' for one in (*QUICK, "sampler.num_steps=2")),
    '"image_size=32"': '"image_size=16"',
    '"num_steps": 20': '"num_steps": 2',
}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """By processes that run elsewhere."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_network", "own_loss"])
def test_the_script_trains_and_makes_an_image(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *QUICK])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1].endswith("run/painting.png")
    with Image.open(tmp_path / "run" / "painting.png") as image:
        image.load()
        assert "trainedAlgorithmicMedia" in provenance_of(image).source or name == "own_loss"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """With less training, fewer pixels and fewer steps of the sampler."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [], "outputs are not kept"
        for words, fewer in SMALLER.items():
            cell.source = cell.source.replace(words, fewer)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    assert (tmp_path / "run" / "first.png").is_file()
    shown = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(shown) == 4
