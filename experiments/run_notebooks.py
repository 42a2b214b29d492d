"""Runs the notebooks with the zoo's weights and stores them with what they print and draw.

python -m experiments.run_notebooks [NAME …]
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "notebooks"


def run(path: pathlib.Path) -> nbformat.NotebookNode:
    """A notebook after its last cell; nbclient's error if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    return notebook


def _without_waste(notebook: nbformat.NotebookNode) -> None:
    """Takes out what differs from run to run, and pictures' second copies."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data.pop("image/jpeg", None)


def main(argv: list[str] | None = None) -> int:
    """Writes the notebooks back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="default: all")
    names = parser.parse_args(argv).names or sorted(p.stem for p in FOLDER.glob("*.ipynb"))
    os.environ.pop("V2V_RUN", None)
    for name in names:
        notebook = run(FOLDER / f"{name}.ipynb")
        _without_waste(notebook)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name}: done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
