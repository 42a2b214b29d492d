"""Whatever a video file is: predicted, labelled and read for training, or refused in a sentence."""

from __future__ import annotations

import av
import numpy as np
import pytest

from tests.networks import stub
from tests.odd_videos import FRAMES, VIDEOS, make, table
from tests.teachers import MINE
from tests.tiny import ROOT, SMALLEST, tiny_arguments
from v2v_jax.cli import commands
from v2v_jax.datasets.base.listing import list_videos
from v2v_jax.errors import CorruptVideoError, UserError
from v2v_jax.inference.output_files import parse_output, predict_to_files
from v2v_jax.inference.predictor import Predictor
from v2v_jax.labelling.label_maker import LabelSet, label_videos
from v2v_jax.media.folders import find_videos
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.label_files import StoredLabels, label_path
from v2v_jax.media.video import VideoFile
from v2v_jax.system.jobs import Backend
from v2v_jax.tasks import Color

GOOD = [video for video in VIDEOS if not video.refused]
BAD = [video for video in VIDEOS if video.refused]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    av.logging.set_level(None)
    path = tmp_path_factory.mktemp("odd")
    for video in VIDEOS:
        make(video, path)
    return path


@pytest.fixture(scope="module")
def predictor():
    return Predictor(stub(None))


def test_there_are_forty_of_every_container():
    assert len(VIDEOS) >= 40 and len({video.name for video in VIDEOS}) == len(VIDEOS)
    assert len({video.name.rpartition(".")[2].lower() for video in GOOD}) >= 25


def test_all_are_found_by_their_names(folder):
    assert set(find_videos(folder)) == {video.name for video in VIDEOS}


@pytest.mark.parametrize("video", VIDEOS, ids=lambda video: video.name)
def test_prediction(folder, tmp_path, predictor, video):
    output = parse_output(str(tmp_path / "out.mp4"), Color(residual=False))
    source = folder / video.name
    if video.refused:
        with pytest.raises(UserError, match=video.refused):
            predict_to_files(predictor, open_source(source), output, sound_of=source)
        return
    count = predict_to_files(predictor, open_source(source), output, sound_of=source)
    assert count == video.frames
    with av.open(str(output.path)) as file:
        times = [float(frame.time) for frame in file.decode(video=0)]
        h, w = video.size
        stream = file.streams.video[0]
        assert (stream.height, stream.width) == (h + h % 2, w + w % 2)
        assert bool(file.streams.audio) == bool(video.sound)
    ms = video.ms or [1000 * number / video.rate for number in range(FRAMES)]
    np.testing.assert_allclose(times, np.subtract(ms, ms[0]).astype(float) / 1000, atol=1.1e-3)


def test_training_reads_all_and_names_the_bad(folder):
    def open_one(index):
        file = VideoFile(folder / GOOD[index].name)
        return file, file.num_frames

    listing = list_videos("odd", [video.name for video in GOOD], open_one)
    for video, info, file in zip(GOOD, listing.videos, listing.handles, strict=True):
        assert (info.num_frames, file.size) == (video.frames, video.size), info.name
        clip = file.read(2, 18, (24, 32))
        assert clip.shape == (16, 24, 32, 3) and clip.std() > 5, info.name
    for video in BAD:
        with pytest.raises(CorruptVideoError, match=video.refused):
            VideoFile(folder / video.name)


def test_labelling(folder, tmp_path):
    names = [video.name for video in VIDEOS]
    labels = LabelSet(str(folder), names, str(tmp_path), MINE, size=(16, 24), batch_size=32)
    report = label_videos(labels, Backend(threads=2))
    assert report.status == 1 and len(report.failed) == len(BAD)
    for video in GOOD:
        assert StoredLabels(label_path(str(tmp_path), video.name)).info.num_frames == video.frames


def test_the_table_in_the_documentation():
    text = (ROOT / "docs" / "reference" / "videos.md").read_text()
    assert "\n".join(table()) in text


@pytest.mark.slow
def test_the_commands(folder, tmp_path, trained):
    """predict on the folder, training on it for a step, and label: no traceback, all good ones."""
    good = tmp_path / "videos"
    good.mkdir()
    for video in VIDEOS:
        if not video.refused or video is BAD[0]:
            (good / video.name).symlink_to(folder / video.name)
    output = str(tmp_path / "out" / "{name}.mp4")
    options = [f"--video={good}", f"--output={output}", f"--checkpoint={trained('color').workdir}"]
    assert commands.execute(["predict", *options]) == 1
    written = {path.name for path in (tmp_path / "out").iterdir()}
    names = {video.name.split(".")[0] for video in GOOD if "title" not in video.name}
    names |= {"title.avi", "title.mkv", "cut.partial"}
    assert written == {f"{name}.mp4" for name in names}
    arguments = [f"--output={tmp_path / 'labels'}", f"--teacher={MINE}", "--size=16x24"]
    assert commands.execute(["label", f"--videos={good}", *arguments]) == 1
    config = f"--config={ROOT / 'configs' / 'color.py'}:dataset=folder,{SMALLEST}"
    tiny = [a for a in tiny_arguments(num_steps=2, eval_every=2) if "data." not in a]
    train = ["train", config, f"--config.data.root={good}", f"--workdir={tmp_path / 'run'}", *tiny]
    assert not commands.execute(train)
