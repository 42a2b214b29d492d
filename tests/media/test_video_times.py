"""Times of frames: what a file says is what is written, and sound stays with its pictures."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.networks import stub
from tests.teachers import MINE
from v2v_jax.datasets.readers.video_folder import VideoFolder
from v2v_jax.inference.output_files import parse_output, predict_to_files
from v2v_jax.inference.predictor import Predictor
from v2v_jax.labelling.label_maker import LabelSet, label_videos
from v2v_jax.media.clock import Clock, Shown
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.label_files import StoredLabels, label_path
from v2v_jax.media.video import VideoFile, VideoStream, read_video
from v2v_jax.system.jobs import Backend
from v2v_jax.tasks import Color

RATE = 48000
UNEVEN = [*range(0, 2000, 100), *(2000 + round(i * 1000 / 30) for i in range(30))]  # ms
BROWSER = [33 * i + i % 3 * 4 for i in range(45)]
SLIDES = [0, 700, 2500, 2540, 6000]


def write(path, ms, codec="libx264", fps=25, tone=None, options=None, container=None, late=0):
    """Frames at these times (ms), told apart by their grey; a tone in AAC or Opus, at `tone` s.

    late: seconds by which all times are late.
    """
    with av.open(str(path), "w", options=container or {}) as file:
        video = file.add_stream(codec, rate=fps, options=options or {})
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        if codec not in ("mpeg4", "mpeg2video"):  # whose unit is a frame
            video.codec_context.time_base = Fraction(1, 1000)
        sound = None
        if tone is not None:
            kind = {"libvpx": "libopus", "libvpx-vp9": "libopus", "mpeg2video": "mp2"}
            sound = file.add_stream(kind.get(codec, "aac"), rate=RATE)
        for number, time in enumerate(ms):
            grey = np.full((32, 48, 3), 40 + 37 * number % 160, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = time + 1000 * late, Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if sound is not None:
            write_tone(file, sound, (ms[-1] + 100) / 1000, tone, late)
    return path


def write_tone(file, stream, seconds, at, late):
    context = stream.codec_context
    times = np.arange(int(seconds * RATE)) / RATE
    tone = np.where((times >= at) & (times < at + 0.1), np.sin(2 * np.pi * 990 * times), 0)
    for start in range(0, len(tone), 960):
        part = np.stack([tone[start : start + 960]] * 2)
        part = part.astype(np.float32) if "flt" in context.format.name else part * 32767
        part = part if context.format.is_planar else part.T.reshape(1, -1)
        part = np.ascontiguousarray(part.astype("f4" if "flt" in context.format.name else "i2"))
        frame = av.AudioFrame.from_ndarray(part, format=context.format.name, layout="stereo")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = start + late * RATE
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def copy(tmp_path, source):
    """Predicts by a network that copies; the output's times of frames in ms, and of its tone."""
    output = parse_output(str(tmp_path / "out.mp4"), Color(residual=False))
    predictor = Predictor(stub(None), scale="native")
    predict_to_files(predictor, open_source(source), output, sound_of=source)
    with av.open(str(output.path)) as file:
        pictures = [float(frame.time) * 1000 for frame in file.decode(video=0)]
    with av.open(str(output.path)) as file:
        for frame in file.decode(audio=0) if file.streams.audio else ():
            loud = np.flatnonzero(np.abs(frame.to_ndarray()).max(0) > 0.3)
            if len(loud):
                return pictures, frame.time + loud[0] / frame.sample_rate
    return pictures, None


@pytest.mark.parametrize(
    ("name", "ms", "options"),
    [
        ("bframes.mp4", UNEVEN, {"options": {"bf": "2"}}),
        ("slides.mov", SLIDES, {"options": {"bf": "0"}}),
        ("slides.mkv", SLIDES, {"options": {"bf": "0"}}),
        ("claims_30000.mkv", BROWSER, {"fps": 30000, "options": {"bf": "0"}}),
        (
            "browser.webm",
            BROWSER,
            {"codec": "libvpx-vp9", "fps": 1000, "container": {"live": "1"}},
        ),
        ("browser_vp8.webm", BROWSER, {"codec": "libvpx", "fps": 1000, "container": {"live": "1"}}),
        ("dropped.ts", [t for t in range(0, 1800, 40) if t % 360], {"options": {"bf": "2"}}),
        ("hours.ts", UNEVEN, {"late": 36000, "options": {"bf": "0"}}),
    ],
)
def test_every_frame_keeps_its_time_and_its_sound(tmp_path, name, ms, options):
    at = ms[2 * len(ms) // 3] / 1000
    pictures, tone = copy(tmp_path, write(tmp_path / name, ms, tone=at, **options))
    expected = np.subtract(ms, ms[0])
    np.testing.assert_allclose(pictures, expected, atol=0.51)
    assert abs(tone - (at - ms[0] / 1000)) < 0.04


def test_dropped_frames_of_an_avi(tmp_path):
    """Which has no times but empty places where frames were dropped."""
    kept = [t for t in range(30) if t % 7 != 3]
    write(tmp_path / "whole.avi", range(0, 1200, 40), "mpeg4", options={"g": "1"})
    with (
        av.open(str(tmp_path / "whole.avi")) as source,
        av.open(str(tmp_path / "dropped.avi"), "w") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            if number in kept:
                packet.stream = stream
                target.mux(packet)
    pictures, _ = copy(tmp_path, tmp_path / "dropped.avi")
    np.testing.assert_allclose(pictures, [40 * t for t in kept], atol=0.51)


def test_frames_out_of_order_in_an_avi_are_even(tmp_path):
    """B-frames in AVI: the times that FFmpeg guesses are out of order."""
    write(tmp_path / "b.avi", range(0, 1000, 40), "mpeg4", options={"bf": "2"})
    pictures, _ = copy(tmp_path, tmp_path / "b.avi")
    np.testing.assert_allclose(pictures, np.arange(25) * 40, atol=0.51)
    assert VideoFile(tmp_path / "b.avi").is_even


def test_joined_broadcasts_go_on_where_their_clock_jumps_back(tmp_path):
    write(tmp_path / "a.mpg", range(0, 1000, 40), "mpeg2video", tone=0.4, late=10)
    part = (tmp_path / "a.mpg").read_bytes()
    (tmp_path / "joined.mpg").write_bytes(part + part)
    pictures, tone = copy(tmp_path, tmp_path / "joined.mpg")
    np.testing.assert_allclose(pictures, np.arange(50) * 40, atol=0.51)
    assert abs(tone - 0.4) < 0.04


def test_a_stream_without_any_times(tmp_path):
    write(tmp_path / "a.h264", range(0, 1000, 40))
    pictures, _ = copy(tmp_path, tmp_path / "a.h264")
    np.testing.assert_allclose(np.diff(pictures), 40, atol=0.51)
    assert len(pictures) == 25


@pytest.mark.parametrize(
    ("name", "ms", "options", "even"),
    [
        ("film.mkv", [round(t * 1001 / 24) for t in range(48)], {"fps": Fraction(24000, 1001)}, 1),
        ("claims_30000.mkv", range(0, 1500, 33), {"fps": 30000, "options": {"bf": "0"}}, 1),
        ("browser.webm", BROWSER, {"codec": "libvpx", "fps": 1000}, 1),
        ("uneven.mp4", UNEVEN, {}, 0),
        ("slides.mov", SLIDES, {}, 0),
    ],
)
def test_the_rate_is_true(tmp_path, name, ms, options, even):
    path = write(tmp_path / name, ms, **options)
    video = VideoFile(path)
    true = 1000 * (len(ms) - 1) / (ms[-1] - ms[0])
    assert video.fps == pytest.approx(true, rel=0.01)
    assert read_video(path)[1] == video.fps
    assert VideoStream(path).fps == pytest.approx(true, rel=0.01 if even else 0.25)  # its header's
    assert video.is_even == bool(even)
    if name == "film.mkv":
        assert video.fps == 24000 / 1001


def test_constant_rates_are_kept_exactly(tmp_path):
    ticks = np.arange(30) * 1001
    with av.open(str(tmp_path / "ntsc.mp4"), "w") as file:
        video = file.add_stream("libx264", rate=Fraction(30000, 1001))
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        for _ in ticks:
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
    copy(tmp_path, tmp_path / "ntsc.mp4")
    with av.open(str(tmp_path / "out.mp4")) as file:
        times = [Fraction(f.pts) * f.time_base for f in file.decode(video=0)]
        assert times == [Fraction(int(tick), 30000) for tick in ticks]
        assert file.streams.video[0].average_rate == Fraction(30000, 1001)


def test_a_rate_of_ones_own_replaces_the_times_and_leaves_the_sound_out(tmp_path):
    source = write(tmp_path / "in.mp4", UNEVEN, tone=1.0)
    output = parse_output(str(tmp_path / "out.mp4"), Color(residual=False))
    predictor = Predictor(stub(None), scale="native")
    predict_to_files(predictor, open_source(source), output, fps=10, sound_of=source)
    with av.open(str(output.path)) as file:
        assert not file.streams.audio
        np.testing.assert_allclose([f.time for f in file.decode(video=0)], np.arange(50) / 10)


def test_gaps_in_sound_that_is_encoded_anew_stay(tmp_path):
    """Uncompressed sound whose second half begins a second late."""
    with av.open(str(tmp_path / "in.mkv"), "w") as file:
        video = file.add_stream("libx264", rate=25, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        sound = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for _ in range(75):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        for begin, loud in ((0, False), (2, True)):
            for start in range(0, RATE, 1200):
                tone = 20000 * loud * np.sin(np.arange(1200)[None] * np.pi / 24)
                frame = av.AudioFrame.from_ndarray(tone.astype(np.int16), "s16", "mono")
                frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                frame.pts = start + begin * RATE
                file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    _, tone = copy(tmp_path, tmp_path / "in.mkv")
    assert abs(tone - 2) < 0.05


def test_clocks():
    """(stamp, length) in ticks of 10 ms → begin in ticks."""
    clock = Clock(Fraction(1, 100), Fraction(4, 100))
    given = [(5, 4), (None, None), (13, 4), (12, 4), (17, 4), (500, 4), (3, 4), (7, 4), (10**9, 4)]
    expected = [5, 9, 13, 14, 17, 500, 504, 508, 512]
    found = [clock(stamp, length) for stamp, length in given]
    assert [shown.begin * 100 for shown in found] == expected
    assert found[0] == Shown(Fraction(5, 100), Fraction(4, 100))
    assert Clock(Fraction(1, 25), Fraction(1, 25))(None) == Shown(Fraction(0), Fraction(1, 25))


def test_training_and_labelling_say_what_they_do_with_uneven_times(tmp_path, caplog):
    """And nothing where films are rounded to milliseconds."""
    for folder in ("train", "test"):
        (tmp_path / "v" / folder).mkdir(parents=True)
        write(tmp_path / "v" / folder / "film.mkv", [round(t * 1001 / 24) for t in range(20)])
    assert len(VideoFolder(tmp_path / "v", "train").videos) == 1 and caplog.records == []
    write(tmp_path / "v" / "train" / "phone.mp4", UNEVEN)
    assert len(VideoFolder(tmp_path / "v", "train").videos) == 2
    [record] = caplog.records
    assert "1 of 2 videos have frames at uneven times" in record.getMessage()
    assert record.getMessage().endswith("phone.mp4")
    caplog.clear()
    folder, labels = str(tmp_path / "v" / "train"), str(tmp_path / "labels")
    names = ["film.mkv", "phone.mp4"]
    label_videos(LabelSet(folder, names, labels, MINE, batch_size=8), Backend(threads=1))
    [record] = caplog.records
    assert "phone.mp4 has frames at uneven times; its flow is in pixels" in record.getMessage()
    assert StoredLabels(label_path(labels, "phone.mp4")).info.num_frames == len(UNEVEN)
