"""MP4s of predictions: the legend below the picture, and one scale of colours for all frames."""

import re

import av
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from tests.networks import noise, stub
from tests.videos import smooth, sound_seconds, with_sound
from v2v_jax.drawing.legends import strip
from v2v_jax.errors import ConfigError
from v2v_jax.inference.output_files import parse_output, predict_to_files
from v2v_jax.inference.predictor import Chunk, Predictor
from v2v_jax.inference.views import VIEWS, Drawing, other_moments, parse_color_scale, thinned
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.video import read_video, write_video
from v2v_jax.tasks import Color, Depth, Flow, Segmentation, Task


class Speed(Task):
    """A task of a user's own: it has all defaults."""

    name, fields, num_outputs = "speed", ("video",), 1


CLASSES = Segmentation([f"class {i}" for i in range(8)])
PEOPLE = Segmentation(["background", "person"])
RESULTS = {
    "people": (PEOPLE, lambda v: (v[..., 0] % 2).astype(np.uint8)),
    "segmentation": (CLASSES, lambda v: (v[..., 0] % 8).astype(np.uint8)),
    "flow": (Flow(), lambda v: v[..., :2] / 20.0 - 5.0),
    "depth": (Depth(), lambda v: 1.0 + v[..., 0]),
    "color": (Color(residual=False), lambda v: v),
}


@pytest.mark.parametrize("size", [(80, 96), (81, 97)])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", RESULTS)
def test_the_legend_is_outside_of_the_picture(name, view, size):
    task, results = RESULTS[name]
    frames = noise(3, *size, 3)
    chunk = Chunk(frames, results(frames))
    plain = Drawing(task, view).draw(chunk)
    drawing = Drawing(task, view, legend=True)
    drawn = drawing.draw(chunk)
    h, w = plain.shape[1:3]
    np.testing.assert_array_equal(drawn[:, :h], plain)
    if name == "color":  # it has nothing to say
        assert drawn.shape == plain.shape
        return
    assert drawn.shape[2] == w and drawn.shape[1] % 2 == 0
    below = drawn[:, h + h % 2 :]
    scale = task.drawing_scale(chunk.values)
    legends = task.legends if view == "plain" else task.overlay_legends
    np.testing.assert_array_equal(below[0], strip(legends(*scale), (h, w)))
    assert (below == below[0]).all()
    np.testing.assert_array_equal(drawing.draw(chunk), drawn)


def predict(predictor, video, path, **options):
    output = parse_output(str(path), predictor.network.task)
    predict_to_files(predictor, open_source(video), output, **options)
    return read_video(path)[0].astype(int)


def stamps(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sorted(float(p.pts * p.time_base) for p in container.demux(stream) if p.size)


def test_the_video_proper_stays_as_it_is(tmp_path):
    """Size, times, sound and pictures, but for what the encoder makes of them."""
    with_sound(tmp_path / "in.mp4", smooth(11, 82, 96))
    apply = lambda p, v: v.astype(jnp.float32)[..., :2] * 0.02
    predictor = Predictor(stub(apply, Flow()), scale="native")
    options = dict(sound_of=tmp_path / "in.mp4")
    without = predict(predictor, tmp_path / "in.mp4", tmp_path / "no.mp4", legend=False, **options)
    with_one = predict(predictor, tmp_path / "in.mp4", tmp_path / "yes.mp4", **options)
    assert without.shape[1:3] == (82, 96) and with_one.shape[2] == 96
    assert with_one.shape[1] > 82 + 20 and with_one.shape[1] % 2 == 0
    assert np.abs(with_one[:, :82] - without).mean() < 2
    assert (with_one[:, 84:].min(axis=(1, 2, 3)) < 100).all()  # text in every frame
    assert stamps(tmp_path / "yes.mp4") == stamps(tmp_path / "no.mp4")
    assert sound_seconds(tmp_path / "yes.mp4") == sound_seconds(tmp_path / "no.mp4") > 1


def test_a_background_leaves_the_video_as_it_is():
    frames = np.full((2, 80, 96, 3), 40, np.uint8)
    labels = np.zeros((2, 80, 96), np.uint8)
    labels[:, :40] = 1
    drawn = Drawing(PEOPLE, "overlay").draw(Chunk(frames, labels))
    assert (drawn[:, 40:] == 40).all() and (drawn[:, :40] == (148, 125, 20)).all()
    both = Drawing(PEOPLE, "side_by_side").draw(Chunk(frames, labels))
    np.testing.assert_array_equal(both[:, :, -96:], drawn)
    assert (Drawing(PEOPLE, "plain").draw(Chunk(frames, labels))[:, 40:] == 0).all()


# ------------------------------------------------------------------------------------------------
# One scale


def moving(speeds):
    """(T,24,32,3) uint8; a stub's flow is its red, in pixels a frame."""
    video = np.zeros((len(speeds), 24, 32, 3), np.uint8)
    video[..., 0] = np.asarray(speeds, np.uint8)[:, None, None]
    return video


FLOW = Predictor(
    stub(lambda p, v: jnp.stack([v[..., 0], v[..., 0] * 0], -1).astype(jnp.float32), Flow()),
    scale="native",
)


def scale_of(source):
    """What the video is drawn on, chunk by chunk."""
    drawing = Drawing(FLOW.network.task, "plain", elsewhere=lambda: other_moments(FLOW, source))
    scales = set()
    for chunk in FLOW.chunks(source):
        drawing.draw(chunk)
        scales.add(drawing._scale)
    (scale,) = scales  # the same for all chunks
    return scale


def test_the_scale_is_of_the_whole_video_where_that_can_be_read_again(tmp_path):
    """It begins at rest: its beginning alone would draw all that follows as too fast."""
    video = moving([0] * 40 + [20] * 40)
    assert scale_of(open_source(video)) == pytest.approx((20.0,))
    write_video(tmp_path / "in.mp4", video)
    (speed,) = scale_of(open_source(tmp_path / "in.mp4"))
    assert speed == pytest.approx(20, abs=3)
    assert scale_of(open_source(iter(video))) == (1.0,)  # a stream: its beginning is all there is


def test_equal_motion_has_equal_colours_in_all_frames():
    speeds = [3] * 10 + [12] * 10 + [3] * 10 + [30] * 10 + [3] * 10
    source = open_source(moving(speeds))
    drawing = Drawing(FLOW.network.task, "plain", elsewhere=lambda: other_moments(FLOW, source))
    drawn = np.concatenate([drawing.draw(chunk) for chunk in FLOW.chunks(source)])
    middle = drawn[:, 12, 16]
    for speed in (3, 12, 30):
        # Where windows blend two speeds the colour is between: look at frames away from a change.
        same = [i for i in range(2, 48) if set(speeds[i - 2 : i + 3]) == {speed}]
        assert (middle[same] == middle[same[0]]).all(axis=-1).all()


def test_two_videos_can_have_one_scale():
    """Full colour at 8 px a frame, whatever else is in the video: half of it is half as strong."""
    shown = []
    for others in (1, 100):
        drawing = Drawing(FLOW.network.task, "plain", color_scale=(8.0,), elsewhere=not_called)
        values = np.zeros((1, 2, 2, 2), np.float32)
        values[..., 0] = [[[8.0, 4.0], [others, others]]]
        shown.append(drawing.draw(Chunk(np.zeros((1, 2, 2, 3), np.uint8), values))[0, 0].tolist())
        assert "8 px/frame" in drawing.legends()[0].text
    assert shown == [[[255, 0, 0], [255, 127, 127]]] * 2


def not_called():
    raise AssertionError("nothing of the video decides on a scale that is given")


@pytest.mark.parametrize(
    ("task", "text", "found"),
    [(Flow(), "5", (5.0,)), (Depth(), "0.5,80", (0.5, 80.0)), (Speed(), "-1,1e3", (-1.0, 1000.0))],
)
def test_a_scale_as_it_is_written(task, text, found):
    assert parse_color_scale(text, task) == found
    values = np.zeros((1, 2, 2, 2)) if task.name == "flow" else np.ones((1, 2, 2))
    assert task.draw(values, *found).shape == (1, 2, 2, 3) and task.legends(*found)
    assert len(task.drawing_scale(values)) == len(found)


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        (Flow(), "0", "the task flow takes --color_scale=SPEED: a number above 0."),
        (Flow(), "nan", "a number above 0"),
        (Flow(), "inf", "a number above 0"),
        (Flow(), "1,2", "a number above 0"),
        (Flow(), "fast", "--color_scale=fast; the task flow takes"),
        (Depth(), "3", "=NEAR,FAR: 2 numbers above 0, the smaller one first."),
        (Depth(), "80,1", "2 numbers above 0"),
        (Depth(), "0,1", "2 numbers above 0"),
        (Speed(), "1,1", "=LEAST,MOST: 2 numbers, the smaller one first."),
        (CLASSES, "1", "segmentation has no scale of colours; leave --color_scale out"),
        (Color(), "1", "color has no scale of colours"),
    ],
)
def test_a_scale_that_cannot_be_is_one_clear_sentence(task, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_color_scale(text, task)


def test_a_video_that_breaks_off_is_drawn_on_the_scale_of_its_beginning(tmp_path):
    write_video(tmp_path / "whole.mp4", noise(60, 24, 32, 3))
    assert len(list(other_moments(FLOW, open_source(tmp_path / "whole.mp4")))) >= 2
    (tmp_path / "frames").mkdir()
    PIL.Image.fromarray(noise(24, 32, 3)).save(tmp_path / "frames" / "0.png")
    for number in range(1, 20):
        (tmp_path / "frames" / f"{number}.png").write_bytes(b"damaged")
    assert list(other_moments(FLOW, open_source(tmp_path / "frames"))) == []


def test_of_large_frames_some_voxels_are_enough():
    values = np.random.default_rng(0).normal(size=(2, 720, 1280, 2)).astype(np.float32)
    few = thinned(values)
    assert few.shape[0] == 2 and 30_000 < few[0, ..., 0].size < 80_000
    assert Flow().drawing_scale(few) == pytest.approx(Flow().drawing_scale(values), rel=0.05)
    small = values[:, :24, :32]
    np.testing.assert_array_equal(thinned(small), small)
