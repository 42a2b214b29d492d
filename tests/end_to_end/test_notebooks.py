"""The notebooks run from the first to the last cell and draw what they say, on tiny runs."""

import base64
import io
import os

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from tests.tiny import ROOT

NOTEBOOKS = {"segmentation": "seg", "flow": "flow", "colouring": "color"}
# Runs by configuration to use instead of tiny ones, such as V2V_NOTEBOOK_RUN_SEG=runs/demo.
_GIVEN = "V2V_NOTEBOOK_RUN_{}"

pytestmark = pytest.mark.usefixtures("compilation_cache")


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_tested_and_stored_without_outputs():
    found = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert found == NOTEBOOKS.keys()
    for name in found:
        notebook = read(name)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code)
        assert "python train.py --config=configs/" in notebook.cells[0].source


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["segmentation", *(pytest.param(n, marks=pytest.mark.slow) for n in ("flow", "colouring"))],
)
def test_notebook(trained, monkeypatch, compilation_cache, name):
    config = NOTEBOOKS[name]
    run = os.environ.get(_GIVEN.format(config.upper())) or trained(config).workdir
    monkeypatch.setenv("V2V_RUN", str(os.path.abspath(run)))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", compilation_cache)
    notebook = read(name)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3",
        resources={"metadata": {"path": str(ROOT / "notebooks")}},
    )  # fmt: skip
    client.execute()  # an exception in a cell is raised here, with its traceback
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == {"segmentation": 2, "flow": 2, "colouring": 1}[name]
    for picture in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
        assert pixels.shape[2] == 3 and min(pixels.shape[:2]) >= 90 and pixels.std() > 10
    if folder := os.environ.get("V2V_NOTEBOOK_OUTPUT"):  # to look at
        nbformat.write(notebook, os.path.join(folder, f"{name}.ipynb"))
