"""What pages and comments refer to is in the repository: links, anchors, files, tests, names."""

from __future__ import annotations

import importlib
import posixpath
import re

import pytest

import v2v_jax
from tests import markdown as pages
from tests.tiny import ROOT
from v2v_jax.cli import commands

EACH_PAGE = pytest.mark.parametrize("page", sorted(pages.PAGES))
FOLDERS = (
    *("docs", "tests", "experiments", "benchmarks", "configs", "v2v_jax", "notebooks"),
    "examples",
)
FILE = re.compile(rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})/[\w/]+\.(?:py|md|png|jpg|ipynb|mp4|json)\b")
# `run/optimizers.py` of the package, or `test_resume.py::test_name`, in backticks.
SHORT = re.compile(r"`([a-z_0-9/]+\.py)(?:::(test_\w+))?`")
TEST = re.compile(r"`(test_\w+)`")
NAME = re.compile(r"`(v2v_jax(?:\.\w+)+)(?:\(.*?\))?`")
# Pages that are no files of the repository: notes of those who work on it.
NOTES = re.compile(r"\b(?:SPEC|DESIGN|PLAN|NOTES|BRIEF\d*|TODO)\b(?:\.md)?")
NOT_HERE = ("utils.py",)  # as CONTRIBUTING.md says
# What is made when the package is built, and names that tests mistype.
MADE = ("v2v_jax/configs/", "configs/segm.py", "configs/nope.py")


@EACH_PAGE
def test_links(page):
    for link in pages.links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        assert (ROOT / target).is_file(), link
        # The site holds docs/ alone: a page of it may not lead out.
        assert target.startswith("docs/") or not page.startswith("docs/"), link
        if anchor:
            assert anchor in pages.anchors(target), link


def test_files_that_are_named_exist():
    missing = []
    for path in pages.tracked(".py", ".md", ".cfg", ".toml", ".ipynb", ""):
        if path.suffix or path.name in ("Makefile", "run"):
            found = FILE.findall(path.read_text())
            missing += [(pages.name_of(path), name) for name in found if not exists(name)]
    assert missing == []


def exists(name: str) -> bool:
    stem = name.rpartition("/")[2].partition(".")[0]
    return (ROOT / name).exists() or name.startswith(MADE) or stem.isupper()  # configs/NAME.py


@EACH_PAGE
def test_modules_tests_and_names_exist(page):
    text = pages.PAGES[page].read_text()
    own = {block.title for block in pages.blocks(page)}
    for name, test in SHORT.findall(text):
        if name in NOT_HERE:
            continue
        rooms = ("configs", "experiments", "v2v_jax", "tests")
        found = [ROOT / name, *(path for room in rooms for path in ROOT.glob(f"{room}/**/{name}"))]
        files = [path for path in found if path.is_file()]
        assert files or name in own or name.startswith("my_"), name
        assert not test or any(f"def {test}(" in path.read_text() for path in files), test
    tests = " ".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    for test in TEST.findall(text):
        assert f"def {test}(" in tests, test
    for name in NAME.findall(text):
        module, _, attribute = name.rpartition(".")
        try:
            assert hasattr(importlib.import_module(module), attribute), name
        except ModuleNotFoundError:  # an attribute of a class
            module, _, kind = module.rpartition(".")
            assert hasattr(getattr(importlib.import_module(module), kind), attribute), name


def test_the_reference_has_every_public_name_and_every_command():
    reference = ROOT / "docs" / "reference"
    names = re.findall(r"^::: v2v_jax\.(\w+)$", (reference / "python.md").read_text(), re.M)
    assert sorted(names) == sorted(v2v_jax.__all__)
    titles = re.findall(r"^## v2v (\S+)$", (reference / "commands.md").read_text(), re.M)
    assert sorted(titles) == sorted(commands.COMMANDS)


def test_nothing_refers_to_notes_that_are_not_here():
    own = ROOT / "tests" / "docs" / "test_links.py"
    for path in pages.tracked(".py", ".md", ".cfg", ".toml"):
        if path != own:
            match = NOTES.search(path.read_text())
            assert match is None, f"{pages.name_of(path)}: {match[0]}"
