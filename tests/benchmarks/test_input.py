"""The benchmark of the feeds: its table, and all its rows on two small videos."""

import json

import numpy as np
import pytest

from benchmarks import input as feeds
from v2v_jax.media.video import write_video

MEASURED = {
    "clips_per_second": {feeds.ALONE: [100.0, 50.0, 80.0], feeds.STREAMED: [90.0, 50.0, 40.0]},
    "seconds_per_step": {"feed=tf_data, mirroring": 0.002},
    "skipped": {feeds.CACHED: "TensorFlow is not installed"},
}


def test_table():
    """Medians: of the speeds 80 and 50; of the rounds' ratios 0.9, 1 and 0.5."""
    lines = feeds.feed_table(MEASURED, 32).splitlines()
    assert lines[0] == "|  | clips/s | times | of | ms a step of 32 |"
    assert f"| {feeds.STREAMED} | 50 | 0.90 | {feeds.ALONE} | 640.0 |" in lines
    assert "| feed=tf_data, mirroring | | | | 2.00 |" in lines


def test_table_with_what_is_needed():
    lines = feeds.feed_table(MEASURED, 32, need=200).splitlines()
    assert f"| {feeds.ALONE} | 80 | 1.00 | {feeds.ALONE} | 400.0 | 0.40 |" in lines
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
def test_all_rows(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        frames = rng.integers(0, 255, (20, 48, 64, 3), np.uint8)
        write_video(tmp_path / split / "noise.mp4", frames)
    path = tmp_path / "figures.json"
    options = [f"--videos={tmp_path}", "--clips=4", "--batch=2", "--rounds=1", "--processes=2"]
    feeds.main([*options, "--need=10", f"--json={path}"])
    written = json.loads(path.read_text())
    speeds = written["clips_per_second"]
    assert {feeds.ALONE, feeds.ALONE_2, feeds.FILLED, feeds.FILLED_2} <= {*speeds}
    assert all(len(values) == 1 and values[0] > 0 for values in speeds.values())
    assert f"| {feeds.ALONE_2} | " in capsys.readouterr().out
