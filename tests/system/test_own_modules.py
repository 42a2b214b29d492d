"""A module of one's own that is loaded twice: as the program that was started, and by its name."""

import runpy
import sys

import pytest

from v2v_jax.datasets import DATASETS, register_dataset
from v2v_jax.errors import ConfigError
from v2v_jax.system.own_modules import origin
from v2v_jax.tasks import TASKS, record, register_task

MINE = """
import v2v_jax

@v2v_jax.register_task
class Mine(v2v_jax.Task):
    name, fields, num_outputs = "mine", ("video",), 1
    def target(self, fields): ...

def open_mine(options, split, frame_size): ...

v2v_jax.register_dataset("mine", open_mine, options=dict(module=__name__))
at_first = v2v_jax.tasks.record(Mine(), {})["task_module"]
if __name__ == "__main__":
    import own_package.others
"""
OTHERS = "from own_package.mine import Mine\n"
RIVAL = MINE.replace("open_mine", "open_other").replace("Mine", "Other")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with `mine`, `others`, which imports it, and `rival`, with the same names."""
    folder = tmp_path / "own_package"
    folder.mkdir()
    for name, code in {"__init__": "", "mine": MINE, "others": OTHERS, "rival": RIVAL}.items():
        (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    DATASETS.pop("mine", None)
    TASKS.pop("mine", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_package"]:
        del sys.modules[name]


def run_file(package):
    return runpy.run_path(str(package / "mine.py"), run_name="__main__")


def run_module(package):
    return runpy.run_module("own_package.mine", run_name="__main__", alter_sys=True)


@pytest.mark.parametrize(
    ("run", "module"), [(run_file, "mine.py"), (run_module, "own_package.mine")]
)
def test_a_program_that_others_import_registers_once(package, run, module):
    assert run(package)["at_first"] == module
    mine = sys.modules["own_package.mine"]
    assert TASKS["mine"] is mine.Mine and DATASETS["mine"].open is mine.open_mine
    assert DATASETS["mine"].options["module"] == "own_package.mine"
    assert record(mine.Mine(), {})["task_module"] == "own_package.mine"


@pytest.mark.parametrize("run", [run_file, run_module])
def test_another_file_or_name_is_refused(package, run):
    run(package)
    with pytest.raises(ConfigError, match="task 'mine' of own_package.rival:Other cannot be"):
        runpy.run_module("own_package.rival", alter_sys=True)
    same_name = RIVAL.replace("open_other", "open_mine").replace("Other", "Mine")
    (package / "rival.py").write_text(same_name.replace("@v2v_jax.register_task", ""))
    with pytest.raises(ConfigError, match="of own_package.rival:open_mine .* own_package.mine:"):
        runpy.run_module("own_package.rival", alter_sys=True)


def test_functions_without_a_name_of_their_own_are_not_taken_for_one_another(package):
    class Opens:
        def __call__(self, options, split, frame_size): ...

    register_dataset("mine", Opens())
    with pytest.raises(ConfigError, match="'mine' of .*Opens object.* cannot be registered"):
        register_dataset("mine", Opens())
    assert origin(Opens) == f"{__name__}:{Opens.__qualname__}"
    with pytest.raises(ConfigError, match="'flow'"):
        register_task(type("Flow", (TASKS["flow"],), {}))
