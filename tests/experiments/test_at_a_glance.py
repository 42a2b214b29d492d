"""The zoo's networks on one video: both files, a column for each network that there is."""

import numpy as np
import pytest
from PIL import Image

from experiments import at_a_glance
from tests import zoo_files
from v2v_jax.inference.network import from_checkpoint
from v2v_jax.media.video import read_video
from v2v_jax.media.video_writer import write_video
from v2v_jax.zoo import index

pytestmark = pytest.mark.usefixtures("compilation_cache")


def test_the_video_that_ships():
    """Three seconds at 24 frames a second; its attribution lies beside it."""
    frames, fps = read_video(at_a_glance.VIDEO)
    assert frames.shape == (72, 180, 320, 3) and fps == 24
    assert at_a_glance.VIDEO.stat().st_size <= 400_000
    text = (at_a_glance.VIDEO.parent / "README.md").read_text()
    for word in (at_a_glance.VIDEO.name, "DAVIS 2016", "Perazzi", "CC BY 4.0"):
        assert word in text


def test_both_files(trained, tmp_path, monkeypatch, capsys):
    networks = {"people": "seg", "color": "color"}
    entries = [
        zoo_files.entry(name, from_checkpoint(trained(config).workdir), tmp_path)
        for name, config in networks.items()
    ]
    zoo_files.write_index(tmp_path, *entries)
    monkeypatch.setattr(index, "FOLDER", tmp_path)
    frames, fps = read_video(at_a_glance.VIDEO)
    write_video(tmp_path / "short.mp4", frames[:16], fps)
    options = [f"--video={tmp_path / 'short.mp4'}", "--models=people,color,depth"]
    assert at_a_glance.main([f"--output={tmp_path / 'out'}", *options]) == 0
    assert "people, color on 16 frames" in capsys.readouterr().out
    movie, fps = read_video(tmp_path / "out" / "at_a_glance.mp4")
    assert len(movie) == 16 and fps == 24
    # Two rows: the video, people, grey; colours.
    assert movie.shape[1] > 2 * 180 and 3 * 320 < movie.shape[2] < 4 * 320
    # Below them, in every frame the same: the colours of the classes.
    legend = movie[:, -24:].astype(int)
    assert np.abs(legend - legend[:1]).mean() < 2 and np.ptp(legend[0]) > 150
    assert (movie[:, -2:] > 240).all()
    picture = np.asarray(Image.open(tmp_path / "out" / "at_a_glance.png"))
    # Of each row two moments, and the classes' colours.
    assert 3 * 320 < picture.shape[1] < 4 * 320 and picture.shape[0] > 4 * 180
    assert picture.std() > 10
    assert at_a_glance.main([f"--output={tmp_path}", f"--video={tmp_path / 'none.mp4'}"]) == 1
    assert "none.mp4" in capsys.readouterr().err


def test_without_weights(tmp_path, monkeypatch, capsys):
    zoo_files.write_index(tmp_path)
    monkeypatch.setattr(index, "FOLDER", tmp_path)
    assert at_a_glance.main([f"--output={tmp_path / 'out'}"]) == 0
    assert "No weights ship" in capsys.readouterr().out and not (tmp_path / "out").exists()
