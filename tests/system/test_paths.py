"""Paths as people give them."""

import os

import numpy as np
import pytest

from v2v_jax import zoo
from v2v_jax.cli import config_options
from v2v_jax.cli.command_line import Parser
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.media.flow_files import read_flow, write_flow
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.video import read_video, write_video
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.system.paths import check_array_path, local_path


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("~/a.mp4", "/home/x/a.mp4"),
        ("file:///data/a%20b.mp4", "/data/a b.mp4"),
        ("file://localhost/data/a.mp4", "/data/a.mp4"),
        ("FILE:///a.mp4", "/a.mp4"),
        ("at 12:30.mp4", "at 12:30.mp4"),
        ("c:/a.mp4", "c:/a.mp4"),
        ("runs/~x", "runs/~x"),
    ],
)
def test_what_is_a_path(monkeypatch, given, path):
    monkeypatch.setenv("HOME", "/home/x")
    assert local_path(given) == path


def test_python_s_functions_take_them_too(monkeypatch, tmp_path):
    """As the options do: what is written to ~/x is read from there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    frames, flow = np.zeros((2, 16, 16, 3), np.uint8), np.ones((4, 5, 2), np.float32)
    for home in ("~", f"file://{tmp_path}"):
        write_video(f"{home}/a.mp4", frames)
        assert len(read_video(f"{home}/a.mp4")[0]) == 2
        write_flow(f"{home}/a.flo", flow)
        assert read_flow(f"{home}/a.flo")[1].all()
        assert zoo.resolve(f"{home}/run") == str(tmp_path / "run")
    assert sorted(os.listdir(tmp_path)) == ["a.flo", "a.mp4"]
    for write in (lambda path: write_video(path, frames), lambda path: write_flow(path, flow)):
        with pytest.raises(DataError, match="is an address"):
            write("https://example.org/a.mp4")


@pytest.mark.parametrize("name", ["back\\slash", "caf\udce9"], ids=["backslash", "code"])
def test_folders_that_arrays_cannot_be_in_are_refused_before_the_work(tmp_path, name):
    for begin in (check_array_path, lambda folder: Checkpoints(folder, {}, writable=True)):
        with pytest.raises(DataError, match="choose or rename the folder"):
            begin(tmp_path / name)
    assert not list(tmp_path.iterdir())
    check_array_path(tmp_path / "größe 日本 %5C")


ADDRESSES = ["https://example.org/a.mp4", "rtsp://camera/1", "s3://bucket/a.mp4", "file://nas/a"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_refused_with_what_to_do(address):
    for read in (local_path, open_source, read_video):
        with pytest.raises(DataError, match="is an address.*fetch it first"):
            read(address)


def test_a_folder_that_is_called_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("https:/example.org")
    assert local_path("https://example.org") == "https://example.org"


def test_options_and_fields_of_configurations(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    parser = Parser("v2v train", "")
    config_options.add_options(parser)
    config = ["--config=color:dataset=folder", "--config.data.root=file:///data/my%20videos"]
    options = parser.parse([*config, "--workdir=file:///runs/a"])
    assert options.config.data.root == "/data/my videos" and options.workdir == "/runs/a"
    with pytest.raises(ConfigError, match="is an address"):
        parser.parse([*config, "--workdir=gs://bucket/run"])
