"""What several test modules share: a cache of compiled programs, and trained tiny runs."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess

import filelock
import jax
import pytest
from ml_collections import ConfigDict

from tests.tiny import SMALLEST, tiny_config
from v2v_jax.system.compiler_options import OLDER_EMITTER

# Tests run little of what they compile: quick compiling matters more than quick code. Set before
# JAX makes its first program; programs that tests start inherit it. A tiny V2V's step then compiles
# in 3 s, not 36. V2V_TEST_OPTIMIZE=1 compiles as users do (make test-all).
_QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    OLDER_EMITTER,  # a third of the code to compile
    "--xla_cpu_parallel_codegen_split_count=1",  # the workers share the cores already
)
if not os.environ.get("V2V_TEST_OPTIMIZE"):
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *_QUICK)).strip()


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of this run of the tests, one for all its workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """What was compiled once is found again, by all workers and by the programs that tests start.

    Compiling is most of the tests' time. V2V_TEST_CACHE=DIR keeps the folder between runs; without
    it the workers of one run share a new one, and the user's own cache is left alone.
    """
    folder = os.environ.get("V2V_TEST_CACHE") or str(shared_folder(tmp_path_factory) / "compiled")
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        for name, value in settings.items():
            jax.config.update(name, value)
        yield folder
        for name, value in before.items():
            jax.config.update(name, value)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished tiny training run and what `train_and_evaluate` returned."""

    config: ConfigDict
    workdir: pathlib.Path
    values: dict[str, float]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, compilation_cache):
    """name of a configuration → its tiny run: trained once for all workers, a copy for each."""
    from v2v_jax.training.loop import train_and_evaluate

    runs: dict[str, Run] = {}

    def train(name: str) -> Run:
        # One of them has the schedule that the configurations have.
        model = SMALLEST
        schedule = "cosine" if name == "depth" else "step"
        options = dict(num_steps=60, eval_every=20, num_pictures=2)
        config = tiny_config(name, model, **options, optimizer__schedule=schedule)
        original = shared_folder(tmp_path_factory) / "trained" / name
        original.parent.mkdir(exist_ok=True)
        values = original.with_suffix(".json")
        with filelock.FileLock(original.with_suffix(".lock")):
            if not values.exists():
                values.write_text(json.dumps(train_and_evaluate(config, original)))
        workdir = tmp_path_factory.mktemp(name) / "run"
        shutil.copytree(original, workdir)
        return Run(config, workdir, json.loads(values.read_text()))

    def get(name: str) -> Run:
        if name not in runs:
            runs[name] = train(name)
        return runs[name]

    return get


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
