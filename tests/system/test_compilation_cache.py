import os
import pathlib
import subprocess
import sys

import jax
import pytest

from tests.tiny import ROOT
from v2v_jax.system import compilation_cache


@pytest.fixture
def restored():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_default_folder_is_the_users_cache(tmp_path, monkeypatch, restored):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compilation_cache.enable()
    assert folder.parent == tmp_path / "v2v_jax" / "compiled"
    assert folder.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_chosen_folder_and_off(tmp_path, monkeypatch, restored):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    assert compilation_cache.enable() == tmp_path / "mine"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    before = jax.config.jax_compilation_cache_dir
    assert compilation_cache.enable() is None
    assert jax.config.jax_compilation_cache_dir == before


def test_no_home_folder_is_a_warning(monkeypatch, restored, caplog):
    """As in containers: HOME is not set, and the system does not know the user."""
    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert compilation_cache.enable() is None
    assert "there is no home folder" in caplog.text


def test_folder_that_cannot_be_made_is_a_warning(tmp_path, monkeypatch, restored, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "below"))
    with caplog.at_level("WARNING"):
        assert compilation_cache.enable() is None
    assert "Compiled programs are not kept" in caplog.text


def test_second_run_of_a_program_finds_what_the_first_compiled(tmp_path):
    program = (
        "from v2v_jax.system import compilation_cache; compilation_cache.enable(); import jax;"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0);"
        "hits = [];"
        "jax.monitoring.register_event_listener(lambda name, **_: hits.append(name));"
        "jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8)));"
        "print(any('cache_hits' in name for name in hits))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    run = lambda: subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, text=True, check=True,
        capture_output=True,
    ).stdout.strip()  # fmt: skip
    assert run() == "False"
    assert list(pathlib.Path(tmp_path).rglob("*-cache"))
    assert run() == "True"
