"""Every command and every Python block of the pages can be understood: options, fields, names.

Nothing is trained here; tests/docs/test_guides_run.py runs the guides.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import pathlib
import re
from typing import Any

import pytest

import v2v_jax
from tests import markdown as pages
from tests.tiny import ROOT
from v2v_jax import zoo
from v2v_jax.cli import command_line, commands
from v2v_jax.errors import ConfigError
from v2v_jax.run import config_fields, recipes

# What guides call that is not this repository's; arguments of theirs are not looked at.
OTHERS = (
    *("git", "gcloud", "sbatch", "apt-get", "mkdir", "mount", "tensorboard"),
    *("python3", "python3.11", "python3.12"),
)
OF_THE_CHECKOUT = {f"{name}.py": name for name in ("train", "eval", "predict")}
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")
# A field of the configuration in prose: --config.optimizer.freeze=trunk.
FIELD = re.compile(r"--config\.([a-z_]+(?:\.[a-z_0-9]+)*)")
EACH_PAGE = pytest.mark.parametrize("page", sorted(pages.PAGES))


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def parse(name: str, argv: list[str], own: set[str]) -> None:
    """As the command does, and as the training that follows checks the configuration."""
    module = importlib.import_module(f"v2v_jax.cli.{name.replace('-', '_')}")
    parser = command_line.Parser(f"v2v {name}", module.__doc__)
    module.add_options(parser)
    options = parser.parse([re.sub(r"=\$\w+$", "=1", word) for word in argv])
    if getattr(options, "config", None) is not None:
        recipes.validate(options.config)
    if getattr(options, "checkpoint", None) and "/" not in options.checkpoint:
        known = [entry.name for entry in zoo.read_index()]
        assert options.checkpoint in {*known, *own} or options.checkpoint.endswith(".v2v")


def check(command: list[str], own: set[str]) -> None:
    """Raises, or fails, if a command cannot be understood; own: what its page makes."""
    program, *argv = command
    if program == "srun":
        start = next(i for i, word in enumerate(argv) if not word.startswith("-"))
        check([pathlib.PurePath(argv[start]).name, *argv[start + 1 :]], own)
    elif program == "v2v":
        if argv == ["--version"] or any(word.partition("=")[2] in own for word in argv[:2]):
            return  # a configuration that the page itself makes: it is run for real
        assert argv[0] in commands.COMMANDS
        parse(argv[0], argv[1:], own)
    elif program == "python" and argv[0] in OF_THE_CHECKOUT:
        parse(OF_THE_CHECKOUT[argv[0]], argv[1:], own)
    elif program == "python" and argv[0] == "-m":
        check_module(argv[1], argv[2:])
    elif program == "python":
        assert argv[0] in own or (ROOT / argv[0]).is_file()
    elif program == "pip":
        check_pip(argv)
    elif program == "make":
        assert re.search(rf"^{argv[0]}:", (ROOT / "Makefile").read_text(), re.M)
    else:
        assert program in OTHERS


def check_module(module: str, argv: list[str]) -> None:
    """python -m experiments.NAME --option: both exist."""
    if module == "pytest":
        for word in argv:
            assert not word.startswith("tests/") or (ROOT / word.partition("::")[0]).exists(), word
        return
    path = ROOT.joinpath(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__main__.py"
    known = sources(source)
    for word in argv:
        option = word.partition("=")[0]
        assert not option.startswith("--") or f'"{option}"' in known, f"{module} {option}"


def sources(path: pathlib.Path) -> str:
    """A module's text, with that of the modules of the repository which it imports."""
    text = path.read_text()
    modules = r"^\s*(?:from|import) ((?:experiments|benchmarks|v2v_jax)[\w.]*)"
    for name in re.findall(modules, text, re.M):
        other = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        text += other.read_text() if other.is_file() else ""
    for name in re.findall(r"^\s*from (?:experiments|benchmarks) import (.*)$", text, re.M):
        for part in re.findall(r"\w+", name):
            for folder in ("experiments", "benchmarks"):
                other = ROOT / folder / f"{part}.py"
                text += other.read_text() if other.is_file() else ""
    return text


def check_pip(argv: list[str]) -> None:
    """Extras are those of setup.cfg, and files are there."""
    extras = re.findall(r"\[(.*?)\]", " ".join(argv))
    for extra in filter(None, ",".join(extras).split(",")):
        assert extra in SETUP["options.extras_require"], extra
    if "-c" in argv:
        assert (ROOT / argv[argv.index("-c") + 1]).is_file()


@EACH_PAGE
def test_commands(page):
    own = {block.title for block in pages.blocks(page) if block.title}
    for command in pages.commands(page):
        own |= {word[len("--workdir=") :] for word in command if word.startswith("--workdir=")}
        try:
            check(command, own)
        except (ConfigError, AssertionError, StopIteration) as error:
            pytest.fail(f"{page}: {' '.join(command)}: {error}")


@EACH_PAGE
def test_fields_in_prose(page):
    known = set().union(*config_fields.FIELDS.values())
    for fields in config_fields.DATASET_FIELDS.values():
        known |= {f"data.{option}" for option in fields}
    if page == "docs/guides/own_task.md":
        known |= {"task_options.softness", "data.num_videos"}  # of its example
    for field in FIELD.findall(pages.prose(page)):
        assert field in known, field


def test_every_command_has_a_page():
    """Each command of v2v stands in some page."""
    text = " ".join(path.read_text() for path in pages.PAGES.values())
    assert [name for name in commands.COMMANDS if f"v2v {name}" not in text] == []


@pytest.mark.parametrize(
    "command",
    [
        "v2v train --config=seg --workdir=w --config.optimizer.rate=1",
        "v2v train --config=seg --workdir=w --config.batch_size=0",
        "v2v predict --checkpoint=no_such_name --video=a --output=b",
        "v2v lable --videos=a",
        "python -m experiments.table1 --tusk=flow",
        "python -m experiments.no_such",
        "pip install .[tests]",
        "make demos",
        "curl URL",
    ],
)
def test_a_wrong_command_is_noticed(command):
    with pytest.raises((ConfigError, AssertionError, FileNotFoundError)):
        check(*pages.commands_of(command), set())


# ------------------------------------------------------------------------------------------------
# Python


@EACH_PAGE
def test_python_blocks(page):
    """They compile; what they import and call is there, with the arguments that they give."""
    for block in pages.blocks(page):
        if block.language == "python":
            check_python(block.text)


def check_python(text: str) -> None:
    tree = ast.parse(text)
    compile(tree, "block", "exec")
    predictors = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("v2v_jax"):
            for alias in node.names:
                assert hasattr(importlib.import_module(node.module), alias.name), alias.name
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("v2v_jax.load("):
            predictors |= {ast.unparse(target) for target in node.targets if not is_called(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found(node, predictors)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            function = found(node.func, predictors)
            if inspect.isfunction(function):
                names = {keyword.arg for keyword in node.keywords}
                assert names <= set(inspect.signature(function).parameters), ast.unparse(node)


def is_called(node: ast.Assign) -> bool:
    """Whether it is a prediction, load(…)(video), or a part of a predictor, and none itself."""
    return not ast.unparse(node.value.func if isinstance(node.value, ast.Call) else node.value) == (
        "v2v_jax.load"
    )


def found(node: ast.Attribute, predictors: set[str]) -> Any:
    """What v2v_jax.a.b, or an attribute of a predictor, is; None for other things."""
    parts = ast.unparse(node).split(".")
    if parts[0] in predictors:
        source = inspect.getsource(v2v_jax.Predictor)
        known = hasattr(v2v_jax.Predictor, parts[1]) or f"self.{parts[1]} " in source
        assert known, f"a Predictor has no {parts[1]}"
        return None
    if parts[0] != "v2v_jax" or not all(part.isidentifier() for part in parts):
        return None
    value = v2v_jax
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(value, part):
            value = importlib.import_module(".".join(parts[:i]))
        else:
            value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    "text",
    [
        "v2v_jax.lode('flow')",
        "from v2v_jax.media.video import read_vidoe",
        "v2v_jax.write_video('a', b, speed=3)",
        "p = v2v_jax.load('flow')\np.streem(camera)",
        "for x in y",
    ],
)
def test_a_wrong_block_is_noticed(text):
    with pytest.raises((AssertionError, ImportError, SyntaxError)):
        check_python(text)
