"""What stands in examples/ runs."""

import json
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
@pytest.mark.parametrize(
    ("name", "source"),
    [("own_network", "trainedAlgorithmicMedia"), ("own_loss", "compositeWithTrainedAlgorithmicMedia")],
)
def test_the_script_trains_and_makes_an_image(name, source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *QUICK])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1].endswith("run/painting.png")
    with Image.open(tmp_path / "run" / "painting.png") as image:
        image.load()
        assert provenance_of(image).source == source


def run_cells(sources: list[str], result: Path) -> None:
    """As in a notebook; the types of what it shows are written into a file."""
    import matplotlib
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from matplotlib_inline.backend_inline import configure_inline_support

    matplotlib.interactive(True)
    matplotlib.use(backend := "module://matplotlib_inline.backend_inline")
    shell = InteractiveShell.instance()
    configure_inline_support(shell, backend)
    shown = []
    for source in sources:
        with capture_output() as captured:
            ran = shell.run_cell(source)
        ran.raise_error()
        shown += [[*output.data] for output in captured.outputs]
    result.write_text(json.dumps(shown))


@pytest.mark.slow
def test_the_notebook_runs(forking, tmp_path):
    """With less training, fewer pixels and fewer steps of the sampler."""
    import nbformat

    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        assert cell.outputs == [], "outputs are not kept"
        for words, fewer in SMALLER.items():
            cell.source = cell.source.replace(words, fewer)
    sources, result = [cell.source for cell in cells], tmp_path / "shown.json"
    process = forking.start(run_cells, sources, result, output=tmp_path / "output", folder=tmp_path)
    assert process.wait() == 0, (tmp_path / "output").read_text()
    assert (tmp_path / "run" / "first.png").is_file()
    assert ["image/png" in types for types in json.loads(result.read_text())].count(True) == 4
