"""Paths as people give them."""

import os

import pytest

from v2v_jax.cli import config_options
from v2v_jax.cli.command_line import Parser
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.video import read_video
from v2v_jax.system.paths import local_path


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
