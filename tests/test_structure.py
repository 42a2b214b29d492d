"""The rooms of the package: imports go downwards only, files are short, tests stand alone."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

import pytest

from tests.tiny import ROOT

PACKAGE = ROOT / "v2v_jax"
# From the top floor down; a room imports from rooms below it only.
ROOMS = (
    *("cli", "training", "zoo", "inference", "evaluation", "pretrained", "run", "labelling"),
    *("tasks", "brox", "drawing", "input", "datasets", "models", "media", "system"),
)
EVERYWHERE = ("errors", "__init__")  # below all rooms


def modules(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.rglob("*.py"))


def imported(path: pathlib.Path) -> Iterator[str]:
    """The dotted names that a file imports, those inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_from_below_only(room):
    above = set(ROOMS[: ROOMS.index(room)])
    for path in modules(PACKAGE / room):
        for name in imported(path):
            first, _, rest = name.partition(".")
            if first == "v2v_jax":
                other = rest.partition(".")[0]
                assert other not in above, f"{path.relative_to(ROOT)} imports {name}"


def test_every_module_has_a_room():
    for path in modules(PACKAGE):
        assert room_of(path) in (*ROOMS, *EVERYWHERE, "__main__"), path


def test_packages_import_no_scripts():
    for path in modules(PACKAGE):
        for name in imported(path):
            assert name.partition(".")[0] not in ("experiments", "benchmarks", "tests"), path


def test_no_test_module_imports_another():
    for path in modules(ROOT / "tests"):
        for name in imported(path):
            parts = name.split(".")
            assert not (parts[0] == "tests" and any(p.startswith("test_") for p in parts)), (
                f"{path.relative_to(ROOT)} imports {name}"
            )


def test_files_do_one_thing():
    """No file over 450 lines, no name that says nothing."""
    for path in modules(PACKAGE):
        assert len(path.read_text().splitlines()) <= 450, path
        assert path.stem not in ("utils", "helpers", "common", "misc"), path
