"""The notebooks run from the first to the last cell and draw what they say, on tiny runs.

They are stored with what they printed and drew with the zoo's weights.
"""

import base64
import io
import os

import nbformat
import numpy as np
import pytest
from PIL import Image

from experiments import run_notebooks
from tests.tiny import ROOT
from v2v_jax import zoo

# Name → the configuration of the tiny run that it is tested with, its weights in the zoo, how many
# pictures it draws.
NOTEBOOKS = {
    "segmentation": ("seg", "people", 2),
    "flow": ("flow", "flow", 2),
    "colouring": ("color", "color", 1),
}
# Runs by configuration to use instead of tiny ones, such as V2V_NOTEBOOK_RUN_SEG=runs/demo.
_GIVEN = "V2V_NOTEBOOK_RUN_{}"

pytestmark = pytest.mark.usefixtures("compilation_cache")


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    found = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_every_notebook_is_tested():
    found = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert found == NOTEBOOKS.keys()
    for name in found:
        nbformat.validate(read(name))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_stored_with_their_outputs(name):
    """From first to last, without an error."""
    _, weights, count = NOTEBOOKS[name]
    notebook = read(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert weights in [entry.name for entry in zoo.read_index()]
    assert f'"{weights}"' in code[0].source and f"--card={weights}" in notebook.cells[0].source
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(pictures(notebook)) == count
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["segmentation", *(pytest.param(n, marks=pytest.mark.slow) for n in ("flow", "colouring"))],
)
def test_notebook(trained, monkeypatch, compilation_cache, name):
    config, _, count = NOTEBOOKS[name]
    run = os.environ.get(_GIVEN.format(config.upper())) or trained(config).workdir
    monkeypatch.setenv("V2V_RUN", str(os.path.abspath(run)))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", compilation_cache)
    notebook = run_notebooks.run(ROOT / "notebooks" / f"{name}.ipynb")  # a cell's error is raised
    drawn = pictures(notebook)
    assert len(drawn) == count
    for pixels in drawn:
        assert pixels.shape[2] == 3 and min(pixels.shape[:2]) >= 90 and pixels.std() > 10
    if folder := os.environ.get("V2V_NOTEBOOK_OUTPUT"):  # to look at
        nbformat.write(notebook, os.path.join(folder, f"{name}.ipynb"))
