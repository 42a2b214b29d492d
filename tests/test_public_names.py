"""What `import v2v_jax` offers, and that it costs nothing before it is asked for."""

import inspect
import subprocess
import sys

import pytest

import v2v_jax
from tests.tiny import ROOT

NAMES = (
    *("load", "Predictor", "brox_flow", "V2V", "C3D", "ConvUp", "Task", "VideoDataset"),
    *("register_task", "register_dataset", "train", "read_video", "write_video"),
    *("read_flow", "write_flow", "load_c3d", "read_config", "Callback"),
)


def test_the_names_are_these():
    assert sorted(v2v_jax.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(v2v_jax))
    assert (ROOT / "v2v_jax" / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        v2v_jax.lode  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there_and_described(name):
    assert inspect.getdoc(getattr(v2v_jax, name))


def test_train_is_the_loops():
    from v2v_jax.training.loop import train_and_evaluate

    assert v2v_jax.train is train_and_evaluate
    assert list(inspect.signature(v2v_jax.train).parameters) == ["config", "workdir", "callbacks"]
    options = list(inspect.signature(v2v_jax.load).parameters)
    assert options == ["path", "scale", "overlap", "full_frame", "batch_size", "dtype"]


def test_asking_for_a_task_or_a_dataset_imports_no_framework_but_jax():
    code = (
        "import sys, v2v_jax; v2v_jax.Task, v2v_jax.VideoDataset, v2v_jax.register_dataset; "
        "print(sorted({'tensorflow', 'cv2', 'flax', 'orbax'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
