"""`v2v`: every command is listed, helps, spells its options alike and starts without JAX."""

import argparse
import importlib
import io
import os
import pathlib
import shlex
import subprocess
import sys

import pytest

import v2v_jax
from tests.tiny import ROOT
from v2v_jax.cli import command_line, commands, config_options, predict
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.run import recipe_files
from v2v_jax.run.recipe_files import known_recipes

EACH = pytest.mark.parametrize("name", commands.COMMANDS)


def parser_of(name: str) -> command_line.Parser:
    module = importlib.import_module(f"v2v_jax.cli.{name.replace('-', '_')}")
    parser = command_line.Parser(f"v2v {name}", module.__doc__)
    module.add_options(parser)
    return parser


def options_of(name: str) -> list[str]:
    """Those that its help shows."""
    actions = parser_of(name)._option_string_actions.items()
    shown = [option for option, action in actions if action.help != argparse.SUPPRESS]
    return [option for option in shown if option not in ("-h", "--help")]


# ------------------------------------------------------------------------------------------------
# v2v


def test_help_has_a_line_for_each_command(capsys):
    assert commands.execute(["--help"]) == 0
    printed = capsys.readouterr().out.splitlines()
    for name, text in commands.COMMANDS.items():
        assert f"  {name:<13} {text}" in printed
    assert commands.execute([]) == 2
    assert capsys.readouterr().err.splitlines() == printed


def test_every_module_of_a_command_is_listed():
    folder = pathlib.Path(commands.__file__).parent
    others = {"__init__", "command_line", "commands", "config_options", "processes"}
    modules = {file.stem for file in folder.glob("*.py")} - others
    assert modules == {name.replace("-", "_") for name in commands.COMMANDS}


def test_version(capsys):
    assert commands.execute(["--version"]) == 0
    assert capsys.readouterr().out == f"v2v_jax {v2v_jax.__version__}\n"


@pytest.mark.parametrize(
    "name, meant", [("check_data", "check-data"), ("trian", "train"), ("Eval", "eval")]
)
def test_an_unknown_command_suggests_the_nearest(capsys, name, meant):
    assert commands.execute([name, "--video=x"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"Error: Unknown command {name}; did you mean {meant}?")
    assert message.count("\n") == 1 and "Traceback" not in message


def test_python_m_is_the_same_and_help_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys\n"
        "from v2v_jax.cli import commands\n"
        "statuses = [commands.execute([name, '--help']) for name in commands.COMMANDS]\n"
        "print(statuses, {'jax', 'tensorflow', 'torch'} & set(sys.modules), file=sys.stderr)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=environment)  # fmt: skip
    assert done.stderr == f"{[0] * len(commands.COMMANDS)} set()\n"
    done = subprocess.run([sys.executable, "-m", "v2v_jax", "models", "--nope"],
                          capture_output=True, text=True, env=environment)  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("Error: Unknown option --nope")


# ------------------------------------------------------------------------------------------------
# Options


@EACH
def test_help_of_a_command(capsys, name):
    assert commands.execute([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: v2v {name} ")
    assert all(option in printed for option in options_of(name))
    assert f"v2v {name}" in printed.partition("\n\n")[2], "the description has no example"


@EACH
def test_options_have_one_spelling(capsys, name):
    """Underscores; dashes instead of them are an error that says so, and so are beginnings."""
    for option in options_of(name):
        assert "-" not in option[2:] and option == option.lower()
        wrong = [f"--{option[2:].replace('_', '-')}"] * ("_" in option)
        wrong += [option[:-1]]
        for spelled in wrong:
            with pytest.raises(ConfigError) as caught:
                raise parser_of(name).unexpected(f"{spelled}=1")
            assert f"did you mean {option}?" in str(caught.value)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["predict", "--checkpoint=x", "--video=x", "--output=x", "--batch-size=4"],
            ["Unknown option --batch-size", "did you mean --batch_size?", "v2v predict --help"],
        ),
        (["predict", "--video=x"], ["--checkpoint", "--output", "v2v predict --help"]),
        (["predict", "--checkpoint=x", "--video=", "--output=x"], ["--video", "expected a path"]),
        (["label", "--videos=x", "--output=y", "--batch-size=4"], ["did you mean --batch_size?"]),
        (["export", "--checkpoint=x", "--out=y"], ["--output"]),
        (["models", "stray"], ["'stray'"]),
        (["convert"], ["FILE"]),
        (["train", "--config=seg", "--workdir=w", "--num-processes=2"], ["--num_processes?"]),
        (["eval", "--config=seg", "--workdir=w", "--config.batch-size=2"], ["mean batch_size?"]),
    ],
)
def test_mistakes_end_in_one_sentence(capsys, arguments, words):
    assert commands.execute(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("Error: ") and message.count("\n") == 1
    for word in words:
        assert word in message


def test_choices_are_those_of_the_code_behind():
    from v2v_jax.inference.views import VIEWS

    assert predict._VIEWS == VIEWS


def test_a_home_folder_in_every_path_option(monkeypatch):
    """Shells expand `--workdir ~/x` and leave `--workdir=~/x` as it is."""
    monkeypatch.setenv("HOME", "/home/somebody")
    options = parser_of("predict").parse(
        ["--checkpoint=~/runs/seg", "--video=~/in.mp4", "--output=~/out/{name}.mp4"]
    )
    assert options.checkpoint == "/home/somebody/runs/seg"
    assert options.video == "/home/somebody/in.mp4"
    assert options.output == "/home/somebody/out/{name}.mp4"
    options = parser_of("train").parse(
        ["--config=seg", "--workdir=~/run", "--config.data.cache=~/cache", "--config.init_from=~"]
    )
    assert options.workdir == "/home/somebody/run"
    assert options.config.data.cache == "/home/somebody/cache"
    assert options.config.init_from == "/home/somebody"
    paths = {"workdir", "checkpoint", "video", "videos", "output", "root", "file", "mean"}
    for name in commands.COMMANDS:
        for action in parser_of(name)._actions:
            if action.dest in paths | {"saved_model", "folder", "data_dir", "source"}:
                assert action.type is command_line.path, (name, action.dest)


# ------------------------------------------------------------------------------------------------
# Recipes


@pytest.mark.parametrize("name", ["c3d", "color", "color_hints", "depth", "flow", "seg"])
def test_recipes_go_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_options.read(f"{name}:demo")
    assert config.to_dict() == config_options.read(f"{ROOT}/configs/{name}.py:demo").to_dict()
    assert name in known_recipes()
    assert v2v_jax.read_config(f"{name}:demo").to_dict() == config.to_dict()


def test_a_file_of_the_current_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "from ml_collections import ConfigDict\n"
    text += "def get_config(arg=''):\n    return ConfigDict({'mine': arg or 'none', 'n': 1})\n"
    (tmp_path / "own_recipe.py").write_text(text)
    assert config_options.read("own_recipe.py:x", ["--config.n=2"]).to_dict() == {
        "mine": "x",
        "n": 2,
    }
    # A process that is sent what the recipe defines finds its module.
    assert sys.modules["own_recipe"].__file__ == str(tmp_path / "own_recipe.py")
    assert str(tmp_path) in sys.path
    monkeypatch.delitem(sys.modules, "own_recipe")
    sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1", "has no function get_config"),
        ("import no_such_module_at_all", "cannot be read .*no_such_module_at_all"),
        ("def get_config(arg): return (", "cannot be read"),
        ("def get_config(arg): return {}", "returns no ConfigDict"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, text, message, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    name = f"no_recipe_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        config_options.read(str(tmp_path / f"{name}.py"))
    sys.modules.pop(name, None)


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Recipe sge does not exist; did you mean seg?.*color"):
        config_options.read("sge:demo")
    with pytest.raises(ConfigError, match="configs/segm.py does not exist; did you mean seg?"):
        config_options.read("configs/segm.py")


def test_a_recipe_may_be_an_address_of_this_machine(tmp_path):
    """As every other path may; a colon of an address begins no argument."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "mine.py").write_text("def get_config(arg): return arg\n")
    address = (folder / "mine.py").as_uri()
    assert "%20" in address
    found = [recipe_files.find_recipe(text) for text in (address, address + ":size=small,demo")]
    assert found == [(folder / "mine.py", ""), (folder / "mine.py", "size=small,demo")]
    assert recipe_files.find_recipe("seg:a=b:c")[1] == "a=b:c"
    with pytest.raises(ConfigError, match="Recipe file:///no/sge.py does not exist; did you mean"):
        recipe_files.find_recipe("file:///no/sge.py:demo")
    with pytest.raises(DataError, match="https://host/seg.py is an address, and only files of"):
        recipe_files.find_recipe("https://host/seg.py:demo")


# ------------------------------------------------------------------------------------------------
# How commands end


class Command:
    """A command that does what a test says."""

    __doc__ = "…"

    def __init__(self, work):
        self._work = work

    def add_options(self, parser):
        parser.add_argument("--size", type=int)

    def run(self, options):
        return self._work(options)


def end(work, *arguments):
    return command_line.execute(Command(work), arguments, "v2v test")


def raising(error):
    def work(options):
        raise error

    return work


def test_statuses(capsys):
    assert end(lambda options: None) == 0
    assert end(lambda options: options.size, "--size=7") == 7
    assert end(raising(ConfigError("No."))) == 1
    assert capsys.readouterr().err == "Error: No.\n"
    assert end(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
    assert end(raising(command_line.Stopped("Saved."))) == 0
    assert end(raising(command_line.Stopped("Saved.", command_line.INTERRUPTED))) == 130
    assert capsys.readouterr() == ("Saved.\nTo go on: v2v test\n" * 2, "")
    assert end(lambda options: 0, "--size=x") == 2
    assert "--size" in capsys.readouterr().err


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_a_terminal_cannot_show_stops_no_command(monkeypatch, errors):
    shown = io.BytesIO()
    stdout = io.TextIOWrapper(shown, encoding="ascii", errors=errors)
    monkeypatch.setattr("sys.stdout", stdout)
    assert end(lambda options: print("40 × 30 … caf\udce9")) == 0
    assert shown.getvalue() == b"40 \\xd7 30 \\u2026 caf\\udce9\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_without_any_terminal(tmp_path, closed):
    """What was closed is nowhere, and no file that is opened later gets its number."""
    code = (
        "import sys; from v2v_jax.cli import command_line as c; c.quieten(); "
        "f = open('made', 'w'); print(f.fileno(), file=f); print('x'); print('y', file=sys.stderr)"
    )
    program = f"exec {sys.executable} -c {shlex.quote(code)} {closed}"
    done = subprocess.run(
        ["sh", "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0
    assert int((tmp_path / "made").read_text()) > 2


def test_who_reads_no_further_gets_no_traceback(monkeypatch, capsys):
    """v2v … | head: what is printed later fails, at once or when it is flushed."""
    for text in ("x" * 100_000, "x"):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as stdout:
            monkeypatch.setattr("sys.stdout", stdout)
            assert end(lambda options, text=text: print(text)) == 141
    assert capsys.readouterr().err == ""
    with open(os.devnull, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        with pytest.raises(BrokenPipeError):  # of another pipe: a bug
            end(raising(BrokenPipeError()))


def test_modules_of_an_extra_are_named_with_it(capsys):
    missing = ModuleNotFoundError("No module named 'h5py._x'", name="h5py._x")
    assert end(raising(missing)) == 1
    message = "Error: v2v test needs h5py, which is not installed here; pip install"
    assert capsys.readouterr().err == f"{message} 'v2v_jax[train]'.\n"
    with pytest.raises(ModuleNotFoundError):
        end(raising(ModuleNotFoundError("No module named 'x'", name="x")))


def test_bugs_keep_their_traceback_and_files_that_cannot_be_used_have_none(capsys, tmp_path):
    for bug in (ZeroDivisionError(), FileNotFoundError(2, "No such file", "x"), OSError("x")):
        with pytest.raises(type(bug)):
            end(raising(bug))
    long = tmp_path / ("y" * 300)
    assert end(lambda options: long.write_text("")) == 1
    message = capsys.readouterr().err
    remedy = "choose a shorter name"
    assert message == f"Error: {long} cannot be used (File name too long); {remedy}.\n"
    assert end(raising(OSError(28, "No space left on device", "x"))) == 1
    assert "Make room" in capsys.readouterr().err
